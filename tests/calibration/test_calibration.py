"""How often procedures err, by simulation: a quick slice here, the whole under `slow`."""

import math

import numpy as np
import pytest
from scipy import stats

from arrcoc_verify.stats.calibration import SHAPES, SIZES, coverage, draw, main, size
from arrcoc_verify.stats.conclude import conclude
from arrcoc_verify.stats.decide import decide_causes, decide_no_effect
from arrcoc_verify.stats.permutation import max_t
from arrcoc_verify.stats.trend import dose_response
from arrcoc_verify.verdict import Outcome


def most(rate: float, n: int) -> float:
    """Return what n trials at this rate exceed once in ten thousand runs."""
    return float(stats.binom.ppf(1 - 1e-4, n, rate)) / n


@pytest.mark.parametrize("shape", SHAPES)
def test_simulated_effects_have_mean_0_and_variance_1(shape: str) -> None:
    x = draw(shape, 400_000, np.random.default_rng(0))
    assert x.mean() == pytest.approx(0.0, abs=0.01)
    assert x.var() == pytest.approx(1.0, abs=0.12)


def test_sign_flips_err_at_their_level_on_symmetric_effects() -> None:
    for shape, n in (("normal", 8), ("uniform", 12)):
        for row in size("sign-flip", shape, n, 0.05, 1_000, 0):
            assert row.rate.value <= most(0.05, 1_000)


def test_sign_flips_are_too_bold_towards_the_short_tail_and_the_rule_is_less_so() -> None:
    bold = size("sign-flip", "skewed", 16, 0.01, 600, 0)[1].rate
    rule = size("rule", "skewed", 16, 0.01, 600, 0)[1].rate
    assert bold.low > 0.02
    assert rule.value < 0.7 * bold.value


def test_the_decision_rule_errs_less_than_its_level_on_symmetric_effects() -> None:
    rng = np.random.default_rng(0)
    ends = [
        conclude([decide_causes(draw("normal", 12, rng) + 2.0, margin=2.0)], 0.05)[0].outcome
        for _ in range(300)
    ]
    assert ends.count(Outcome.HOLDS) / 300 <= most(0.05, 300)
    assert ends.count(Outcome.REFUTED) / 300 <= most(0.05, 300)


def test_no_effect_is_seldom_shown_where_the_distance_is_the_margin() -> None:
    rng = np.random.default_rng(0)
    shown = sum(
        decide_no_effect(np.abs(rng.standard_normal(16)), margin=1.0, alpha=0.05).p_hold <= 0.05
        for _ in range(300)
    )
    assert shown / 300 <= most(0.05, 300)


def test_no_effect_is_seldom_shown_on_long_tailed_distances_at_strict_levels() -> None:
    rng = np.random.default_rng(0)
    shown = sum(
        decide_no_effect(rng.lognormal(0.0, 1.0, 22), margin=math.e).p_hold <= 3e-4
        for _ in range(300)
    )
    assert shown / 300 <= 0.015


def test_max_t_keeps_the_family_wise_error_under_dependence() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        x = rng.standard_normal((10, 5)) + rng.standard_normal((10, 1))
        x[:, 0] += 3.0  # a true effect must not cost the others their control
        wrong += max_t(x)[1:].min() <= 0.05
    assert wrong / 300 <= most(0.05, 300)


def test_dose_response_errs_at_its_level_with_ties() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(dose_response(rng.integers(3, size=(6, 4))).p <= 0.05 for _ in range(500))
    assert wrong / 500 <= most(0.05, 500)


@pytest.mark.parametrize(
    ("shape", "n", "least"),
    [("normal", 8, 0.90), ("skewed", 16, 0.90), ("lognormal", 8, 0.83), ("lognormal", 32, 0.85)],
)
def test_intervals_cover_about_as_often_as_they_say(shape: str, n: int, least: float) -> None:
    row = coverage("auto", shape, n, 0.95, 200, 0)
    assert row.rate.value >= least


def test_bootstrap_t_covers_more_than_bca_on_few_skewed_effects() -> None:
    t, bca = (coverage(method, "lognormal", 8, 0.95, 150, 1) for method in ("bootstrap-t", "bca"))
    assert t.rate.value > bca.rate.value + 0.04


@pytest.mark.slow
def test_the_command_prints_every_figure(capsys) -> None:
    main(["--sims", "20", "--alpha", "0.05"])
    printed = capsys.readouterr().out
    for word in ("bootstrap-t", "lognormal", "n = 64", "sign-flip, less", "rule, greater"):
        assert word in printed


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_coverage_and_size_at_every_n_in_earnest(n: int) -> None:
    for shape in SHAPES:
        row = coverage("auto", shape, n, 0.95, 2_000, 0)
        assert row.rate.value >= (0.86 if shape == "lognormal" else 0.91)
    for shape in ("normal", "uniform"):
        for row in size("rule", shape, n, 0.01, 10_000, 0):
            assert row.rate.value <= most(0.01, 10_000)
    assert math.isfinite(row.rate.high)
