from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.report.casefile import CaseView, case_view, files_of, ordered_cases
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Case, Outcome
from tests.unit.report.small_record import finish, verdict, writer


def view_of(tmp_path: Path, maps: dict[str, np.ndarray], **changed: object) -> CaseView:
    into = writer(tmp_path / "record")
    kept = {name: into.put_array(array) for name, array in maps.items()}
    fields: dict[str, object] = {
        "id": "c", "scene": "s", "query": "q", "effect": 1.0, "region": (0, 0, 50, 100),
        "image": into.put_image(Image.new("RGB", (100, 100))),
    }  # fmt: skip
    case = Case(**{**fields, "maps": kept, **changed})  # type: ignore[arg-type]
    into.add_claim(verdict(worst=(case,)))
    finish(into)
    return case_view(Record.load(tmp_path / "record"), verdict(), case)


def scores() -> dict[str, np.ndarray]:
    return {
        "knowing.information": np.array([[0.0, 0.2], [0.1, 0.3]]),
        "knowing.salience": np.array([[1.0, 0.5], [0.5, 0.5]]),
        "knowing.query": np.full((2, 2), 0.5),
    }


def test_scores_share_one_scale_and_a_dead_one_is_called_flat(tmp_path: Path) -> None:
    view = view_of(tmp_path, scores())
    assert ["information", "salience", "query"] == [m.name for m in view.scores]
    assert {(0.0, 1.0)} == {(m.low, m.high) for m in view.scores}
    assert [False, False, True] == [m.flat for m in view.scores]


def test_the_target_is_compared_with_the_rest(tmp_path: Path) -> None:
    view = view_of(tmp_path, {"attending.tokens": np.array([[400.0, 64.0], [200.0, 64.0]])})
    assert view.tokens is not None
    assert (300.0, 64.0) == (view.tokens.inside, view.tokens.outside)
    assert "mean over the target 300, elsewhere 64" in view.tokens.alt


def test_a_target_smaller_than_a_cell_takes_the_nearest(tmp_path: Path) -> None:
    view = view_of(tmp_path, {"tokens": np.array([[1.0, 2.0], [3.0, 4.0]])}, region=(90, 90, 4, 4))
    assert view.tokens is not None
    assert view.tokens.inside == 4.0


@pytest.mark.parametrize(
    "weights",
    [
        np.array([0.2, 0.3, 0.5]),
        np.array([0.2, 0.3, 0.5])[:, None, None] * np.ones((3, 2, 2)),
        np.array([0.2, 0.3, 0.5]) * np.ones((2, 2, 3)),
    ],
)
def test_weights_are_read_in_any_layout(tmp_path: Path, weights: np.ndarray) -> None:
    view = view_of(tmp_path, {**scores(), "balancing.weights": weights})
    assert ["information", "salience", "query"] == [w.name for w in view.weights]
    assert pytest.approx([0.2, 0.3, 0.5]) == [w.mean for w in view.weights]
    assert pytest.approx([20, 30, 50]) == [w.width for w in view.weights]


def test_a_map_that_was_lost_is_named(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    finish(into)
    case = Case(id="c", scene="s", query="q", effect=1.0, maps={"tokens": "0" * 64})
    view = case_view(Record.load(tmp_path / "record"), verdict(), case)
    assert view.tokens is None
    assert "tokens: array '000000000000' is not in the record" in view.missing[0]


def test_maps_of_nothing_finite_are_drawn_empty(tmp_path: Path) -> None:
    view = view_of(tmp_path, {"relevance": np.full((2, 2), np.nan)})
    assert view.relevance is not None
    assert (0.0, 1.0) == (view.relevance.low, view.relevance.high)


def test_cases_that_show_the_same_are_one_file_and_keep_their_order(tmp_path: Path) -> None:
    view = view_of(tmp_path, scores())
    again = replace(view, case=replace(view.case, id="again", effect=2.0, replay="other"))
    other = replace(view, case=replace(view.case, id="other", query="another"))
    files = files_of([view, other, again])
    assert [("c", ["again"]), ("other", [])] == [
        (file.view.case.id, [also.case.id for also in file.also]) for file in files
    ]


def test_the_worst_case_of_each_refuted_claim_comes_first() -> None:
    def claim(name: str, outcome: Outcome) -> object:
        cases = tuple(Case(id=f"{name}{i}", scene="s", query="q", effect=0.0) for i in range(2))
        return verdict(f"knowing.{name}", outcome, worst=cases)

    claims = [
        claim("h", Outcome.HOLDS),
        claim("i", Outcome.INCONCLUSIVE),
        claim("r", Outcome.REFUTED),
        claim("s", Outcome.REFUTED),
    ]
    order = [case.id for _, case in ordered_cases(claims)]  # type: ignore[arg-type]
    assert ["r0", "s0", "r1", "s1", "i0", "i1", "h0", "h1"] == order
