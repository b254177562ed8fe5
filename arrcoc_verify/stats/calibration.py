"""How far intervals and tests can be trusted: coverage and size by simulation.

Source: the simulations behind the choice of methods, kept so that anybody can run them again:
`python -m arrcoc_verify.stats.calibration --sims 2000`.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.interval import IntervalMethod, mean_interval, proportion_interval
from arrcoc_verify.stats.permutation import Alternative, sign_flip
from arrcoc_verify.stats.sample import FloatArray
from arrcoc_verify.stats.tails import MeanTails
from arrcoc_verify.verdict import Estimate

SHAPES = ("normal", "uniform", "skewed", "lognormal")
"""Zero-mean, unit-variance effects: symmetric ones, mildly (2) and strongly (6) skewed ones."""

SIZES = (8, 16, 32, 64)
SIDES: tuple[Alternative, Alternative] = ("greater", "less")
TESTS = ("sign-flip", "rule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One simulated figure.

    Attributes:
        what: method or direction.
        shape: distribution of the effects.
        n: units.
        nominal: what the figure should be.
        rate: what it is, with its exact Monte Carlo interval.
    """

    what: str
    shape: str
    n: int
    nominal: float
    rate: Estimate


def draw(shape: str, n: int, rng: np.random.Generator) -> FloatArray:
    """Return n effects with mean 0 and variance 1 from the named distribution.

    Raises:
        UsageError: an unknown shape.
    """
    if shape == "normal":
        return rng.standard_normal(n)
    if shape == "uniform":
        return rng.uniform(-math.sqrt(3.0), math.sqrt(3.0), n)
    if shape == "skewed":
        return rng.exponential(1.0, n) - 1.0
    if shape == "lognormal":
        e = math.e
        return (rng.lognormal(0.0, 1.0, n) - math.sqrt(e)) / math.sqrt((e - 1.0) * e)
    raise UsageError(f"shape {shape!r}: wanted one of {', '.join(SHAPES)}")


def coverage(
    method: IntervalMethod, shape: str, n: int, level: float, n_sims: int, seed: int
) -> Measured:
    """Return how often the interval of `n` simulated effects covers their true mean."""
    rng = np.random.default_rng(seed)
    covered = 0
    for at in range(n_sims):
        found = mean_interval(draw(shape, n, rng), level, seed=seed + at, method=method)
        covered += found.low <= 0.0 <= found.high
    rate = proportion_interval(covered, n_sims)
    return Measured(what=method, shape=shape, n=n, nominal=level, rate=rate)


def size(
    test: str, shape: str, n: int, alpha: float, n_sims: int, seed: int
) -> tuple[Measured, Measured]:
    """Return how often a test rejects a null that is true (mean 0), upwards and downwards.

    Args:
        test: `sign-flip`, or `rule` for what `decide_causes` does (the larger one of the p of
            sign-flip and bootstrap-t).
        shape: distribution of the effects.
        n: units.
        alpha: level.
        n_sims: simulated samples.
        seed: of samples and flips.
    """
    rng = np.random.default_rng(seed)
    rejected = [0, 0]
    for at in range(n_sims):
        x = draw(shape, n, rng)
        up, down = (sign_flip(x, 0.0, side, alpha, seed + at).p for side in SIDES)
        if test == "rule" and min(up, down) <= alpha:  # only then can the larger one reject
            tails = MeanTails(x, "bootstrap-t", alpha, seed + at)
            up, down = max(up, tails.p_above(0.0)), max(down, tails.p_below(0.0))
        rejected[0] += up <= alpha
        rejected[1] += down <= alpha
    rates = [proportion_interval(count, n_sims) for count in rejected]
    up_row, down_row = (
        Measured(what=f"{test}, {side}", shape=shape, n=n, nominal=alpha, rate=rate)
        for side, rate in zip(SIDES, rates, strict=True)
    )
    return up_row, down_row


def table_of(title: str, rows: Sequence[Measured]) -> Table:
    """Return the figures as a table: one line per method and shape, one column per n."""
    sizes = sorted({row.n for row in rows})
    table = Table(title=title, caption="in brackets: 95 % Monte Carlo interval")
    for name in ("what", "effects", "nominal"):
        table.add_column(name, no_wrap=True)
    for n in sizes:
        table.add_column(f"n = {n}", justify="right", no_wrap=True)
    lines: dict[tuple[str, str, float], dict[int, str]] = {}
    for row in rows:
        key = (row.what, row.shape, row.nominal)
        text = f"{row.rate.value:.4f} ({row.rate.low:.4f}..{row.rate.high:.4f})"
        lines.setdefault(key, {})[row.n] = text
    for (what, shape, nominal), cells in lines.items():
        table.add_row(what, shape, f"{nominal:g}", *(cells.get(n, "") for n in sizes))
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Print coverage of the intervals and size of the sign-flip test."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.stats.calibration")
    parser.add_argument("--sims", type=int, default=400, help="simulated samples per figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.05, 0.01, 0.001])
    chosen = parser.parse_args(argv)
    console = Console(width=max(140, Console().width))
    methods: tuple[IntervalMethod, ...] = ("t", "bca", "bootstrap-t", "auto")
    plans = [(method, shape, n) for method in methods for shape in SHAPES for n in SIZES]
    rows = [
        coverage(method, shape, n, chosen.level, chosen.sims, chosen.seed)
        for method, shape, n in track(plans, "coverage", console=console, transient=True)
    ]
    console.print(table_of("Coverage of intervals of the mean", rows))
    tests = [(t, s, a, n) for t in TESTS for s in SHAPES for a in chosen.alpha for n in SIZES]
    rows = [
        row
        for test, shape, alpha, n in track(tests, "size", console=console, transient=True)
        for row in size(test, shape, n, alpha, 5 * chosen.sims, chosen.seed)
    ]
    console.print(table_of("Size of the one-sided tests (false rejections of a mean of 0)", rows))


if __name__ == "__main__":
    main()
