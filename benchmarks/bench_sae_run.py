"""One run of all libraries: same data, steps and precision, in turns; speed and what it bought."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from arrcoc_verify.dictionary.kernels import fast_bfloat16
from arrcoc_verify.dictionary.sparse_world import probe_ceiling
from arrcoc_verify.report.atomic import make_folder, write_text
from benchmarks import bench_sae_peers
from benchmarks.bench_sae_engines import own
from benchmarks.bench_sae_world import BY_K, DEFAULT, SETTINGS, Setting, sparse_world
from benchmarks.measure import machine

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 0.95
"""Share of the best final F1 whose first reaching is told of each library."""
console = Console(stderr=True, width=120)


class Worker:
    """A process that trains with one library; see `bench_sae_worker.py`."""

    def __init__(self, python: Path, options: argparse.Namespace) -> None:
        threads = options.threads
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        searched = [str(ROOT)]
        if bench_sae_peers.packages(options.peers):
            searched.append(str(options.peers.resolve()))
        quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1",
                 "PYTHONPATH": os.pathsep.join(searched)}  # fmt: skip
        self.process = subprocess.Popen(
            [str(python), "-m", "benchmarks.bench_sae_worker"], cwd=ROOT,
            env={**os.environ, **counts, **quiet}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )  # fmt: skip

    def send(self, **request: Any) -> None:
        """Ask for something; the answer is yet to be heard."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died, as `hear` will say
                self.process.stdin.write(json.dumps(request) + "\n")

    def hear(self) -> dict[str, Any]:
        """Return the worker's answer, or its error."""
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the worker died"}
        return answer

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None and self.process.stdout is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)
            self.process.stdout.close()


def measured(
    setting: Setting, pythons: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Return one setting's figures."""
    workers = {name: Worker(python, options) for name, python in pythons.items()}
    try:
        with Progress(console=console, transient=True) as progress:
            turns = setting.rounds * (1 + setting.followed) + 3
            task = progress.add_task(setting.name, total=turns * len(workers))
            trained = _Trained(workers, lambda: progress.advance(task))
            trained.make(setting=setting.name, seed=options.seed, device=options.device,
                         threads=options.threads)  # fmt: skip
            trained.all(do="steps", first=0, count=setting.warm)
            rounds, scored = [], []
            if setting.followed:
                scored.append((setting.warm, trained.all(do="score")))
            for number in range(setting.rounds):
                trained.turn()
                first = setting.warm + number * setting.steps
                rounds.append(trained.all(do="steps", first=first, count=setting.steps))
                if setting.followed or number == setting.rounds - 1:
                    scored.append((first + setting.steps, trained.all(do="score")))
            scores = scored[-1][1]
    finally:
        for worker in workers.values():
            worker.close()
    scores = {name: scores[name] for name in pythons if name in scores}
    ceiling = (
        {"probe_ceiling_f1": probe_ceiling(sparse_world(setting, options.seed))}
        if setting.correlated else {}
    )  # fmt: skip
    told = way(scored, list(scores)) if setting.followed else {}
    return summary(setting, rounds, scores, trained.problems) | ceiling | told


class _Trained:
    """Asks every library that has not failed the same, and hears them all."""

    def __init__(self, workers: Mapping[str, Worker], tell: Callable[[], None]) -> None:
        self.workers, self.tell = dict(workers), tell
        self.problems: dict[str, str] = {}

    def make(self, **request: Any) -> None:
        """Let all libraries prepare at once."""
        for name, worker in self.workers.items():
            worker.send(do="make", engine=name, **request)
        for name, worker in list(self.workers.items()):
            self._heard(name, worker.hear())

    def all(self, **request: Any) -> dict[str, dict[str, Any]]:
        """Return the answers of libraries that were asked one after the other."""
        replies = {}
        for name, worker in list(self.workers.items()):
            worker.send(**request)
            reply = worker.hear()
            if self._heard(name, reply):
                replies[name] = reply
        return replies

    def _heard(self, name: str, reply: Mapping[str, Any]) -> bool:
        self.tell()
        if "error" in reply:
            self.problems[name] = reply["error"]
            del self.workers[name]
        return "error" not in reply

    def turn(self) -> None:
        """Let another library begin the next round."""
        first = next(iter(self.workers))
        self.workers[first] = self.workers.pop(first)


def summary(
    setting: Setting,
    rounds: Sequence[Mapping[str, Mapping[str, float]]],
    scores: Mapping[str, Mapping[str, float]],
    problems: Mapping[str, str],
) -> dict[str, Any]:
    """Return each library's speed and scores, and what ours is ahead by within the rounds."""
    samples = setting.steps * setting.batch
    libraries = {}
    for name, score in scores.items():
        wall, cpu = ([one[name][kind] for one in rounds] for kind in ("wall", "cpu"))
        libraries[name] = {
            "samples_per_second": samples / statistics.median(wall),
            "samples_per_cpu_second": samples / statistics.median(cpu),
            "slowest": samples / max(wall), "fastest": samples / min(wall), **score,
        }  # fmt: skip
    ratios = {
        f"ours/{name}": {
            kind: statistics.median(one[name][kind] / one["ours"][kind] for one in rounds)
            for kind in ("wall", "cpu")
        }
        for name in libraries if name != "ours" and "ours" in libraries
    }  # fmt: skip
    return {"setting": setting.plain(), "libraries": libraries, "ratios": ratios,
            "problems": dict(problems)}  # fmt: skip


def way(
    scored: Sequence[tuple[int, Mapping[str, Mapping[str, float]]]], names: Sequence[str]
) -> dict[str, Any]:
    """Return each library's scores by the number of steps, and when it was good enough.

    Args:
        scored: (steps done, scores by library), in order; the last are the final ones.
        names: libraries that did not fail.
    """
    curves = {
        name: [{"step": step, "fve": each[name]["fve"], "f1": each[name]["f1"]}
               for step, each in scored]
        for name in names
    }  # fmt: skip
    wanted = ENOUGH * max((curve[-1]["f1"] for curve in curves.values()), default=0.0)
    first = {
        name: next((int(at["step"]) for at in curve if at["f1"] >= wanted), None)
        for name, curve in curves.items()
    }
    return {"on_the_way": curves, "steps_to_quality": {"f1": wanted, "steps": first}}


def by_k(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return FVE and F1 of each library on the planted world by k, as far as it was measured."""
    each = {one["setting"]["k"]: one for one in results if one["setting"]["name"] in BY_K}
    return {
        str(k): {name: {"fve": found["fve"], "f1": found["f1"]}
                 for name, found in each[k]["libraries"].items()}
        for k in sorted(each)
    }  # fmt: skip


def shown(result: Mapping[str, Any]) -> None:
    """Print one setting as a table."""
    told = result["setting"]
    table = Table(title=(
        f"{told['name']}: {told['d_in']} channels, {told['latents']} latents, k={told['k']}, "
        f"batch {told['batch']}, {told['total_steps']} steps"
    ))  # fmt: skip
    headings = ("library", "samples/s", "per CPU s", "ours is x faster", "(CPU)",
                "FVE", "L0", "dead", "MCC", "F1")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "library" else "right")
    for name, found in result["libraries"].items():
        ratio = result["ratios"].get(f"ours/{name}")
        table.add_row(
            name, f"{found['samples_per_second']:,.0f}", f"{found['samples_per_cpu_second']:,.0f}",
            f"{ratio['wall']:.2f}" if ratio else "", f"{ratio['cpu']:.2f}" if ratio else "",
            *(f"{found[key]:.4f}" for key in ("fve", "l0", "dead", "mcc", "f1")),
        )  # fmt: skip
    console.print(table)
    if "probe_ceiling_f1" in result:
        console.print(f"  F1 of logistic probes that know the truth: "
                      f"{result['probe_ceiling_f1']:.4f}")  # fmt: skip
    if "steps_to_quality" in result:
        sought = result["steps_to_quality"]
        each = ", ".join(f"{name} {step or 'never'}" for name, step in sought["steps"].items())
        console.print(f"  steps to F1 {sought['f1']:.4f}, {ENOUGH:.0%} of the best: {each}")
    for name, why in result["problems"].items():
        console.print(f"  {name} failed: {why}")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line, understood."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/bench_sae.py --settings wide --threads 2 --json a.json",
    )
    parser.add_argument("--json", "--out", type=Path, default=ROOT / "reports" / "bench_sae.json")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=None,
                        help="of each library; more than idle cores are slow; "
                             "default 1, with CUDA 4")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=sorted(SETTINGS), default=None,
                        help="comparisons; the first stands at the top of the report")  # fmt: skip
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers-sae",
                        help="the libraries' environment, made where there is none, or a folder "
                             "that they were installed into by pip install --target")  # fmt: skip
    parser.add_argument("--no-peers", action="store_true", help="measure ours only")
    options = parser.parse_args(given)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda was asked for, but torch sees no CUDA device; leave it out")
    kind = "cuda" if options.device.startswith("cuda") else "cpu"
    options.settings = options.settings or DEFAULT[kind]
    options.threads = options.threads or {"cpu": 1, "cuda": 4}[kind]
    return options


def libraries(options: argparse.Namespace) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the interpreter of each engine, and what the report says of the libraries."""
    python, versions, why = None, {}, "left out on request"
    if not options.no_peers:
        python, versions, why = bench_sae_peers.environment(options.peers)
    if python is None:
        console.print(f"[bold]only ours is measured:[/] {why}")
    found = {name: Path(sys.executable) for name in own(options.device)}
    found |= {name: python for name in versions if python is not None}
    return found, {"versions": versions, "reason": why}


def main(given: Sequence[str] | None = None) -> int:
    """Train, print, write; 0 when every library was measured in every setting."""
    options = arguments(given)
    before = machine() | {
        "threads": options.threads, "device": options.device,
        "bfloat16_proposals": fast_bfloat16(torch.device(options.device)),
    }  # fmt: skip
    if options.device.startswith("cuda"):
        before["gpu"] = torch.cuda.get_device_name()
    pythons, told = libraries(options)
    results = []
    for name in options.settings:
        results.append(measured(SETTINGS[name], pythons, options))
        shown(results[-1])
    report = {
        "schema": 1, "seed": options.seed,
        "precision": "float32" if options.device == "cpu" else "float32, products in TF32",
        "machine": before | {"load_after": machine()["load"]}, "peers": told,
        **results[0], "also": results[1:], "planted_by_k": by_k(results),
    }  # fmt: skip
    make_folder(options.json.parent)
    write_text(options.json, json.dumps(report, indent=2) + "\n")
    console.print(f"written: {options.json}")
    return 1 if any(result["problems"] for result in results) else 0
