"""How far intervals, tests, families and e-processes can be trusted, by simulation.

Source: the simulations behind the choice of methods, kept so that anybody can run them again:
`python -m arrcoc_verify.stats.calibration --sims 2000`.
"""

import argparse
import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from arrcoc_verify.errors import UsageError
from arrcoc_verify.provenance import code_digest
from arrcoc_verify.stats.conclude import conclude
from arrcoc_verify.stats.decide import Decision, decide_causes, decide_no_effect
from arrcoc_verify.stats.interval import IntervalMethod, mean_interval, proportion_interval
from arrcoc_verify.stats.permutation import Alternative, sign_flip
from arrcoc_verify.stats.sample import FloatArray
from arrcoc_verify.stats.sequential import e_process
from arrcoc_verify.stats.tails import MeanTails
from arrcoc_verify.verdict import Estimate, Outcome, to_json

Tables = dict[str, list["Measured"]]

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


@functools.cache
def digest() -> str:
    """Return one digest of the code whose figures these are."""
    folder = Path(__file__).resolve().parent
    return code_digest(folder.glob("*.py"), folder)


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


def families(
    shape: str, n: int, claims: int, alpha: float, n_sims: int, seed: int
) -> list[Measured]:
    """Return how often a family of claims errs that all lie on their margin, by kind of claim.

    Half of the claims are causes, half are no-effect claims. `holds` on a world where no claim is
    true, and `refuted` where all are, are errors; at the margin both are worst.

    Args:
        shape: distribution of the effects.
        n: units.
        claims: claims of the family.
        alpha: family-wise level.
        n_sims: simulated runs.
        seed: of the worlds.
    """
    rng = np.random.default_rng(seed)
    tail = float(np.quantile(np.abs(draw(shape, 200_000, np.random.default_rng(1))), 0.95))
    # False at the margin: as large as it in the mean of squares. True: nineteen in twenty inside.
    worlds = ((Outcome.HOLDS, 1.0, "holds wrongly"), (Outcome.REFUTED, tail, "refuted wrongly"))
    rows = []
    for error, scale, said in worlds:
        wrong = {"causes": 0, "no effect": 0}
        for at in range(n_sims):
            causes, bounded = [
                _family(kind, claims // 2, lambda: draw(shape, n, rng), scale, alpha, seed + at)
                for kind in wrong
            ]
            ends = [d.outcome for d in conclude([*causes, *bounded], alpha)]
            wrong["causes"] += error in ends[: len(causes)]
            wrong["no effect"] += error in ends[len(causes) :]
        rows += [
            Measured(
                what=f"{kind}: any {said}", shape=shape, n=n, nominal=alpha,
                rate=proportion_interval(count, n_sims),
            )
            for kind, count in wrong.items()
        ]  # fmt: skip
    return rows


def _family(
    kind: str, count: int, effects: Callable[[], FloatArray], scale: float, alpha: float, seed: int
) -> list[Decision]:
    """Return decisions on claims that lie on their margin of 1."""
    level = alpha / (2 * count)
    if kind == "causes":
        return [
            decide_causes(1.0 + effects(), margin=1.0, alpha=level, seed=seed) for _ in range(count)
        ]
    return [
        decide_no_effect(np.abs(effects()) / scale, margin=1.0, alpha=level, seed=seed)
        for _ in range(count)
    ]


def at_the_margin(shape: str, n: int, alpha: float, n_sims: int, seed: int) -> Measured:
    """Return how often "no effect" is shown where the distance is as large as the margin."""
    rng = np.random.default_rng(seed)
    shown = 0
    for at in range(n_sims):
        distances = np.abs(draw(shape, n, rng))
        found = decide_no_effect(distances, margin=1.0, alpha=alpha, seed=seed + at)
        shown += found.p_hold is not None and found.p_hold <= alpha
    rate = proportion_interval(shown, n_sims)
    return Measured(what="no effect, at its margin", shape=shape, n=n, nominal=alpha, rate=rate)


def optional_stopping(shape: str, n: int, alpha: float, n_sims: int, seed: int) -> Measured:
    """Return how often an e-process that is looked at after every unit ever rejects a true null.

    Effects are brought into [-1, 1] and have a mean of exactly 0.
    """
    rng = np.random.default_rng(seed)
    ever = 0
    for _ in range(n_sims):
        if shape in ("normal", "uniform"):
            x = np.clip(draw(shape, n, rng) / 3.0, -1.0, 1.0)
        else:  # two points: seldom far down, else a little up
            x = np.where(rng.random(n) < 0.1, -0.9, 0.1)
        ever += float(e_process(x).max()) >= 1.0 / alpha
    rate = proportion_interval(ever, n_sims)
    return Measured(what="e-process, ever", shape=shape, n=n, nominal=alpha, rate=rate)


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


def _rows(
    plans: Sequence[tuple[Any, ...]], of: Callable[..., Sequence[Measured]], console: Console
) -> list[Measured]:
    name = of.__name__.replace("_", " ")
    shown = track(plans, name, console=console, transient=True)
    return [row for plan in shown for row in of(*plan)]


def _one(of: Callable[..., Measured]) -> Callable[..., Sequence[Measured]]:
    def several(*arguments: Any) -> Sequence[Measured]:
        return [of(*arguments)]

    several.__name__ = of.__name__
    return several


def measured(
    sims: int, seed: int, level: float, alphas: Sequence[float], console: Console
) -> Tables:
    """Return every figure by the title of its table.

    Args:
        sims: simulated samples per figure.
        seed: of all of them.
        level: of the intervals.
        alphas: levels of the tests.
        console: where progress is shown.
    """
    methods: tuple[IntervalMethod, ...] = ("t", "bca", "bootstrap-t", "auto")
    shapes = ("normal", "skewed", "lognormal")
    at = (sims, seed)
    return {
        "Coverage of intervals of the mean": _rows(
            [(m, s, n, level, *at) for m in methods for s in SHAPES for n in SIZES],
            _one(coverage), console,
        ),
        "Size of the one-sided tests (false rejections of a mean of 0)": _rows(
            [(t, s, n, a, 5 * sims, seed)
             for t in TESTS for s in SHAPES for a in alphas for n in SIZES],
            size, console,
        ),
        "Families on their margins: runs with any wrong verdict": _rows(
            [(s, n, 10, 0.05, max(1, sims // 4), seed) for s in shapes for n in (16, 32)],
            families, console,
        ),
        "No effect shown where the distance is the margin": _rows(
            [(s, n, a, sims, seed) for s in shapes for a in alphas for n in SIZES],
            _one(at_the_margin), console,
        ),
        "E-processes looked at after every unit, up to n": _rows(
            [(s, n, a, 5 * sims, seed) for s in shapes for a in alphas for n in (64, 256)],
            _one(optional_stopping), console,
        ),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Print every figure with its Monte Carlo interval."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.stats.calibration")
    parser.add_argument("--sims", type=int, default=400, help="simulated samples per figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.05, 0.01, 0.001])
    parser.add_argument("--json", type=Path, help="keep the figures here, too")
    chosen = parser.parse_args(argv)
    console = Console(width=max(140, Console().width))
    tables = measured(chosen.sims, chosen.seed, chosen.level, chosen.alpha, console)
    for title, rows in tables.items():
        console.print(table_of(title, rows))
    if chosen.json is not None:
        data = {
            "digest": digest(), "sims": chosen.sims, "seed": chosen.seed,
            "tables": {title: [to_json(row) for row in rows] for title, rows in tables.items()},
        }  # fmt: skip
        part = chosen.json.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(chosen.json)


if __name__ == "__main__":
    main()
