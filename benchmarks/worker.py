"""Runs engines on request in a process of its own: a line of JSON in, a line of JSON out.

Rivals live in another environment than ours, so each environment has one worker; all engines can
then be measured in one run, turn by turn, while the others wait.
"""

import json
import os
import sys
import time
import traceback
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.engines import OWN, Engine
from benchmarks.sweeps import SWEEPS, Sweep


@cache
def sweep(name: str, quick: bool) -> Sweep:
    """Return a sweep, made once."""
    return SWEEPS[name](quick=quick)


def engines() -> dict[str, Engine]:
    """Return the engines that this environment has."""
    try:
        from benchmarks.rivals import PEERS
    except ImportError:
        return OWN
    return PEERS


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run one engine once; the result is kept in a file where one is named."""
    target = sweep(request["sweep"], request["quick"])
    engine = engines()[request["engine"]]
    cpu, wall = time.process_time(), time.perf_counter()
    result = engine(target)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if request.get("save"):
        np.save(request["save"], result.detach().double().numpy())
    return {"wall": wall, "cpu": cpu, "config": target.config, "bound": target.bound}


def main() -> None:
    """Answer until the input ends; whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - an engine that fails is a result
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
