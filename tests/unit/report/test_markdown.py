from pathlib import Path

from arrcoc_verify.report.markdown import escape, render_markdown
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Outcome
from tests.unit.report.small_record import finish, verdict, writer


def test_the_verdict_comes_first_and_every_finding_is_named(record: Record) -> None:
    page = render_markdown(record)
    assert page.startswith("## Refuted: 4 of 55 required claims do not hold.")
    quiet = (Outcome.HOLDS, Outcome.NOT_APPLICABLE)
    for found in record.verdicts:
        assert (found.outcome not in quiet) == (f"{found.id}:" in page)


def test_the_table_adds_up(record: Record) -> None:
    last = next(line for line in render_markdown(record).splitlines() if "**all**" in line)
    numbers = [cell.strip(" *") for cell in last.split("|")[2:-1]]
    assert sum(map(int, numbers)) == len(record.verdicts)


def test_a_failed_gate_is_named(record: Record) -> None:
    assert "knowing.query-liveness: the query scorer moves by" in render_markdown(record)


def test_strangers_text_is_inert() -> None:
    said = escape("<img src=x onerror=alert(1)> | [a](b) `c`\n# d")
    assert "\n" not in said
    for sign in "<>|[]`":
        assert sign not in said.replace(f"\\{sign}", "")


def test_a_run_that_stopped_says_what_is_missing(tmp_path: Path) -> None:
    into = writer(tmp_path / "record", planned=("knowing.one", "knowing.two"))
    into.add_claim(verdict())
    into.interrupt()
    page = render_markdown(Record.load(tmp_path / "record"))
    assert page.startswith("## Unfinished: 1 of 2 claims were decided.")
    assert "**Without a verdict:** knowing.two" in page


def test_a_green_run_lists_no_findings(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    finish(into)
    page = render_markdown(Record.load(tmp_path / "record"))
    assert page.startswith("## Holds: 1 of 1 required claims hold.")
    assert "Findings" not in page
