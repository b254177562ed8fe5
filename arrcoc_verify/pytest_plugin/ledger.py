"""What came back from the tests: the terminal's summary, the record, and what was lost.

On the controller of pytest-xdist, or in the only process there is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.pytest_plugin.state import Session
from arrcoc_verify.verdict import STAGES, Outcome, Verdict, gate_from_json

EXPECTED = "arrcoc_expected"
"""Key of a worker's output under which it names the tests that it collected."""


class Ledger:
    """Keeps what reports carried and says it at the end."""

    def __init__(self, config: pytest.Config, state: Session) -> None:
        """Listen to one session."""
        self._config, self._state = config, state
        self._page: Path | str = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a report carries; a test ends with its call, or where its setup skips it."""
        news = getattr(report, "arrcoc_news", None)
        if news is not None:
            self._state.receive(report.nodeid, news)
        if report.when == "call" or (report.when == "setup" and report.skipped):
            self._state.ended.add(report.nodeid)
        if report.when == "setup" and report.failed:
            self._state.unready.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist had collected."""
        output = getattr(node, "workeroutput", None) or {}
        self._state.expected |= set(output.get(EXPECTED, ()))
        self._state.family = max(self._state.family, int(output.get("arrcoc_family", 1)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a session that lost a test; hand over, in a worker, what was collected."""
        worker: Any = self._config
        if hasattr(worker, "workeroutput"):
            worker.workeroutput[EXPECTED] = sorted(self._state.expected)
            worker.workeroutput["arrcoc_family"] = self._state.family
            return
        if self._config.option.collectonly:
            self._state.expected.clear()
            return
        if self._state.lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._state.settings.out is not None and self._state.verdicts:
            self._page = self._written(self._state.settings.out)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print verdicts by stage, the error rate of the family, and what did not run."""
        if not self._state.verdicts and not self._state.lost:
            return
        terminalreporter.section("arrcoc", bold=True)
        for line in lines(self._state):
            terminalreporter.write_line(line)
        if self._page:
            terminalreporter.write_line(str(self._page))

    def _written(self, folder: Path) -> Path | str:
        try:
            return write_record(self._state, folder)
        except ArrcocError as error:
            return f"no record: {error}"


def lines(state: Session) -> Iterator[str]:
    """Yield the summary of a session."""
    verdicts = [verdict for _, verdict in state.verdicts]
    yield from by_stage(verdicts, len(state.lost))
    yield from family(verdicts, state.settings.alpha, state.family)
    for nodeid, verdict in state.verdicts:
        if verdict.outcome not in (Outcome.HOLDS, Outcome.NOT_APPLICABLE):
            waived = "" if verdict.waiver is None else f" (waived by {verdict.waiver.author})"
            word = verdict.outcome.value.upper()
            yield f"{word} {nodeid}: {verdict.id}: {verdict.reason}{waived}"
    for nodeid in state.lost:
        yield f"NOT_RUN {nodeid}: {_why_lost(nodeid, state)}"


def _why_lost(nodeid: str, state: Session) -> str:
    if nodeid in state.unready:
        return "its setup failed"
    return "it was collected, but no result came back"


def by_stage(verdicts: Sequence[Verdict], lost: int) -> Iterator[str]:
    """Yield a table of how many claims of each stage ended in which way."""
    counts = Counter((verdict.stage, verdict.outcome) for verdict in verdicts)
    names = [outcome.value.replace("_", " ") for outcome in Outcome]
    yield f"{'stage':<11}" + "".join(f"{name:>{len(name) + 2}}" for name in names)
    for stage in STAGES:
        if any(verdict.stage == stage for verdict in verdicts):
            yield _row(stage, [counts[stage, outcome] for outcome in Outcome], names)
    if lost:
        yield _row("(lost)", [lost if o is Outcome.NOT_RUN else 0 for o in Outcome], names)


def _row(stage: str, counts: Sequence[int], names: Sequence[str]) -> str:
    cells = zip(counts, names, strict=True)
    return f"{stage:<11}" + "".join(f"{count or '·':>{len(name) + 2}}" for count, name in cells)


def family(verdicts: Sequence[Verdict], alpha: float, size: int) -> Iterator[str]:
    """Yield what error rate the verdicts have together, and what Holm says of the whole family."""
    yield (
        f"family of {size}: each claim was judged at {alpha:g} / {size} = {alpha / size:.2g}, "
        f"so that all verdicts together are wrong with a chance of at most {alpha:g}"
    )
    tested = [verdict for verdict in verdicts if verdict.p_value is not None]
    holding = [verdict for verdict in tested if verdict.outcome is Outcome.HOLDS]
    if not holding:
        return
    adjusted = holm([verdict.p_value or 0.0 for verdict in tested], max(size, len(tested)))
    worst = max(adjusted[tested.index(verdict)] for verdict in holding)
    yield (
        f"Holm over the {len(tested)} with a p: those that hold have an adjusted p of at most "
        f"{worst:.2g}"
    )


def holm(p: Sequence[float], size: int) -> list[float]:
    """Return Holm's adjusted p-values in a family of `size`, in which the others have p = 1."""
    order = sorted(range(len(p)), key=lambda at: p[at])
    adjusted, reached = [1.0] * len(p), 0.0
    for rank, at in enumerate(order):
        reached = max(reached, min(1.0, p[at] * (size - rank)))
        adjusted[at] = reached
    return adjusted


def write_record(state: Session, folder: Path) -> Path:
    """Write the session's verdicts as a record with its page; return the page's path.

    Raises:
        RecordError: the folder holds another record, or cannot be written.
    """
    import shlex
    import sys

    from arrcoc_verify import provenance
    from arrcoc_verify.report.html import write_page
    from arrcoc_verify.report.record import Record
    from arrcoc_verify.report.writer import Header, RecordWriter

    verdicts = [*_named_apart(state), *(_not_run(nodeid, state) for nodeid in state.lost)]
    settings = state.settings
    header = Header(
        command=shlex.join(["pytest", *sys.argv[1:]]),
        subject=state.about.get("subject", {"name": str(settings.model), "spec": settings.model}),
        data=state.about.get("data", {"name": str(settings.images or "")}),
        config={
            "alpha": settings.alpha, "confidence": settings.confidence, "family": state.family,
            "per_cluster": settings.per_cluster, "inconclusive": settings.inconclusive,
        },
        environment=provenance.environment(),
        seed=settings.seed,
        planned=[verdict.id for verdict in verdicts],
    )  # fmt: skip
    with RecordWriter(folder, header) as writer:
        for gate in state.gates.values():
            writer.add_gate(gate_from_json(gate))
        for verdict in verdicts:
            writer.add_claim(verdict)
        seconds = sum(verdict.seconds for verdict in verdicts)
        writer.finish(seconds=seconds, peak_mib=provenance.peak_mib())
    return write_page(Record.load(folder), folder / "report.html")


def _named_apart(state: Session) -> Iterator[Verdict]:
    """Yield the verdicts; a claim that was made before is named by its test, too."""
    seen: set[str] = set()
    for nodeid, verdict in state.verdicts:
        name, again = verdict.id, 1
        while name in seen:
            again += 1
            name = f"{verdict.id} ({nodeid.rpartition('::')[2]}, {again})"
        seen.add(name)
        yield replace(verdict, id=name)


def _not_run(nodeid: str, state: Session) -> Verdict:
    return Verdict(
        id=nodeid, sentence="a claim of a test that was collected", stage="runtime", kind="causes",
        outcome=Outcome.NOT_RUN, reason=_why_lost(nodeid, state),
    )  # fmt: skip
