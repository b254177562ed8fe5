"""Both tails of a mean: by Student's t, and by a written-out bootstrap-t."""

import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.flips import smallest_p
from arrcoc_verify.stats.interval import bootstrap_t_values
from arrcoc_verify.stats.tails import MeanTails, n_tail_resamples

X = np.random.default_rng(0).exponential(size=14)


def test_resamples_put_a_hundred_beyond_the_level_between_bounds() -> None:
    wanted = {0.5: 9_999, 0.01: 9_999, 0.005: 19_999, 0.001: 99_999, 1e-6: 99_999}
    assert {alpha: n_tail_resamples(alpha) for alpha in wanted} == wanted


@pytest.mark.parametrize("bound", [0.2, 0.8, 1.5])
def test_t_is_scipys(bound: float) -> None:
    tails = MeanTails(X, "t", 0.01, 0)
    for side, p in (("less", tails.p_below(bound)), ("greater", tails.p_above(bound))):
        assert p == pytest.approx(stats.ttest_1samp(X, bound, alternative=side).pvalue)


@pytest.mark.parametrize("bound", [0.2, 0.8, 1.5])
def test_bootstrap_t_counts_resamples_at_least_as_far(bound: float) -> None:
    values, tails = bootstrap_t_values(X, 19_999, 5), MeanTails(X, "bootstrap-t", 0.005, 5)
    t = (X.mean() - bound) / stats.sem(X)
    assert tails.p_below(bound) == (np.count_nonzero(values <= t) + 1) / 20_000
    assert tails.p_above(bound) == (np.count_nonzero(values >= t) + 1) / 20_000


@pytest.mark.parametrize("method", ["t", "bootstrap-t"])
def test_equal_values_allow_what_sign_flips_allow(method) -> None:
    tails = MeanTails(np.full(10, 0.5), method, 0.01, 0)
    least = smallest_p(10)
    assert [tails.p_below(b) for b in (0.4, 0.5, 0.6)] == [1.0, 1.0, least]
    assert [tails.p_above(b) for b in (0.4, 0.5, 0.6)] == [least, 1.0, 1.0]


def test_small_and_large_spreads_are_resampled_alike() -> None:
    p = MeanTails(X, "bootstrap-t", 0.01, 0).p_below(1.0)
    for scale in (1e-9, 1e9):
        tails = MeanTails(X * scale, "bootstrap-t", 0.01, 0)
        assert tails.p_below(scale) == pytest.approx(p, abs=2e-4)


def test_unknown_methods_and_levels_are_refused() -> None:
    with pytest.raises((UsageError, TypeCheckError), match="method"):
        MeanTails(X, "z", 0.01, 0)
    with pytest.raises(UsageError, match="alpha"):
        MeanTails(X, "t", math.nan, 0)
