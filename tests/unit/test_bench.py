"""The measurements run, compare equal results and write what readers of the file expect."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import audit_cost, measure

ROOT = Path(__file__).parents[2]


def test_a_rehearsal_writes_every_sweep_with_its_figures(tmp_path):
    out = tmp_path / "reports" / "bench.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/bench.py", "--quick", "--no-peers", "--no-audit",
         "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert "nnsight is not measured: left out on request" in done.stderr
    report = json.loads(out.read_text())
    assert ["stages", "vit_blocks", "vit_nodes"] == [sweep["name"] for sweep in report["sweeps"]]
    for sweep in report["sweeps"]:
        rates = sweep["interventions_per_second"]
        assert rates["ours"] > 0
        assert rates["naive"] > 0
        assert rates["nnsight"] is None
        assert {name: rates[name] for name in ("ours", "naive", "nnsight")} == {
            name: sweep[name] for name in ("ours", "naive", "nnsight")
        }
        assert {"ours/naive", "ours/hooks"} <= set(sweep["ratios"])
        assert 0 <= sweep["largest_difference"] <= measure.SAME
        assert {} == sweep["problems"]
    assert "hand_cache" in report["sweeps"][0]["interventions_per_second"]
    assert {"cores", "load", "load_after", "threads"} <= set(report["machine"])
    assert {"nnsight": None, "reason": "left out on request"} == report["peers"]


def test_engines_that_disagree_are_not_compared():
    ours = np.arange(6.0).reshape(3, 2)
    assert 0.0 == measure.compared("s", {"ours": ours, "naive": ours})
    with pytest.raises(RuntimeError, match="naive differs from ours"):
        measure.compared("s", {"ours": ours, "naive": ours + 0.01})
    with pytest.raises(RuntimeError, match="naive differs from ours"):
        measure.compared("s", {"ours": ours, "naive": ours * np.nan})


def test_interventions_that_change_nothing_are_not_measured():
    with pytest.raises(RuntimeError, match="change nothing"):
        measure.compared("s", {"ours": np.ones((3, 2))})


def test_a_straight_line_is_fitted_exactly():
    rows = [{"units": n, "seconds": 2.0 + 0.5 * n} for n in (8, 16, 32)]
    fit = audit_cost.fitted(rows, "seconds")
    assert (2.0, 0.5, 1.0) == tuple(pytest.approx(fit[key]) for key in ("fixed", "each", "r2"))
