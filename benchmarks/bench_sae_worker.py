"""Trains with one library in a process of its own: a line of JSON in, a line of JSON out."""

import json
import os
import sys
import time
import traceback
from typing import Any

import torch

from arrcoc_verify.dictionary.recovery import recovery
from benchmarks.bench_sae_engines import own
from benchmarks.bench_sae_rivals import RIVALS, rival
from benchmarks.bench_sae_world import SETTINGS, world_of


class Worker:
    """One library, one setting."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Make the engine; the same seed gives all libraries the same data."""
        torch.set_num_threads(request["threads"])
        torch.manual_seed(request["seed"])
        self.device: str = request["device"]
        if self.device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32, for all
        self.setting = SETTINGS[request["setting"]]
        self.world = world_of(self.setting, seed=request["seed"], device=self.device)
        name = request["engine"]
        make = (lambda *given: rival(name, *given)) if name in RIVALS else own(self.device)[name]
        self.engine = make(self.setting, self.world, self.device)

    def steps(self, first: int, count: int) -> dict[str, Any]:
        """Take some steps; making the batches is not timed."""
        batches = [self.world.batch(number) for number in range(first, first + count)]
        self.wait()
        cpu, wall = time.process_time(), time.perf_counter()
        for x in batches:
            self.engine.step(x)
        self.wait()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def score(self) -> dict[str, Any]:
        """Return what the dictionary is worth on samples that no step held."""
        x, truth = self.world.held_out()
        missed, parts = 0.0, []
        for part in x.split(1024):
            codes, decoded = self.engine.scored(part)
            missed += float((part - decoded).double().square().sum())
            parts.append((codes != 0).cpu())
        fires = torch.cat(parts)
        variance = float((x - x.mean(0)).double().square().sum())
        found = recovery(self.engine.decoder(), self.world.directions, fires, truth.cpu())
        return {
            "fve": 1 - missed / variance,
            "l0": float(fires.sum()) / len(x),
            "dead": float((~fires.any(0)).double().mean()),
            "mcc": found.mcc, "f1": found.f1, "unique": found.unique,
        }  # fmt: skip


def main() -> None:
    """Answer until the input ends; whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "make":
                worker, reply = Worker(request), {}
            elif worker is None:
                raise RuntimeError("nothing was made yet")
            elif request["do"] == "steps":
                reply = worker.steps(request["first"], request["count"])
            else:
                reply = worker.score()
        except Exception as error:  # noqa: BLE001 - a library that fails is a result
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
