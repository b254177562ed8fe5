import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from arrcoc_verify.report.diff import Change, Diff, diff, diff_table, write_diff_page
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Outcome, Verdict
from tests.unit.report.small_record import estimate, finish, verdict, writer

Row = tuple[Verdict, np.ndarray | None]
NAMES = [f"photograph-{i}" for i in range(24)]
DRAWN = np.random.default_rng(0).normal(30, 5, size=24)


def recorded(folder: Path, *rows: Row, **header: object) -> Record:
    into = writer(folder, **header)
    for claim, units in rows:
        into.add_claim(claim, units, NAMES[: len(units)] if units is not None else ())
    finish(into)
    return Record.load(folder)


def effect(value: float, units: np.ndarray | None = None, **more: object) -> Row:
    return verdict(effect=estimate(value, value - 4, value + 3), margin=16.0, **more), units


def only(tmp_path: Path, old: Row, new: Row) -> Change:
    first, second = recorded(tmp_path / "a", old), recorded(tmp_path / "b", new)
    (change,) = diff(first, second).changes
    return change


def test_a_record_against_itself_is_unchanged(record: Record) -> None:
    difference = diff(record, record)
    assert {"unchanged"} == {change.state for change in difference.changes}
    assert () == difference.flipped
    assert () == difference.cautions


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (Outcome.HOLDS, Outcome.REFUTED, False),
        (Outcome.REFUTED, Outcome.HOLDS, True),
        (Outcome.INCONCLUSIVE, Outcome.HOLDS, True),
        (Outcome.INVALID, Outcome.NOT_RUN, None),
        (Outcome.NOT_APPLICABLE, Outcome.HOLDS, None),
    ],
)
def test_a_flip_is_seen_both_ways(
    tmp_path: Path, before: Outcome, after: Outcome, better: bool | None
) -> None:
    change = only(tmp_path, (verdict(outcome=before), None), (verdict(outcome=after), None))
    assert ("flipped", better) == (change.state, change.better)


def test_units_of_the_same_name_are_paired(tmp_path: Path) -> None:
    change = only(tmp_path, effect(30.0, DRAWN), effect(32.0, DRAWN + 2))
    assert change.difference is not None
    assert (24, "paired units, bootstrap-t") == (change.difference.n, change.difference.method)
    assert pytest.approx(2.0) == change.difference.value
    assert change.moved is True


def test_pairing_sees_what_independent_intervals_cannot(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.5, size=24)
    paired = only(tmp_path / "paired", effect(30, DRAWN), effect(32, DRAWN + 2 + noise))
    apart = only(tmp_path / "apart", effect(30), effect(32))
    assert (True, False) == (paired.moved, apart.moved)


def test_units_are_paired_by_name_and_not_by_place(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", effect(30, DRAWN))
    into = writer(tmp_path / "b")
    into.add_claim(effect(30)[0], DRAWN[::-1].copy(), NAMES[::-1])
    finish(into)
    (change,) = diff(first, Record.load(tmp_path / "b")).changes
    assert change.difference is not None
    assert change.difference.value == 0.0


def test_few_pairs_have_no_interval(tmp_path: Path) -> None:
    change = only(tmp_path, effect(30, DRAWN[:7]), effect(31, DRAWN[:7] + 1))
    assert change.difference is not None
    assert math.isnan(change.difference.low)
    assert change.moved is None


def test_independent_runs_are_combined_by_square_and_add(tmp_path: Path) -> None:
    change = only(tmp_path, effect(30.0), effect(40.0))
    assert change.difference is not None
    assert pytest.approx((10 - 5, 10 + 5)) == (change.difference.low, change.difference.high)
    assert "independent" in change.difference.method


def test_effects_in_different_units_are_not_subtracted(tmp_path: Path) -> None:
    share = (verdict(effect=estimate(0.1, 0.0, 0.2, unit="share")), None)
    assert only(tmp_path, effect(30.0), share).difference is None


def test_paired_intervals_cover_at_about_their_level() -> None:
    from arrcoc_verify.report.diff import _paired

    generator = np.random.default_rng(3)
    like = estimate(0, 0, 0, level=0.9)
    covered = sum(
        found.low <= 1.0 <= found.high
        for found in (_paired(generator.normal(1, 2, size=24), like, 0) for _ in range(300))
    )
    assert 0.85 <= covered / 300 <= 0.95


def test_new_and_absent_claims_are_both_listed(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", (verdict("knowing.old"), None))
    second = recorded(tmp_path / "b", (verdict("knowing.new"), None))
    assert [("knowing.old", "absent"), ("knowing.new", "new")] == [
        (change.id, change.state) for change in diff(first, second).changes
    ]


def test_other_images_and_seeds_are_cautioned(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", effect(1.0))
    second = recorded(tmp_path / "b", effect(1.0), seed=2, data={"digest": "sha256:9"})
    said = " ".join(diff(first, second).cautions)
    assert "images differ" in said
    assert "seeds differ" in said


@pytest.fixture
def hostile(tmp_path: Path) -> Diff:
    text = "<script>alert(1)</script>[red]"
    first = recorded(tmp_path / "a", (verdict(), None), subject={"name": text})
    second = recorded(tmp_path / "b", (verdict(outcome=Outcome.REFUTED), None))
    return diff(first, second)


def test_the_table_names_what_flipped_and_takes_no_orders(hostile: Diff) -> None:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(diff_table(hostile))
    assert "flipped (worse)" in captured.get()


def test_the_page_is_inert_and_the_same_each_time(hostile: Diff, tmp_path: Path) -> None:
    page = write_diff_page(hostile, tmp_path / "diff.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page == write_diff_page(hostile, tmp_path / "again.html").read_text()


def test_it_is_strict_json(hostile: Diff) -> None:
    data = json.loads(json.dumps(hostile.to_json(), allow_nan=False))
    assert data["changes"][0]["state"] == "flipped"
