"""From diagnoses to the content of their page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.causes import MEANING
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.trace import levels_of, maps_of
from arrcoc_verify.graph import Run
from arrcoc_verify.report.debugging import CaseContent, Strip, write

MOST_STRIPS = 8
"""So many other counterfactuals have their maps on the page."""


def content(
    found: Diagnosis, command: str = "", repairs: Sequence[Mapping[str, Any]] = ()
) -> CaseContent:
    """Return what the page shows of a diagnosis."""
    bench = found.bench
    strips = [_strip(bench, "As it is", bench.clean)]
    if found.restored is not None:
        said = " and ".join(part.said for part in found.parts)
        strips.append(_strip(bench, f"With {said}", found.restored))
    tried = _tried(found)[:MOST_STRIPS]
    return CaseContent(
        data=found.to_json(), image=found.case.image,
        cells=found.case.cells.reshape(bench.grid).numpy(), strips=strips,
        others=[_strip(bench, f"With {said}", run) for said, run in tried], command=command,
        meanings=MEANING, repairs=repairs,
    )  # fmt: skip


def _strip(bench: Bench, title: str, run: Run) -> Strip:
    tokens = float(bench.tokens(run)[0])
    return Strip(title=title, maps=maps_of(bench, run), tokens=tokens, levels=levels_of(bench, run))


def _tried(found: Diagnosis) -> list[tuple[str, Run]]:
    """Return the other parts that were put right alone, and the case with each."""
    if found.trial is None:
        return []
    named = {part.name for part in found.parts}
    views = [
        (key[0], view.run) for key, view in found.trial.views.items()
        if len(key) == 2 and key[1] == "whole" and key[0] not in named
    ]  # fmt: skip
    said = {one.part: one.experiment for one in found.evidence}
    return [(said.get(name, name), run) for name, run in views]


def write_page(
    found: Sequence[Diagnosis], folder: Path, command: str, title: str | None = None, *,
    repairs: Sequence[Mapping[str, Any]] = (),
) -> Path:  # fmt: skip
    """Write the page of some diagnoses into a folder and return its path.

    Args:
        found: the cases, in order.
        folder: made when it does not exist.
        command: what makes the page again.
        title: its headline; None for that of the first case.
        repairs: rows of the repair of the only case.
    """
    said = title or headline(found[0])
    return write([content(one, command, repairs) for one in found], folder, said)


def headline(found: Diagnosis) -> str:
    """Return the answer in one sentence."""
    what = f"The {found.case.label}" if found.case.label else "The region"
    said = found.failure.reason
    said = f"{what} {said.removeprefix('it ')}" if said.startswith("it ") else f"{what}: {said}"
    if found.failure.answer == "no":
        return f"No failure. {said}"
    if not found.causes:
        return f"{said}. Cause undecided"
    causes = " and ".join(f"{c.code.replace('_', ' ')} ({c.stage})" for c in found.causes)
    return f"{said}: {causes}"
