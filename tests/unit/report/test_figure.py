import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.report import event as ev
from arrcoc_verify.report import figure
from arrcoc_verify.verdict import Verdict
from tests.unit.report.small_record import estimate, verdict


def claim(kind: str, margin: float, value: float, half: float) -> Verdict:
    effect = estimate(value, value - half, value + half)
    return verdict(kind=kind, margin=margin, effect=effect)


def test_a_scale_is_straight_and_ends_where_it_should() -> None:
    scale = figure.Scale(low=-10, high=30, left=0, right=400)
    assert [0, 100, 400] == [scale.at(value) for value in (-10, 0, 30)]
    assert [0, 400] == [scale.at(value) for value in (-99, 99)]


@given(st.floats(-100, 100), st.floats(1e-6, 1e6))
def test_ticks_are_round_few_and_inside(place: float, span: float) -> None:
    low = place * span
    scale = figure.Scale(low=low, high=low + span, left=0, right=400)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for _, value in ticks)


@pytest.mark.parametrize(
    ("kind", "margin", "expected"),
    [
        ("causes", 16, (16, math.inf)),
        ("causes", -16, (-math.inf, -16)),
        ("no_effect", 8, (-8, 8)),
        ("conserved", 0.5, (-0.5, 0.5)),
    ],
)
def test_the_band_is_what_is_claimed(
    kind: str, margin: float, expected: tuple[float, float]
) -> None:
    assert expected == figure.claimed_range(claim(kind, margin, 0, 1))


def test_a_distance_must_stay_below_its_margin_whatever_its_kind() -> None:
    distance = estimate(0.0, 0.0, 0.0, method="root mean square, bootstrap-t")
    assert figure.stays_below(verdict(kind="mediates", margin=1.0, effect=distance))
    assert not figure.stays_below(claim("mediates", 0.9, 1.0, 0.01))
    assert figure.stays_below(verdict(kind="no_effect", margin=1.0))


@pytest.mark.parametrize("margin", [16, 0.05, -8])
def test_a_margin_is_equally_long_in_every_small_plot(margin: float) -> None:
    scale = figure.margin_scale(margin, 168)
    plot = figure.interval_plot(claim("causes", margin, 2 * margin, abs(margin)), scale)
    assert plot is not None
    assert plot.dot is not None
    assert pytest.approx(168 / 5.5, abs=0.11) == plot.margins[0] - plot.zero
    assert pytest.approx(168 / 5.5, abs=0.11) == plot.dot - plot.margins[0]


@pytest.mark.parametrize("margin", [16, -16])
def test_an_effect_beyond_the_plot_has_an_arrow_on_the_right_side(margin: float) -> None:
    scale = figure.margin_scale(margin, 168)
    plot = figure.interval_plot(claim("causes", margin, 9 * margin, 1), scale)
    assert plot is not None
    assert (False, True) == (plot.beyond_left, plot.beyond_right)
    assert plot.dot is None


def test_what_is_not_finite_is_not_drawn() -> None:
    scale = figure.margin_scale(16, 168)
    nothing = verdict(effect=estimate(math.nan, math.nan, math.nan), margin=16.0)
    assert figure.interval_plot(nothing, scale) is None
    half_open = verdict(effect=estimate(20, 10, math.inf), margin=16.0)
    plot = figure.interval_plot(half_open, scale)
    assert plot is not None
    assert plot.high == 168


def test_a_shared_axis_has_room_for_all() -> None:
    claims = [claim("causes", 16, 40, 9), claim("no_effect", 8, 1, 1), claim("causes", 16, -5, 2)]
    scale = figure.shared_scale(claims, 400)
    assert scale.low < -7
    assert scale.high > 49


def test_a_waterfall_runs_from_level_to_level_and_ends_on_zero() -> None:
    steps = figure.waterfall([("equal", 100.0), ("up", 150.0), ("down", 50.0)], 150)
    assert ["equal", "up", "down", "in the end"] == [step.label for step in steps]
    assert [None, 50, -100, None] == [step.change for step in steps]
    assert [(0, 100), (100, 50), (50, 100), (0, 50)] == [(s.x, s.width) for s in steps]


def test_a_waterfall_that_has_its_end_gets_no_other() -> None:
    steps = figure.waterfall([("equal", 100.0), ("up", 150.0), ("total", 150.0)], 150)
    assert ["equal", "up", "total"] == [step.label for step in steps]


def decomposed(**shares: float) -> ev.Decomposition:
    return ev.Decomposition(
        shares=[ev.Share(source=k, share=v, low=v, high=v) for k, v in shares.items()]
    )


def test_pieces_of_a_stacked_bar_fill_it() -> None:
    bars, scale, small = figure.shares(decomposed(information=0.5, query=0.3, nuisance=0.1), 420)
    assert pytest.approx(420, abs=0.3) == sum(bar.stack_width for bar in bars)
    assert scale.high > 0.5
    assert [] == small


def test_small_interactions_are_named_and_small_factors_keep_their_row() -> None:
    found = decomposed(information=0.9, position=-0.001, pairs=0.002, triples=0.05)
    bars, _, small = figure.shares(found, 420)
    assert ["information", "position", "triples"] == [bar.source for bar in bars]
    assert ["pairs"] == [share.source for share in small]


def test_three_tensions_make_three_panels_and_many_queries_share_a_shape() -> None:
    points = [
        ev.TensionPoint(scene="s", query=str(i), values={"a": 0.1, "b": 0.2, "c": 0.3})
        for i in range(9)
    ]
    panels, groups = figure.tension_panels(ev.Tension(points=points), 150)
    assert [("a", "b"), ("a", "c"), ("b", "c")] == [(p.across, p.up) for p in panels]
    assert ["0", "1", "2", "3", "4", "4 other queries"] == groups
    assert {0, 1, 2, 3, 4, 5} == {dot.kind for dot in panels[0].dots}
