"""Betting: martingale identities, closed forms, anytime validity."""

import math
from itertools import product

import numpy as np
import pytest

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.sequential import confidence_sequence, e_process, n_to_decide

RNG = np.random.default_rng(0)
POSITIVE = np.clip(RNG.normal(0.2, 0.3, 256), -1, 1)


@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize("margin", [0.0, 0.3, -0.5])
def test_evidence_is_a_martingale_under_the_boundary_of_the_null(alternative, margin) -> None:
    """Over all sequences of a two-point law with mean = margin, the expected e-value is 1."""
    up = (1 + margin) / 2
    expected = 0.0
    for signs in product((1.0, -1.0), repeat=8):
        chance = math.prod(up if sign > 0 else 1 - up for sign in signs)
        expected += chance * e_process(signs, margin, alternative)[-1]
    assert expected == pytest.approx(1.0)


def test_one_effect_multiplies_the_capital_by_its_mean_stake() -> None:
    assert e_process([1.0])[0] == pytest.approx(1.5)
    assert e_process([-1.0])[0] == pytest.approx(0.5)
    assert e_process([0.0])[0] == pytest.approx(1.0)


def test_evidence_grows_with_each_effect() -> None:
    better = POSITIVE.copy()
    better[3] = 1.0
    assert np.all(e_process(better)[3:] >= e_process(POSITIVE)[3:])


def test_the_mirror_image_has_the_same_evidence_the_other_way() -> None:
    a = e_process(POSITIVE, 0.1, "greater")
    assert a == pytest.approx(e_process(-POSITIVE, -0.1, "less"))


def test_other_bounds_are_the_same_bet_in_other_units() -> None:
    tokens = e_process(POSITIVE * 336, 0.0, "greater", (-336.0, 336.0))
    assert tokens == pytest.approx(e_process(POSITIVE))


def test_a_clear_effect_is_decided_early_and_no_effect_never() -> None:
    first = n_to_decide(POSITIVE, alpha=0.01)
    assert first is not None
    assert first < 100
    assert e_process(POSITIVE)[first - 1] >= 100 > e_process(POSITIVE)[: first - 1].max()
    assert n_to_decide(np.tile([0.5, -0.5], 100)) is None
    assert n_to_decide(-POSITIVE) is None


def test_overwhelming_evidence_is_infinite_and_not_an_error() -> None:
    assert math.inf == e_process(np.ones(5_000))[-1]


def test_confidence_sequence_shrinks_around_the_mean() -> None:
    found = confidence_sequence(POSITIVE, 0.95)
    assert np.all(np.diff(found.low) >= 0)
    assert np.all(np.diff(found.high) <= 0)
    assert found.low[-1] < POSITIVE.mean() < found.high[-1]
    assert found.high[-1] - found.low[-1] < 0.15


def test_confidence_sequence_inverts_the_e_process() -> None:
    found = confidence_sequence(POSITIVE, 0.9)
    assert e_process(POSITIVE, float(found.low[-1]), "greater").max() >= 20
    assert e_process(POSITIVE, float(found.low[-1]) + 0.006, "greater").max() < 20


def test_looking_after_every_unit_errs_less_often_than_alpha() -> None:
    rng = np.random.default_rng(1)
    rejected = missed = 0
    for at in range(300):
        x = np.where(rng.random(150) < 0.9, 0.1, -0.9)  # mean 0, heavily skewed
        rejected += n_to_decide(x, alpha=0.05) is not None
        if at < 50:
            found = confidence_sequence(x[:60], 0.9)
            missed += not (found.low[-1] <= 0.0 <= found.high[-1])
    assert rejected / 300 <= 0.05
    assert missed / 50 <= 0.1


@pytest.mark.parametrize("bad", [1.01, -2.0])
def test_effects_outside_the_bounds_are_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="bounds"):
        e_process([0.1, bad])


def test_nan_bad_margins_and_empty_bounds_are_refused() -> None:
    with pytest.raises(NonFinite):
        e_process([0.1, math.nan])
    with pytest.raises(UsageError, match="margin"):
        e_process([0.1], margin=1.0)
    with pytest.raises(UsageError, match="bounds"):
        confidence_sequence([0.1], bounds=(1.0, -1.0))


def test_two_effects_multiply_the_capital_of_each_bet() -> None:
    bets = (np.arange(20) + 0.5) / 20
    assert e_process([1.0, 0.5])[-1] == pytest.approx(np.mean((1 + bets) * (1 + bets / 2)))
    assert e_process([0.5], 0.2)[-1] == pytest.approx(np.mean(1 + bets * 0.3 / 1.2))


def test_what_is_left_out_is_said_in_the_signature() -> None:
    plain = (0.0, "greater", (-1.0, 1.0))
    assert e_process(POSITIVE).tolist() == e_process(POSITIVE, *plain).tolist()
    assert n_to_decide(POSITIVE) == n_to_decide(POSITIVE, 0.0, 0.01, "greater", (-1.0, 1.0))
    falling = {"alternative": "less", "bounds": (-1.0, 1.0)}
    assert n_to_decide(-POSITIVE, alternative="less") == n_to_decide(-POSITIVE, **falling)
    found, said = confidence_sequence(POSITIVE), confidence_sequence(POSITIVE, 0.95, (-1.0, 1.0))
    assert found.low.tolist() == said.low.tolist()
    assert found.level == 0.95


def test_the_mirror_image_has_the_mirrored_intervals_on_a_grid_of_401_means() -> None:
    found, mirrored = confidence_sequence(POSITIVE, 0.9), confidence_sequence(-POSITIVE, 0.9)
    assert mirrored.low == pytest.approx(-found.high)
    assert mirrored.high == pytest.approx(-found.low)
    assert confidence_sequence([-1.0]).low[0] == -1.0
    assert confidence_sequence([1.0]).high[0] == 1.0
    steps = (found.low + 1.0) / 0.005
    assert steps == pytest.approx(np.round(steps), abs=1e-6)


def test_margins_on_the_bounds_and_bounds_without_room_are_refused() -> None:
    for margin in (-1.0, 1.0, 2.0):
        with pytest.raises(UsageError, match="margin"):
            e_process([0.1], margin)
    with pytest.raises(UsageError, match="low < high"):
        e_process([1.0], 1.0, "greater", (1.0, 1.0))
