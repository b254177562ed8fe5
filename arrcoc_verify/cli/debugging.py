"""The commands that debug one failed allocation, repair it, and sort many of them."""

import errno
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrcoc_verify.cli.output import console, line, table, warn, write_json
from arrcoc_verify.cli.reading import settled
from arrcoc_verify.config import REFERENCE
from arrcoc_verify.errors import BadModel, BadRegion, BadTable, UsageError
from arrcoc_verify.report.text import number, signed

_MOST = 14
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"})


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
        labels: folder of an open_clip model that finds other labels than faces, or None.
    """

    image: Path
    query: str
    region: str | None = None
    label: str | None = None
    mask: Path | None = None
    expect: str | None = None
    against: str | None = None
    donors: Path | None = None
    labels: Path | None = None


def debug(given: Mapping[str, Any], asked: Asked, *, json: Path | None) -> int:
    """Debug one case; 0 when it is no failure, 1 when it is, 3 when that is undecided."""
    from arrcoc_verify.debug import page

    _require_room(given.get("out"), json)
    found = diagnosed(given, asked)
    show(found)
    content = found.to_json() | {"command": shlex.join(["arrcoc-verify", *sys.argv[1:]])}
    write_json(json, content)
    out = given.get("out")
    if out is not None:
        line(f"page: {page.write_page([found], Path(out), content['command'])}")
    return {"no": 0, "yes": 1}.get(found.failure.answer, 3)


def _require_room(out: str | Path | None, *files: str | Path | None) -> None:
    """Make the folders that results go to before the work, so that nothing is lost after it."""
    from arrcoc_verify.report.atomic import make_folder, write_error

    folders = [] if out is None else [Path(out)]
    folders += [Path(file).resolve().parent for file in files if file is not None]
    for folder in folders:
        make_folder(folder)
        if not os.access(folder, os.W_OK):
            raise write_error(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def diagnosed(given: Mapping[str, Any], asked: Asked) -> Any:
    """Return the diagnosis of one case, from what the command line says."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.debug.case import parse_goal, require_reachable
    from arrcoc_verify.debug.diagnosis import debug as diagnose

    if asked.region and asked.mask:
        raise BadRegion("wanted --region or --mask, got both: leave one out")
    config = settled({key: given.get(key) for key in ("model", "seed")})
    goal = parse_goal(asked.expect) if asked.expect else None
    model = load(config.model or REFERENCE)
    if goal is not None:
        require_reachable(goal, model)
    case = case_of(model, asked)
    if goal is not None:
        require_reachable(goal, model, case)
    if case.note:
        warn(f"note: {case.note}")
    donors = _donors(model, asked.donors, config.seed, boxed=case.boxed)
    against = _against(model, asked, case)
    return diagnose(model, case, goal, donors=donors, against=against, seed=config.seed)


def case_of(model: Any, asked: Asked) -> Any:
    """Return the case that the command line names."""
    from arrcoc_verify.debug.case import make_case, read_mask

    placed = bool(asked.region or asked.mask) and not asked.against
    _require_sought(asked.labels, asked.label or "", placed=placed)
    mask = read_mask(asked.mask) if asked.mask else None
    return make_case(
        model, asked.image, asked.query, asked.region, label=asked.label or "", mask=mask,
        labels=asked.labels,
    )  # fmt: skip


def _require_sought(labels: Path | None, label: str, *, placed: bool = False) -> None:
    """Refuse a model that finds labels where it has nothing to find."""
    from arrcoc_verify.debug.case import FACE

    if labels is not None and (placed or not label or label.lower() in FACE):
        raise UsageError(
            "wanted --labels with a --label that it is to find, and no --region or --mask: faces "
            "are found without it"
        )


def _against(model: Any, asked: Asked, case: Any) -> Any:
    """Return the other picture's case, or the other query, or ""."""
    from arrcoc_verify.debug.case import beside
    from arrcoc_verify.scenes.load import load_image

    other = asked.against or ""
    if other and Path(other).is_dir():
        raise UsageError(
            f"wanted another picture or query for --against, got the folder {other}: name a file "
            "in it"
        )
    if not (Path(other).is_file() or Path(other).suffix.lower() in _PICTURES):
        return other
    found = beside(model, load_image(Path(other)), case, Path(other).name, labels=asked.labels)
    warn(f"note: the region in {found.name} is {found.note}")
    return found


def _donors(model: Any, path: Path | None, seed: int, *, boxed: bool) -> Any:
    """Return donors from a table; None for ours."""
    from arrcoc_verify.debug.bench import make_donors
    from arrcoc_verify.scenes import load as loading

    if path is None:
        return None
    rows, columns = model.declaration.grid
    size = max(model.declaration.image_size)
    try:
        found = loading.load(path, grid=(rows, columns), size=size, seed=seed)
    except BadTable as error:
        raise UsageError(f"{error}: mend the table of --donors") from error
    if not found.scenes:
        raise UsageError(f"wanted at least one region to compare with in {path}, got none")
    return make_donors(model, found.scenes, boxed=boxed)


def show(found: Any) -> None:
    """Print a diagnosis in the order of its questions."""
    failure, out = found.failure, console()
    line(f"{found.case.name}, asked {found.case.query!r}")
    line(f"Is it a failure? {failure.answer}: {failure.reason}")
    line(f"It rests on {found.rests_on}.")
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
    columns = ("map", "stage", "#region", "#rest of picture", "#rank in picture", "#rank of donors")
    out.print(table("Along the way", columns, rows))
    tried = sorted(found.evidence, key=lambda one: (one.restores != "yes", -abs(one.effect)))
    rows = [
        (one.code.replace("+", " and ") or "–", signed(round(one.effect, 1)),
         f"[{number(round(one.interval[0], 1))}, {number(round(one.interval[1], 1))}]",
         number(round(one.tokens, 1)), one.restores, one.experiment)
        for one in tried[:_MOST]
    ]  # fmt: skip
    _show_ways(found)
    if found.against is not None:
        line(f"Beside the other picture: {found.against.said}.")
    if rows:
        names = ("speaks for", "#effect", "#interval", "#tokens", "restores", "put right")
        out.print(table("Experiments", names, rows))
    if found.ruled_out:
        line(f"Ruled out: {', '.join(found.ruled_out)}")
    for text in found.undecided:
        line(text if failure.answer == "no" else f"Undecided: {text}")
    for text in found.not_run:
        line(f"Not run: {text}")


def _show_ways(found: Any) -> None:
    """Print how the tokens come about: score by score, by tensions, by features."""
    steps = ", ".join(f"{name} {number(round(tokens, 1))}" for name, tokens in found.waterfall)
    line(f"How its tokens come about: {steps}")
    for way in found.paths:
        direct = "" if way["direct"] is None else (
            f", {signed(round(way['direct'], 1))} of them directly and "
            f"{signed(round(way['mediated'], 1))} by the shared budget"
        )  # fmt: skip
        line(f"Through {way['through']}: {signed(round(way['carries'], 1))} tokens{direct}")
    for lever in found.levers:
        line(f"With {lever['tension']} at its lowest {number(round(lever['low'], 1))} tokens, "
             f"at its highest {number(round(lever['high'], 1))}")  # fmt: skip
    for one in found.features:
        channels = ", ".join(str(channel["channel"]) for channel in one["channels"])
        effects = {name: signed(round(effect, 1)) for name, effect in one["effects"].items()}
        line(f"Channels of {one['site']} that stand off from donors': {channels}; with donors' "
             f"values in them {effects['most distant']} tokens, in as many others "
             f"{effects['placebo']}")  # fmt: skip


def planted(
    given: Mapping[str, Any], names: Sequence[str], *, suite: bool, json: Path | None
) -> int:
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
        model,
        None if folder is None else Path(folder),
        seed=config.seed,
        suite=suite,
        names=names,
        tell=tell,
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


def repair(given: Mapping[str, Any], asked: Asked, *, json: Path | None) -> int:
    """Find, try and confirm the smallest edits that mend a case; 0 when one is confirmed."""
    from arrcoc_verify.debug import patching
    from arrcoc_verify.debug import repair as repairing
    from arrcoc_verify.debug.screening import CONFIRMED, Judge, Shared, screening

    patch = given.get("patch")
    _require_room(given.get("out"), patch, json)
    found = diagnosed(given, asked)
    show(found)
    if found.failure.answer != "yes":
        said = {"no": "it is no failure", "undecided": "it cannot be told whether it is a failure"}
        raise UsageError(
            f"wanted a failure to repair, {said[found.failure.answer]}: "
            f"{found.failure.reason}; say what the region should get by --expect"
        )
    suite, seed = bool(given.get("suite", True)), int(given.get("seed") or 0)
    if suite:
        warn("screening repairs on the claims that depend on them; this takes minutes")
    shared = Shared(found.bench.model, seed) if suite else None
    screen = screening(shared) if shared is not None else None
    made = repairing.repair(found, screen=screen, seed=seed)
    if shared is not None:
        made = repairing.confirm(made, Judge(CONFIRMED, shared), seed)
    command = shlex.join(["arrcoc-verify", *sys.argv[1:]])
    rows = made.to_json(command)
    write_json(json, rows)
    _show_repairs(rows, made.confirmed)
    if patch is not None and made.winner is not None:
        record = {"digest": found.bench.model.digest, "region": list(found.case.box), **rows[0]}
        patching.save_patch(Path(patch), made.winner.edits, record)
        line(f"repair: {patch}")
    if given.get("out") is not None:
        from arrcoc_verify.debug import page

        line(f"page: {page.write_page([found], Path(given['out']), command, repairs=rows)}")
    if made.winner is None:
        line("No edit was found that mends it" + (", so none was saved." if patch else "."))
        return 1
    return _harm(made.winner)


def _harm(winner: Any) -> int:
    """Say what is known against a repair; 0 when nothing is, 1 for harm, 3 when nobody looked."""
    worse = winner.flipped_verdicts
    if any(edit.kind == "alike" for edit in winner.edits):
        line(
            "It acts where patches look like this region's: a repair of such regions; what is at "
            "fault stays for others. Wider edits are in the table, with what they cost."
        )
    if any("mask" in edit.tensors for edit in winner.edits):
        line(
            "It edits the patches of this region only: a repair of this picture, not of the model."
        )
    if worse is None:
        line("No verdict was judged, so it is not called harmless: leave out --without-suite.")
        return 3
    if worse:
        line(f"No harmless repair was found; of those that mend, the least harmful makes "
             f"{len(worse)} verdicts worse: {', '.join(worse)}")  # fmt: skip
    if not winner.within:
        from arrcoc_verify.debug.repair import MARGIN

        line(f"Where allocation was right it moves {winner.where_right:.3f} of the tokens, more "
             f"than the margin of {MARGIN:g}.")  # fmt: skip
    return 1 if worse or not winner.within else 0


def _similar(row: Mapping[str, Any]) -> str:
    failing = row["similar_failing"]
    return f"{row['similar_mended']} of {failing}" if failing else "none fails"


def _worse(row: Mapping[str, Any]) -> str:
    """Return how many verdicts got worse, of which: the winner's are those of the whole suite."""
    if row["flipped_verdicts"] is None:
        return "not run"
    whole = row["screened"] == "whole suite"
    return f"{len(row['flipped_verdicts'])} of {'the suite' if whole else 'those screened'}"


def _show_repairs(rows: Any, confirmed: str) -> None:
    shown = [
        (str(row["numbers"]), number(round(row["case_tokens_before"], 1)),
         number(round(row["case_tokens_after"], 1)), "yes" if row["mends"] else "no",
         _similar(row), _worse(row),
         number(row["collateral"]), row["said"])
        for row in rows[:_MOST]
    ]  # fmt: skip
    columns = ("#numbers", "#before", "#after", "mends", "similar mended", "#verdicts worse",
               "#moved elsewhere", "edit")  # fmt: skip
    if shown:
        console().print(table("Repairs", columns, shown))
    if confirmed:
        line(f"Confirmed on photographs that chose nothing: {confirmed}")


def _made_for(record: Mapping[str, Any], case: Any) -> None:
    """Say of what else a repair was made, if it was."""
    here = {"image": case.name, "query": case.query, "region": list(case.box)}
    other = [name for name, value in here.items() if record.get(name, value) != value]
    if other:
        warn(f"note: it was made for another {' and '.join(other)}")


def apply(given: Mapping[str, Any], patch: Path, asked: Asked, *, json: Path | None) -> int:
    """Apply a saved repair to a model and show what a case gets without, with and again without."""
    import torch

    from arrcoc_verify.adapters import load
    from arrcoc_verify.debug.bench import Bench
    from arrcoc_verify.debug.case import parse_goal
    from arrcoc_verify.debug.diagnosis import no_donors
    from arrcoc_verify.debug.patching import applied, load_patch

    if given.get("patch") is not None:
        raise UsageError("wanted --apply or --save, got both: a saved repair is not made again")
    config = settled({key: given.get(key) for key in ("model", "seed")})
    edits, record = load_patch(patch)
    model = load(config.model or REFERENCE)
    if record.get("digest", model.digest) != model.digest:
        raise BadModel(
            f"wanted a repair of {model.name!r} as it is now, {patch} was made for "
            f"{record.get('model')!r} or for other weights: name that model by --model, or run "
            "repair again"
        )
    case = case_of(model, asked)
    _made_for(record, case)
    before = Bench(model, case, no_donors())
    tokens = Bench(applied(model, edits), case, no_donors()).before
    again = Bench(model, case, no_donors())
    same = bool((again.clean.allocation.tokens == before.clean.allocation.tokens).all())
    line(f"repair of {record.get('model')}: {', '.join(edit.said for edit in edits)}")
    line(f"the region gets {before.before:.4g} tokens per patch, with the repair {tokens:.4g}")
    line("taken back: " + ("every token is as before" if same else "NOT as before"))
    if worse := record.get("flipped_verdicts"):
        line(f"when it was made, it made {len(worse)} verdicts worse: {', '.join(worse)}")
    wanted = asked.expect or record.get("expected")
    goal = parse_goal(wanted) if wanted else None
    mends = None if goal is None else bool(goal.met(torch.tensor(tokens)))
    if mends is not None:
        line(f"expected {goal}: {'mended' if mends else 'NOT mended'}")
    write_json(
        json,
        {"before": before.before, "after": tokens, "mends": mends, "taken_back_exactly": same,
         "record": record},
    )  # fmt: skip
    return 2 if not same else 1 if mends is False else 0


def triage(given: Mapping[str, Any], images: Path, query: str, label: str, most: int,
           *, json: Path | None) -> int:  # fmt: skip
    """Find the worst allocations of a folder or table, and sort them by cause."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.debug import page
    from arrcoc_verify.debug import triage as sorting
    from arrcoc_verify.debug.case import parse_goal, require_reachable

    if most < 1:
        raise UsageError(f"wanted --most of at least 1, got {most}")
    if not images.is_dir() and (query or label):
        raise UsageError(
            f"wanted --query and --label with a folder only, {images} is a table: its rows have "
            "queries and boxes of their own"
        )
    _require_sought(given.get("labels"), label)
    _require_room(given.get("out"), json)
    config = settled({key: given.get(key) for key in ("model", "seed")})
    goal = parse_goal(given["expect"]) if given.get("expect") else None
    model = load(config.model or REFERENCE)
    if goal is not None:
        require_reachable(goal, model)
    cases, skipped = sorting.cases_of(
        model, images, query=query, label=label, skip_bad=bool(given.get("skip_bad_rows")),
        labels=given.get("labels"),
    )  # fmt: skip
    for text in skipped:
        warn(f"note: {text}")
    found = sorting.triage(model, cases, goal, most=most, seed=config.seed)
    rows = [
        (one.case.name, one.case.query, number(round(one.failure.tokens, 1)),
         str(one.failure.goal), one.failure.answer,
         ", ".join(c.code for c in one.causes) or "undecided", one.stage or "–")
        for one in found.diagnoses
    ]  # fmt: skip
    columns = ("picture", "query", "#tokens", "#expected", "failure", "cause", "stage")
    console().print(table(f"{len(cases)} regions, the worst {len(rows)} of them", columns, rows))
    for name, many in found.clusters:
        line(f"{many} x {name}")
    write_json(json, found.to_json())
    command = shlex.join(["arrcoc-verify", *sys.argv[1:]])
    if given.get("out") is not None and found.diagnoses:
        title = f"The {len(rows)} worst of {len(cases)} regions, by cause"
        line(f"page: {page.write_page(found.diagnoses, Path(given['out']), command, title)}")
    answers = {one.failure.answer for one in found.diagnoses}
    return 1 if "yes" in answers else 3 if answers == {"undecided"} else 0
