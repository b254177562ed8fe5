"""Multiplicity: published vectors, order, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.multiplicity import bh, e_bh, e_holm, holm

BH_1995 = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
           0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]  # fmt: skip
"""Fifteen p-values of Benjamini & Hochberg 1995, sec. 4.1."""

P = st.lists(st.floats(0, 1), max_size=12)


def test_holm_adjusts_a_small_example_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_example_of_benjamini_and_hochberg_is_reproduced_in_any_order() -> None:
    order = np.random.default_rng(0).permutation(15)
    shuffled = np.array(BH_1995)[order]
    assert sorted(order[bh(shuffled) <= 0.05].tolist()) == [0, 1, 2, 3]
    assert sorted(order[holm(shuffled) <= 0.05].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_both_equal_statsmodels_with_ties(seed: int) -> None:
    p = np.round(np.random.default_rng(seed).beta(0.3, 1, 20), 2)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert bh(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@settings(max_examples=60, deadline=None)
@given(P, st.randoms())
def test_results_follow_their_input_through_any_order(p: list[float], random) -> None:
    order = list(range(len(p)))
    random.shuffle(order)
    for adjust in (holm, bh):
        assert adjust(p)[order].tolist() == adjust([p[at] for at in order]).tolist()


@settings(max_examples=60, deadline=None)
@given(P)
def test_adjusting_never_lowers_p_and_bh_never_exceeds_holm(p: list[float]) -> None:
    assert np.all(holm(p) >= np.array(p) - 1e-12)
    assert np.all(bh(p) <= holm(p) + 1e-12)
    assert np.all(holm(p) <= np.minimum(1.0, np.array(p) * len(p)) + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_e_bh_follows_its_definition(e: list[float], alpha: float) -> None:
    ranked = sorted(e, reverse=True)
    passed = [k for k, value in enumerate(ranked, 1) if k * value / len(e) >= 1 / alpha]
    least = ranked[max(passed) - 1] if passed else math.inf
    found = e_bh(e)
    expected = [value >= least for value in e]
    # within rounding of the threshold either answer is right
    clear = [abs(a - alpha) > 1e-12 for a in found]
    assert [x for x, c in zip(expected, clear, strict=True) if c] == [
        bool(a <= alpha) for a, c in zip(found, clear, strict=True) if c
    ]


def test_e_holm_is_holm_on_reciprocals_and_takes_infinity() -> None:
    assert e_holm([math.inf, 0.0, 50.0]) == pytest.approx([0.0, 1.0, 0.04])


@pytest.mark.parametrize("adjust", [holm, bh, e_holm, e_bh])
def test_nan_raises_and_empty_families_are_empty(adjust) -> None:
    with pytest.raises(NonFinite):
        adjust([0.1, math.nan])
    assert 0 == adjust([]).size


@pytest.mark.parametrize("adjust", [holm, bh, e_holm, e_bh])
def test_negative_values_are_refused(adjust) -> None:
    with pytest.raises(UsageError):
        adjust([0.1, -0.1])


def test_p_above_one_is_refused() -> None:
    with pytest.raises(UsageError):
        holm([1.1])


def test_one_value_above_one_among_good_ones_is_refused() -> None:
    for adjust in (holm, bh):
        with pytest.raises(UsageError):
            adjust([0.5, 1.1])
    assert holm([0.0, 1.0]).tolist() == [0.0, 1.0]
    assert e_bh([0.5, 1.0]).tolist() == [1.0, 1.0]
