"""From diagnoses to the content of their page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arrcoc_verify.debug.causes import MEANING
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.trace import levels_of, maps_of
from arrcoc_verify.report.debugging import CaseContent, Strip, write


def content(
    found: Diagnosis, command: str = "", repairs: Sequence[Mapping[str, Any]] = ()
) -> CaseContent:
    """Return what the page shows of a diagnosis."""
    bench = found.bench
    strips = [
        Strip(
            title="As it is", maps=maps_of(bench, bench.clean), tokens=bench.before,
            levels=levels_of(bench, bench.clean),
        )
    ]  # fmt: skip
    if found.restored is not None:
        tokens = float(bench.tokens(found.restored)[0])
        said = " and ".join(part.said for part in found.parts)
        strips.append(Strip(title=f"With {said}", maps=maps_of(bench, found.restored),
                            tokens=tokens, levels=levels_of(bench, found.restored)))  # fmt: skip
    return CaseContent(
        data=found.to_json(), image=found.case.image,
        cells=found.case.cells.reshape(bench.grid).numpy(), strips=strips, command=command,
        meanings=MEANING, repairs=repairs,
    )  # fmt: skip


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
    if found.failure.answer == "no":
        return f"No failure: {found.failure.reason}"
    if not found.causes:
        return f"Cause undecided: {found.failure.reason}"
    causes = " and ".join(f"{c.code.replace('_', ' ')} ({c.stage})" for c in found.causes)
    return f"{causes}: {found.failure.reason}"
