"""What an audit costs as pictures grow: seconds and peak memory, each size in a fresh process."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
SIZES, QUICK_SIZES = (8, 16, 32, 64), (8, 16)


def measured(*, quick: bool) -> dict[str, Any]:  # noqa: ARG001
    """Return seconds and MiB by number of units, and a line fitted through them."""
    if importlib.util.find_spec("arrcoc_verify.audit") is None:
        return {"reason": "this version cannot audit yet", "rows": []}
    return {"reason": "not measured", "rows": []}


def fitted(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return seconds = fixed + each x units by least squares, and R2."""
    units = np.array([row["units"] for row in rows], dtype=float)
    seconds = np.array([row["seconds"] for row in rows], dtype=float)
    each, fixed = np.polyfit(units, seconds, 1)
    left = seconds - (fixed + each * units)
    whole = seconds - seconds.mean()
    r2 = 1 - float(left @ left) / float(whole @ whole) if whole.any() else 1.0
    return {"fixed": float(fixed), "each": float(each), "r2": r2}


def shown(console: Console, cost: Mapping[str, Any] | None) -> None:
    """Print the audit's cost."""
    if not cost or not cost["rows"]:
        console.print(f"the audit's cost: {cost['reason'] if cost else 'left out on request'}")
        return
    table = Table(title="the audit's cost")
    for heading in ("units", "seconds", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in cost["rows"]:
        table.add_row(f"{row['units']}", f"{row['seconds']:.1f}", f"{row['peak_mib']:.0f}")
    console.print(table)
    fit = cost["fit"]
    console.print(f"seconds = {fit['fixed']:.1f} + {fit['each']:.3f} x units, R2 = {fit['r2']:.4f}")
