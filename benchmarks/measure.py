"""One run of all measurements: engines in turn, equal results first, ratios within each round."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from arrcoc_verify.provenance import packages
from arrcoc_verify.report.atomic import make_folder, write_text
from benchmarks import audit_cost, peers
from benchmarks.sweeps import SWEEPS

ROOT = Path(__file__).resolve().parents[1]
SAME = 1e-5
"""Largest relative difference between the results of two engines that are compared."""
FORMS = ("nnsight_trace", "nnsight_invokes")
"""The two ways to write a sweep in nnsight; the faster one is `nnsight`."""

console = Console(stderr=True)


class Worker:
    """A process that runs engines; see `worker.py`."""

    def __init__(self, python: Path, *, quick: bool) -> None:
        self.quick = quick
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [str(python), "-m", "benchmarks.worker"], cwd=ROOT, env={**os.environ, **threads},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def ask(self, sweep: str, engine: str, save: Path | None = None) -> dict[str, Any]:
        """Return wall and CPU seconds of one run of an engine, or its error."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        request = {"sweep": sweep, "engine": engine, "quick": self.quick}
        self.process.stdin.write(json.dumps(request | {"save": str(save) if save else ""}) + "\n")
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the worker died"}
        return answer

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def measured(name: str, workers: Mapping[str, Worker], repeats: int) -> dict[str, Any]:
    """Return one sweep's figures: a round to warm up and compare results, then timed rounds."""
    engines, problems, first = dict(workers), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {}
        for engine in workers:
            path = Path(folder) / f"{engine}.npy"
            reply = workers[engine].ask(name, engine, save=path)
            if "error" in reply:
                problems[engine] = reply["error"]
                del engines[engine]
            else:
                first[engine], results[engine] = reply, np.load(path)
    if "ours" in problems:
        raise RuntimeError(f"sweep {name}: ours failed: {problems['ours']}")
    difference = compared(name, results)
    engines = without_slower_form(engines, first, repeats)
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(repeats):
        order = list(engines)
        order = order[number % len(order) :] + order[: number % len(order)]
        rounds.append({engine: engines[engine].ask(name, engine) for engine in order})
    rounds = rounds or [first]
    return summary(name, rounds, first, problems, difference)


def compared(name: str, results: Mapping[str, Any]) -> float:
    """Return the largest relative difference from ours; raise where engines do not agree."""
    ours = results["ours"]
    scale = float(np.abs(ours).max())
    if float(np.abs(ours - ours[:1]).max()) <= SAME * scale:
        raise RuntimeError(
            f"sweep {name}: the interventions change nothing, so nothing is compared"
        )
    worst = 0.0
    for engine, result in results.items():
        apart = float(np.abs(result - ours).max()) / scale
        if not apart <= SAME:
            raise RuntimeError(f"sweep {name}: {engine} differs from ours by {apart:.2g}, relative")
        worst = max(worst, apart)
    return worst


def without_slower_form(
    engines: dict[str, Worker], first: Mapping[str, Any], repeats: int
) -> dict[str, Worker]:
    """Leave out the slower of nnsight's two forms, so that it is measured at its best."""
    forms = sorted((first[form]["cpu"], form) for form in FORMS if form in engines)
    slower = {form for _, form in forms[1:]} if repeats else set()
    return {engine: worker for engine, worker in engines.items() if engine not in slower}


def summary(
    name: str,
    rounds: Sequence[Mapping[str, Mapping[str, float]]],
    first: Mapping[str, Any],
    problems: Mapping[str, str],
    difference: float,
) -> dict[str, Any]:
    """Return medians over rounds, ratios within rounds, and their spread."""
    config = first["ours"]["config"]
    rate, cpu_rate, ratios, spread = {}, {}, {}, {}
    for engine in rounds[0]:
        column = label(engine)
        if column in rate and engine in FORMS:
            continue
        rates = [config["interventions"] / one[engine]["wall"] for one in rounds]
        rate[column] = statistics.median(rates)
        cpu_rate[column] = config["interventions"] / min(one[engine]["cpu"] for one in rounds)
        apart = {
            kind: [one[engine][kind] / one["ours"][kind] for one in rounds]
            for kind in ("wall", "cpu")
        }
        ratios[column] = {kind: statistics.median(values) for kind, values in apart.items()}
        spread[column] = {
            "slowest": min(rates), "fastest": max(rates),
            "ratio_least": min(apart["cpu"]), "ratio_most": max(apart["cpu"]),
        }  # fmt: skip
        if engine in FORMS:
            config = config | {"nnsight_form": engine}
    nothing = dict.fromkeys(("ours", "naive", "nnsight"))
    return {
        "name": name,
        **nothing | {key: rate[key] for key in nothing if key in rate},
        "interventions_per_second": nothing | rate,
        "interventions_per_cpu_second": nothing | cpu_rate,
        "ratios": {f"ours/{column}": value for column, value in ratios.items() if column != "ours"},
        "spread": spread,
        "bound": first["ours"]["bound"],
        "largest_difference": difference,
        "problems": dict(problems),
        "config": config | {"rounds": len(rounds)},
    }  # fmt: skip


def label(engine: str) -> str:
    """Return the column that an engine's figures stand in."""
    return "nnsight" if engine in FORMS else engine


def engines_of(sweep: str, own: Worker, rival: Worker | None) -> dict[str, Worker]:
    """Return who takes part in a sweep: stage caches only where there are stages."""
    staged = sweep == "stages"
    mine = ["ours", "naive", "hooks", *(["hand_cache"] if staged else [])]
    theirs = [*FORMS, *(["nnsight_skip"] if staged else [])] if rival else []
    found = dict.fromkeys(mine, own)
    return found | (dict.fromkeys(theirs, rival) if rival else {})


def machine() -> dict[str, Any]:
    """Return what the figures hang on."""
    return {
        "cores": os.cpu_count(),
        "processor": processor(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "threads": 1,
        "python": platform.python_version(),
        "packages": packages(("torch", "timm", "numpy")),
        "device": "cpu",
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def shown(sweep: Mapping[str, Any]) -> None:
    """Print one sweep as a table."""
    bound = f", at most {sweep['bound']:.2f} x by skipping" if sweep["bound"] else ""
    count = sweep["config"]["interventions"]
    table = Table(title=f"{sweep['name']}: {count} interventions{bound}")
    for heading in ("engine", "per second", "per CPU second", "ours is x faster", "(CPU)", "range"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for engine, rate in sweep["interventions_per_second"].items():
        if rate is None:
            table.add_row(engine, "not measured")
            continue
        ratio = sweep["ratios"].get(f"ours/{engine}")
        spread = sweep["spread"][engine]
        table.add_row(
            engine, f"{rate:.1f}", f"{sweep['interventions_per_cpu_second'][engine]:.1f}",
            f"{ratio['wall']:.2f}" if ratio else "", f"{ratio['cpu']:.2f}" if ratio else "",
            f"{spread['ratio_least']:.2f} to {spread['ratio_most']:.2f}" if ratio else "",
        )  # fmt: skip
    console.print(table)
    for engine, why in sweep["problems"].items():
        console.print(f"  {engine} failed: {why}")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line, understood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", "--json", type=Path, default=ROOT / "reports" / "bench.json")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: a rehearsal")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each sweep")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers",
                        help="the rivals' environment, made where there is none")  # fmt: skip
    parser.add_argument("--no-peers", action="store_true", help="measure without nnsight")
    parser.add_argument("--no-audit", action="store_true", help="leave the audit's cost out")
    parser.add_argument("--only-audit", action="store_true",
                        help="measure the audit again, keep the sweeps of the file")  # fmt: skip
    return parser.parse_args(given)


def rivals(options: argparse.Namespace) -> tuple[Path | None, dict[str, Any]]:
    """Return the rivals' interpreter and what the report says of them."""
    if options.no_peers:
        python, told = None, "left out on request"
    else:
        folder: Path = options.peers
        python, told = peers.environment(folder.parents[1] if folder.is_file() else folder)
    if python is None:
        console.print(f"[bold]nnsight is not measured:[/] {told}")
        return None, {"nnsight": None, "reason": told}
    return python, {"nnsight": told, "reason": ""}


def swept(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all sweeps, with the machine and the rivals that they hang on."""
    before, repeats = machine(), 1 if options.quick else options.repeats
    python, told = rivals(options)
    own = Worker(Path(sys.executable), quick=options.quick)
    rival = Worker(python, quick=options.quick) if python else None
    sweeps = []
    try:
        for name in SWEEPS:
            sweeps.append(measured(name, engines_of(name, own, rival), repeats))
            shown(sweeps[-1])
    finally:
        for worker in (own, rival):
            if worker:
                worker.close()
    return {
        "schema": 1,
        "quick": options.quick,
        "machine": before | {"load_after": machine()["load"]},
        "peers": told,
        "sweeps": sweeps,
    }


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; 0 when every sweep was measured."""
    options = arguments(given)
    if options.only_audit:
        report = json.loads(options.out.read_text(encoding="utf-8"))
    else:
        report = swept(options)
    before = machine()["load"]
    cost = None if options.no_audit else audit_cost.measured(quick=options.quick)
    audit_cost.shown(console, cost)
    report["audit"] = cost and {**cost, "load": before, "load_after": machine()["load"]}
    make_folder(options.out.parent)
    write_text(options.out, json.dumps(report, indent=2) + "\n")
    console.print(f"written: {options.out}")
    return 0
