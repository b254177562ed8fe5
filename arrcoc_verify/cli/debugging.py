"""The commands that debug one failed allocation, repair it, and sort many of them."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrcoc_verify.cli.output import console, line, table, warn, write_json
from arrcoc_verify.cli.reading import settled
from arrcoc_verify.config import REFERENCE
from arrcoc_verify.errors import BadRegion
from arrcoc_verify.report.text import number, signed

_MOST = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command was asked to look at.

    Attributes:
        image: file.
        query: text.
        region: "x,y,w,h" or None.
        label: such as `face`, or None.
        mask: file, or None.
        expect: such as ">=256", or None.
        against: another picture or query, or None.
        donors: CSV or COCO json of regions to compare with, or None.
    """

    image: Path
    query: str
    region: str | None = None
    label: str | None = None
    mask: Path | None = None
    expect: str | None = None
    against: str | None = None
    donors: Path | None = None


def debug(given: Mapping[str, Any], asked: Asked, *, json: Path | None) -> int:
    """Debug one case; 0 when it is no failure, 1 when it is, 3 when that is undecided."""
    from arrcoc_verify.debug import page

    found = diagnosed(given, asked)
    show(found)
    content = found.to_json() | {"command": shlex.join(["arrcoc-verify", *sys.argv[1:]])}
    write_json(json, content)
    out = given.get("out")
    if out is not None:
        line(f"page: {page.write_page([found], Path(out), content['command'])}")
    return {"no": 0, "yes": 1}.get(found.failure.answer, 3)


def diagnosed(given: Mapping[str, Any], asked: Asked) -> Any:
    """Return the diagnosis of one case, from what the command line says."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.debug.case import make_case, parse_goal, read_mask
    from arrcoc_verify.debug.diagnosis import debug as diagnose

    config = settled({key: given.get(key) for key in ("model", "seed")})
    goal = parse_goal(asked.expect) if asked.expect else None
    model = load(config.model or REFERENCE)
    mask = read_mask(asked.mask) if asked.mask else None
    if asked.region and asked.mask:
        raise BadRegion("wanted --region or --mask, got both: leave one out")
    case = make_case(
        model, asked.image, asked.query, asked.region, label=asked.label or "", mask=mask
    )
    if case.note:
        warn(f"note: {case.note}")
    donors = _donors(model, asked.donors, asked.against, config.seed)
    query = asked.against if asked.against and not Path(asked.against).is_file() else ""
    return diagnose(
        model, case, goal, donors=donors, against=query or "", seed=config.seed
    )


def _donors(model: Any, path: Path | None, against: str | None, seed: int) -> Any:
    """Return donors from a table, with the user's other picture as context; None for ours."""
    from arrcoc_verify.debug.bench import make_donors
    from arrcoc_verify.scenes import load as loading

    if path is None:
        if against and Path(against).is_file():
            warn("note: a picture to compare with needs a region: name it in a CSV by --donors")
        return None
    rows, columns = model.declaration.grid
    size = max(model.declaration.image_size)
    found = loading.load(path, grid=(rows, columns), size=size, seed=seed)
    return make_donors(model, found.scenes)


def show(found: Any) -> None:
    """Print a diagnosis in the order of its questions."""
    failure, out = found.failure, console()
    line(f"{found.case.name}, asked {found.case.query!r}")
    line(f"Is it a failure? {failure.answer}: {failure.reason}")
    for cause in found.causes:
        from arrcoc_verify.debug.causes import MEANING

        where = f" at {cause.site}" if cause.site else ""
        line(f"Cause: {cause.code} ({cause.stage}){where}: {MEANING[cause.code]}; {cause.detail}")
    if failure.answer == "yes" and not found.causes:
        line("Cause: undecided")
    rows = [
        (one.role, one.stage, number(one.region), number(one.rest), number(one.rank),
         number(one.donors))
        for one in found.stations
    ]  # fmt: skip
    columns = ("map", "stage", "#region", "#elsewhere", "#rank in picture", "#rank of donors")
    out.print(table("Along the way", columns, rows))
    tried = sorted(found.evidence, key=lambda one: (one.restores != "yes", -abs(one.effect)))
    rows = [
        (one.experiment, one.code, signed(round(one.effect, 1)),
         f"[{number(round(one.interval[0], 1))}, {number(round(one.interval[1], 1))}]",
         number(round(one.tokens, 1)), one.restores)
        for one in tried[:_MOST]
    ]  # fmt: skip
    if rows:
        names = ("put right", "speaks for", "#effect", "#interval", "#tokens", "restores")
        out.print(table("Experiments", names, rows))
    if found.ruled_out:
        line(f"Ruled out: {', '.join(found.ruled_out)}")
    for text in found.undecided:
        line(f"Undecided: {text}")
    for text in found.not_run:
        line(f"Not run: {text}")


def planted(given: Mapping[str, Any], *, suite: bool, json: Path | None) -> int:
    """Plant failures, debug and repair each; 0 when both targets are met, else 1."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.debug import planted as planting

    config = settled({key: given.get(key) for key in ("model", "seed")})
    model = load(config.model or REFERENCE)
    folder = given.get("out")

    def tell(row: planting.Row) -> None:
        flips = "" if row.flipped is None else f", {len(row.flipped)} verdicts worse"
        said = row.skipped or (
            f"{'right' if row.cause_first else 'WRONG'}: {', '.join(row.named) or 'undecided'}; "
            f"{'mended' if row.mended else 'not mended'}{flips}"
        )
        warn(f"{row.name} ({', '.join(row.planted)}): {said}")

    rows = planting.run(
        model, None if folder is None else Path(folder), seed=config.seed, suite=suite, tell=tell
    )
    found = planting.summary(rows, model.spec or model.name, config.seed)
    write_json(json, found)
    figures = [
        (name, f"{one['count']} of {found['n']}", number(one["share"]),
         "–" if one["interval"] is None else "[{:.2f}, {:.2f}]".format(*one["interval"]))
        for name, one in found["figures"].items()
    ]  # fmt: skip
    title = f"{model.name}: {found['n']} planted failures, {len(found['not_counted'])} not counted"
    console().print(table(title, ("figure", "#count", "#share", "95 % interval"), figures))
    first, mended = found["cause_first"] or 0.0, found["repaired"]
    return 0 if first >= 0.9 and (mended is None or mended >= 0.8) else 1
