"""The commands that debug one allocation, repair it, and sort many."""

from pathlib import Path
from typing import Annotated

import typer

from arrcoc_verify.cli.options import File, JsonOption, ModelOption, SeedOption, SkipOption, option

Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="Picture file.")]
QueryOption = Annotated[str, typer.Option("--query", metavar="Q", help="What is asked.")]
RegionOption = Annotated[
    str | None, typer.Option("--region", metavar="x,y,w,h", help="Box in pixels of the picture.")
]
LabelOption = Annotated[
    str | None, typer.Option("--label", metavar="L", help="Look for it: `face`, else by --labels.")
]
MaskOption = Annotated[
    Path | None, typer.Option("--mask", metavar="PNG", help="White where the region is.")
]
ExpectOption = Annotated[
    str | None, typer.Option("--expect", metavar="BOUND", help="Tokens per patch, as '>=256'.")
]
DonorsOption = Annotated[
    Path | None,
    typer.Option("--donors", metavar="CSV|COCO", help="Regions to compare with; default: ours."),
]

LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="DIR", help="Local open_clip model that finds other labels than faces."
    ),
]


def debug(  # noqa: PLR0913 - a door: one parameter an option
    image: Image,
    query: QueryOption,
    region: RegionOption = None,
    label: LabelOption = None,
    mask: MaskOption = None,
    expect: ExpectOption = None,
    against: Annotated[
        str | None, option("--against", "FILE|QUERY", "Another picture or query to compare with.")
    ] = None,
    donors: DonorsOption = None,
    labels: LabelsOption = None,
    model: ModelOption = None,
    seed: SeedOption = None,
    out: Annotated[File, option("--out", "DIR", "Write a page there.")] = None,
    json: JsonOption = None,
) -> None:
    """Find by experiment at which stage a region loses its tokens, and what brings them back.

    Exit code 0 when it is no failure, 1 when it is, 3 when that cannot be told.
    """
    from arrcoc_verify.cli import debugging

    asked = debugging.Asked(
        image=image, query=query, region=region, label=label, mask=mask, expect=expect,
        against=against, donors=donors, labels=labels,
    )  # fmt: skip
    given = {"model": model, "seed": seed, "out": out}
    raise typer.Exit(debugging.debug(given, asked, json=json))


def planted(
    model: ModelOption = None,
    seed: SeedOption = None,
    out: Annotated[File, option("--out", "DIR", "Keep rows there, to go on if stopped.")] = None,
    without_suite: Annotated[
        bool, typer.Option("--without-suite", help="Do not judge verdicts after repairs.")
    ] = False,
    only: Annotated[
        list[str] | None,
        option("--only", "PATTERN", "Only failures of such names, as 'asked-*'; may be repeated."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Plant failures into a sound model: is the cause named first, does a repair mend it?

    Exit code 0 when the cause comes first in 90 % and a repair mends without any verdict getting
    worse in 80 %, else 1.
    """
    from arrcoc_verify.cli import debugging

    given = {"model": model, "seed": seed, "out": out}
    raise typer.Exit(debugging.planted(given, only or (), suite=not without_suite, json=json))


def repair(  # noqa: PLR0913 - a door: one parameter an option
    image: Image,
    query: QueryOption,
    region: RegionOption = None,
    label: LabelOption = None,
    mask: MaskOption = None,
    expect: ExpectOption = None,
    donors: DonorsOption = None,
    labels: LabelsOption = None,
    model: ModelOption = None,
    seed: SeedOption = None,
    save: Annotated[File, option("--save", "FILE", "Keep the winner as safetensors.")] = None,
    apply: Annotated[
        File, option("--apply", "FILE", "Apply a saved repair, verify it, take it back.")
    ] = None,
    without_suite: Annotated[
        bool, typer.Option("--without-suite", help="Do not judge claims; takes seconds.")
    ] = False,
    out: Annotated[File, option("--out", "DIR", "Write a page there.")] = None,
    json: JsonOption = None,
) -> None:
    """Try the smallest edits that mend a case; confirm the winner on claims and other photographs.

    Exit code 0 when an edit mends it and no verdict got worse, 3 when no verdict was judged, else
    1. With --apply: 0 when the region gets what was expected.
    """
    from arrcoc_verify.cli import debugging

    asked = debugging.Asked(
        image=image, query=query, region=region, label=label, mask=mask, expect=expect,
        donors=donors, labels=labels,
    )  # fmt: skip
    given = {"model": model, "seed": seed, "out": out, "patch": save, "suite": not without_suite}
    if apply is not None:
        raise typer.Exit(debugging.apply(given, apply, asked, json=json))
    raise typer.Exit(debugging.repair(given, asked, json=json))


def triage(  # noqa: PLR0913 - a door: one parameter an option
    images: Annotated[
        Path, typer.Argument(metavar="DIR|CSV|COCO", help="Pictures with regions to look at.")
    ],
    query: Annotated[
        str, option("--query", "Q", "What is asked of each picture of a folder.")
    ] = "",
    label: Annotated[str, option("--label", "L", "What is looked for in a folder: `face`.")] = "",
    expect: ExpectOption = None,
    labels: LabelsOption = None,
    most: Annotated[int, option("--most", "N", "Debug so many of the worst.")] = 12,
    model: ModelOption = None,
    seed: SeedOption = None,
    skip_bad_rows: SkipOption = False,
    out: Annotated[File, option("--out", "DIR", "Write a page there.")] = None,
    json: JsonOption = None,
) -> None:
    """Find the worst allocations of a folder or table and sort them by cause, a case file each.

    Exit code 1 when any of them is a failure, 3 when none can be told, else 0.
    """
    from arrcoc_verify.cli import debugging

    given = {
        "model": model, "seed": seed, "out": out, "expect": expect,
        "skip_bad_rows": skip_bad_rows, "labels": labels,
    }  # fmt: skip
    raise typer.Exit(debugging.triage(given, images, query, label, most, json=json))


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(
        short_help="Say why a region gets too few tokens.",
        epilog="Example: arrcoc-verify debug photo.jpg --query 'who is that?' --label face "
        "--expect '>=256' --out why",
    )(debug)
    app.command(
        short_help="Plant failures of known cause, and debug and repair each.",
        epilog="Example: arrcoc-verify planted --json reports/debug_planted.json",
    )(planted)
    app.command(
        short_help="Mend an allocation by the smallest tested edit, or apply a saved one.",
        epilog="Example: arrcoc-verify repair photo.jpg --query 'find the fish' --region 9,9,64,64 "
        "--expect '>=200' --save fish.safetensors",
    )(repair)
    app.command(
        short_help="Sort the worst allocations of many pictures by cause.",
        epilog="Example: arrcoc-verify triage cases.csv --model router.toml --out worst",
    )(triage)
