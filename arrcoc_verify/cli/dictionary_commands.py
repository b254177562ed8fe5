"""The commands about dictionaries and their options; what they do is loaded when they run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from arrcoc_verify.errors import UsageError

File = Path | None


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


Json = Annotated[File, _option("--json", "FILE", "Write the result as JSON, too.")]


def conditioning(  # noqa: PLR0913 - a door: one parameter an option
    seed: Annotated[int, _option("--seed", "N", "Of worlds and dictionaries.")] = 0,
    seeds: Annotated[int, _option("--seeds", "N", "Dictionaries of each kind, 3 or more.")] = 3,
    steps: Annotated[int, _option("--steps", "N", "Of training.")] = 1000,
    resume: Annotated[
        File, _option("--resume", "DIR", "Where dictionaries are kept; go on with those there.")
    ] = None,
    still: Annotated[
        int | None,
        _option(
            "--still",
            "N",
            "Instead, test so many worlds that do not turn, and count those said to.",
        ),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        _option(
            "--architecture",
            "A",
            "Judge this one instead, only where it must win and must not win; repeatable.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Judge query conditioning on worlds where it must win, where it must not, and where it turns.

    Each conditional dictionary meets unconditional twins of as many parameters and as many latents,
    and one trained on shuffled queries; smugglers are planted, too. Exit code 1 when a world does
    not come out as planted.
    """
    from arrcoc_verify.cli import dictionaries

    if still is not None and (resume is not None or architecture):
        other = "--resume" if resume is not None else "--architecture"
        raise UsageError(f"wanted --still or {other}, got both: --still worlds have neither")
    if still is not None:
        raise typer.Exit(dictionaries.still(seed=seed, count=still, steps=steps, json=json))
    code = dictionaries.conditioning(
        seed=seed, seeds=seeds, steps=steps, resume=resume, json=json,
        architectures=architecture or (),
    )  # fmt: skip
    raise typer.Exit(code)


def train_dictionary(  # noqa: PLR0913 - a door: one parameter an option
    model: Annotated[str | None, _option("--model", "M", "As of audit.")] = None,
    images: Annotated[
        File, _option("--images", "DIR|CSV|COCO", "Pictures; default: those embedded.")
    ] = None,
    store: Annotated[
        File, _option("--store", "DIR", "Activations that `capture` wrote, instead of pictures.")
    ] = None,
    sites: Annotated[
        list[str] | None,
        _option("--sites", "PATTERN", "Which; default: the vectors that stages hand on."),
    ] = None,
    target: Annotated[
        str | None, _option("--target", "SITE", "Decode this site: a transcoder.")
    ] = None,
    crosscoder: Annotated[
        bool, typer.Option("--crosscoder", help="One dictionary over all the sites.")
    ] = False,
    architecture: Annotated[
        str,
        _option("--architecture", "A", "standard, gated, topk, batchtopk, jumprelu, matryoshka."),
    ] = "matryoshka",
    k: Annotated[
        list[float] | None,
        _option("--k", "K", "Active latents of a sample, 16; repeatable: all are trained."),
    ] = None,
    latents: Annotated[
        list[int] | None, _option("--latents", "N", "Size; repeatable: all are trained.")
    ] = None,
    expansion: Annotated[
        int, _option("--expansion", "X", "Latents a channel where --latents is not given.")
    ] = 8,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="The query is an offset of the thresholds.")
    ] = False,
    turns: Annotated[
        int,
        _option(
            "--turns",
            "R",
            "Rank of the query-dependent part of directions, used only where a test on held-out "
            "photographs says that they turn.",
        ),
    ] = 0,
    skip: Annotated[bool, typer.Option("--skip", help="A transcoder with a linear path.")] = False,
    steps: Annotated[int, _option("--steps", "N", "Batches.")] = 2000,
    batch_size: Annotated[
        int | None, _option("--batch-size", "N", "Samples of a batch; default 1024, or all.")
    ] = None,
    precision: Annotated[str, _option("--precision", "P", "float32 or bfloat16.")] = "float32",
    shard: Annotated[
        bool,
        typer.Option(
            "--shard", help="Processes of torchrun share out the latents instead of the samples."
        ),
    ] = False,
    seed: Annotated[int | None, _option("--seed", "N", "Of every draw.")] = None,
    device: Annotated[str | None, _option("--device", "cpu|cuda", "Where it trains.")] = None,
    out: Annotated[
        File, _option("--out", "DIR", "Dictionaries; default reports/<time>-<id>.")
    ] = None,
    resume: Annotated[
        File, _option("--resume", "DIR", "Go on with a training; other options are refused.")
    ] = None,
    json: Json = None,
) -> None:
    """Capture a model's activations and train a dictionary for each site; one folder a dictionary.

    A stopped training goes on with --resume and ends in the same bits.
    """
    from arrcoc_verify.cli import dictionaries

    given = {"model": model, "images": images, "out": out, "seed": seed, "device": device}
    options = {
        "store": store, "sites": sites, "target": target, "crosscoder": crosscoder,
        "architecture": architecture, "k": k or [16.0], "latents": latents or [],
        "expansion": expansion, "conditional": conditional, "turns": turns, "skip": skip,
        "steps": steps, "batch_size": batch_size, "precision": precision,
        "shard": shard,
    }  # fmt: skip
    raise typer.Exit(dictionaries.train(given, options, json=json, resume=resume))


def features(  # noqa: PLR0913 - a door: one parameter an option
    dictionaries: Annotated[
        Path, typer.Argument(metavar="DIR", help="Dictionaries, as train-dictionary keeps them.")
    ],
    model: Annotated[str | None, _option("--model", "M", "As of audit.")] = None,
    images: Annotated[
        File, _option("--images", "DIR|CSV|COCO", "Pictures; default: those embedded.")
    ] = None,
    count: Annotated[int, _option("--count", "N", "Latents of each site that are shown.")] = 12,
    seed: Annotated[int | None, _option("--seed", "N", "Of every draw.")] = None,
    html: Annotated[File, _option("--html", "FILE", "The page; default DIR/features.html.")] = None,
    json: Json = None,
) -> None:
    """Judge whether a model's features cause tokens, and make a page of what its latents are.

    Latents are chosen on the selection scenes and asserted on others. Exit codes as of audit.
    """
    from arrcoc_verify.cli import dictionaries as commands

    given = {"model": model, "images": images, "seed": seed}
    code = commands.features(given, dictionaries, count=count, html=html, json=json)
    raise typer.Exit(code)


def quality(  # noqa: PLR0913 - a door: one parameter an option
    dictionaries: Annotated[
        Path, typer.Argument(metavar="DIR", help="Dictionaries, as train-dictionary keeps them.")
    ],
    model: Annotated[str | None, _option("--model", "M", "As of audit.")] = None,
    images: Annotated[
        File, _option("--images", "DIR|CSV|COCO", "Pictures; default: those embedded.")
    ] = None,
    conditioning: Annotated[
        bool,
        typer.Option(
            "--conditioning",
            help="Judge whether the query helps: conditional dictionaries are trained anew beside "
            "twins without the query, or with another's.",
        ),
    ] = False,
    seeds: Annotated[
        int, _option("--seeds", "N", "Dictionaries of each kind for that, 3 or more.")
    ] = 3,
    store: Annotated[
        File, _option("--store", "DIR", "Activations for that; default: those kept beside them.")
    ] = None,
    seed: Annotated[int | None, _option("--seed", "N", "Of every draw.")] = None,
    json: Json = None,
) -> None:
    """Measure dictionaries on scenes that they were not trained on.

    Variance explained, sparsity, dead latents, and how much of the allocation survives when the
    model reads the reconstruction, against mean and zero ablation.
    """
    from arrcoc_verify.cli import dictionaries as commands

    given = {"model": model, "images": images, "seed": seed}
    code = commands.quality(
        given, dictionaries, conditioning=conditioning, seeds=seeds, store=store, json=json
    )
    raise typer.Exit(code)


def sae_world(
    k: Annotated[
        list[float] | None, _option("--k", "K", "Active latents of a sample: 4, 8, 16; repeatable.")
    ] = None,
    architecture: Annotated[
        list[str] | None,
        _option("--architecture", "A", "topk, batchtopk, matryoshka and jumprelu; repeatable."),
    ] = None,
    seed: Annotated[int, _option("--seed", "N", "Of the world and dictionaries.")] = 0,
    seeds: Annotated[int, _option("--seeds", "N", "Dictionaries of each kind, 2 or more.")] = 2,
    steps: Annotated[int, _option("--steps", "N", "Of training.")] = 1500,
    json: Json = None,
) -> None:
    """Train dictionaries on a planted world of correlated, hierarchical features, over several L0.

    Scores against the truth stand beside what logistic probes that were shown it can do.
    """
    from arrcoc_verify.cli import sae_world as command

    code = command.sae_world(
        seed=seed, seeds=seeds, steps=steps, ks=k or [4.0, 8.0, 16.0],
        architectures=architecture or ["topk", "batchtopk", "matryoshka", "jumprelu"], json=json,
    )  # fmt: skip
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the commands about dictionaries."""
    app.command(
        short_help="Train dictionaries on a model's activations.",
        epilog="Example: arrcoc-verify train-dictionary --sites 'knowing.*' --k 8 --out dicts",
    )(train_dictionary)
    app.command(
        short_help="Judge query conditioning on planted worlds.",
        epilog="Example: arrcoc-verify conditioning --json conditioning.json",
    )(conditioning)
    app.command(
        short_help="Judge claims on features and show what latents are.",
        epilog="Example: arrcoc-verify features dicts --json features.json",
    )(features)
    app.command(
        short_help="Measure dictionaries on scenes they were not trained on.",
        epilog="Example: arrcoc-verify quality dicts --json quality.json",
    )(quality)
    app.command(
        short_help="Score architectures on a planted world.",
        epilog="Example: arrcoc-verify sae-world --k 4 --k 8 --json world.json",
    )(sae_world)
