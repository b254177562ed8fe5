"""What an audit costs as pictures grow: seconds and peak memory, each size in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
SIZES, QUICK_SIZES = (16, 32, 48, 64), (8, 12)
"""Units; below about a dozen clusters some statistics are refused, so an audit is not whole."""


def measured(*, quick: bool) -> dict[str, Any]:
    """Return seconds and MiB by number of units, and a line fitted through them."""
    rows: list[dict[str, float]] = []
    for units in QUICK_SIZES if quick else SIZES:
        command = [
            sys.executable,
            "-m",
            "benchmarks.audit_cost",
            str(units),
            "attending.*" if quick else "*",
        ]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            told = done.stderr.strip().splitlines() or ["no reason given"]
            return {"reason": f"the audit of {units} units failed: {told[-1]}", "rows": rows}
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {
        "reason": "",
        "rows": rows,
        "fit": fitted(rows, "seconds"),
        "cpu_fit": fitted(rows, "cpu_seconds"),
        "memory_fit": fitted(rows, "peak_mib"),
    }


def one(units: int, claims: str) -> dict[str, float]:
    """Return what an audit of the analytic model on so many scenes costs, in this process.

    Scenes are taken from as many clusters as there are, one photograph each.
    """
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import run_audit, scene_set
    from arrcoc_verify.trial import Settings

    model = load("reference:analytic")
    found = scene_set(model, per_cluster=100)
    turns: Counter[str] = Counter()
    keyed = []
    for scene in found.asserted:
        keyed.append((turns[scene.cluster], scene.cluster, scene))
        turns[scene.cluster] += 1
    chosen = [scene for _, _, scene in sorted(keyed, key=lambda item: item[:2])][:units]
    if len(chosen) < units:
        raise SystemExit(f"there are {len(chosen)} scenes only")
    settings = Settings(seed=0, claims=(claims,))
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run_audit(
            model, replace(found, asserted=tuple(chosen)), settings, Path(folder) / "run"
        )
    return {
        "units": units, "seconds": result.seconds, "cpu_seconds": time.process_time() - cpu,
        "peak_mib": result.peak_mib, "claims": len(result.verdicts),
    }  # fmt: skip


def fitted(rows: Sequence[Mapping[str, float]], what: str) -> dict[str, float]:
    """Return `what` = fixed + each x units by least squares, and R2."""
    units = np.array([row["units"] for row in rows], dtype=float)
    values = np.array([row[what] for row in rows], dtype=float)
    each, fixed = np.polyfit(units, values, 1)
    left = values - (fixed + each * units)
    whole = values - values.mean()
    r2 = 1 - float(left @ left) / float(whole @ whole) if whole.any() else 1.0
    return {"fixed": float(fixed), "each": float(each), "r2": r2}


def shown(console: Console, cost: Mapping[str, Any] | None) -> None:
    """Print the audit's cost."""
    if not cost or cost["reason"]:
        console.print(f"the audit's cost: {cost['reason'] if cost else 'left out on request'}")
        return
    table = Table(title="the audit's cost")
    for heading in ("units", "seconds", "CPU seconds", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in cost["rows"]:
        table.add_row(
            f"{row['units']}", f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}",
            f"{row['peak_mib']:.0f}",
        )  # fmt: skip
    console.print(table)
    for what, fit in (("seconds", "fit"), ("CPU seconds", "cpu_fit"), ("peak MiB", "memory_fit")):
        line = cost[fit]
        console.print(
            f"{what} = {line['fixed']:.1f} + {line['each']:.3f} x units, R2 = {line['r2']:.4f}"
        )


if __name__ == "__main__":
    figures = json.dumps(one(int(sys.argv[1]), sys.argv[2]))
    sys.stdout.write(figures + "\n")
