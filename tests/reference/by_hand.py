"""The formulas of docs/analytic.md in plain numpy, written from the document and not from the code.

One picture at a time: scores are `[3, patch]` in the order information, salience, query relevance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOW, HIGH = 64.0, 400.0
SHARPNESS, GAMMA, TRACE = 1.2, 4, 1e-6
ANSWER = np.array([4.0, 4.0, -4.0])
"""How the logit of each tension answers the mean of its scorer's map."""
KINDS = ("unrepaired", "local", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything between the three scores and the tokens of one picture."""

    scores: Array
    tensions: Array
    weights: Array
    mix: Array
    level: float
    relevance: Array
    demand: Array
    multiplier: float
    lod: Array


def allocate(
    scores: Array, said: tuple[float, float, float], total: float, held: State | None = None,
    kind: str = "total",
) -> State:  # fmt: skip
    """Stages balancing and attending.

    Args:
        scores: `[3, patch]`.
        said: broad, odd, specific.
        total: budget in tokens.
        held: clean state, of which `kind` says what is kept.
        kind: `total` keeps nothing, `local` the multiplier, `unrepaired` weights and level too.
    """
    broad, odd, specific = said
    base = np.array([-0.5 + 3 * broad - 0.5 * specific, 1 - 3 * odd, -1 + 3 * specific - 2 * broad])
    tensions = logistic(base + ANSWER * (scores.mean(1) - [0.5, 0.35, 0.1]))
    strength = np.exp(2 * SHARPNESS * (tensions - 0.5))
    weights = strength / strength.sum()
    if held is not None and kind == "unrepaired":
        weights = held.weights
    mix = np.maximum(weights @ scores, 0)
    level = float(mix.mean())
    if held is not None and kind == "unrepaired":
        level = held.level
    relevance = np.divide(mix, mix + level, out=np.zeros_like(mix), where=mix > 0)
    demand = relevance**GAMMA + TRACE
    multiplier = fill(demand, total)
    if held is not None and kind in ("local", "unrepaired"):
        multiplier = held.multiplier
    return State(
        scores=scores, tensions=tensions, weights=weights, mix=mix, level=level,
        relevance=relevance, demand=demand, multiplier=multiplier, lod=spend(demand, multiplier),
    )  # fmt: skip


def logistic(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))


def spend(demand: Array, multiplier: float) -> Array:
    return LOW + (HIGH - LOW) * np.clip(multiplier * demand, 0, 1)


def fill(demand: Array, total: float) -> float:
    """Water-filling: fill whoever overflows, share the rest in proportion, until nobody does."""
    wanted = (total - LOW * len(demand)) / (HIGH - LOW)
    full = np.zeros(len(demand), dtype=bool)
    while True:
        multiplier = (wanted - full.sum()) / demand[~full].sum()
        over = ~full & (multiplier * demand > 1)
        if not over.any():
            return float(multiplier)
        full |= over


def whole(lod: Array) -> Array:
    """Largest remainder; equal remainders in patch order."""
    floor = np.floor(lod + 1e-9)
    left = int(round(lod.sum()) - floor.sum())
    order = sorted(range(len(lod)), key=lambda i: (-round(max(lod[i] - floor[i], 0), 9), i))
    floor[order[:left]] += 1
    return floor


def shifted(scores: Array, scorer: int, where: NDArray[np.bool_], amount: float) -> Array:
    """Return the scores with one of them moved by `amount` on some patches."""
    moved = scores.copy()
    moved[scorer, where] += amount
    return moved


def slopes(state: State, scorer: int, where: NDArray[np.bool_]) -> Mapping[str, Array]:
    """First order: tokens a unit of shift, by kind of effect; no patch may lie at a corner."""
    tau = where.mean()
    tension = state.tensions[scorer]
    push = ANSWER[scorer] * tension * (1 - tension) * tau
    own = np.eye(3)[scorer]
    weights = 2 * SHARPNESS * state.weights * (own - state.weights[scorer]) * push
    direct = state.weights[scorer] * where
    mix = direct + weights @ state.scores
    open_ = state.multiplier * state.demand < 1

    def demand(mix: Array, level: float) -> Array:
        relevance = (state.level * mix - state.mix * level) / (state.mix + state.level) ** 2
        return np.asarray(GAMMA * state.relevance ** (GAMMA - 1) * relevance)

    full = HIGH - LOW
    held, answered = demand(direct, 0.0), demand(mix, float(mix.mean()))
    multiplier = -state.multiplier * answered[open_].sum() / state.demand[open_].sum()
    local = full * open_ * state.multiplier * answered
    return {
        "unrepaired": full * open_ * state.multiplier * held,
        "local": local,
        "total": local + full * open_ * multiplier * state.demand,
    }
