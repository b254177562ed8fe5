"""Engines: each runs all interventions of a sweep and returns `[intervention, image, ...]`.

The rivals are written as well as they can be; what costs them is their own.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.attach import pick
from arrcoc_verify.graph import resume, run
from benchmarks.sweeps import Probe, Sweep

Engine = Callable[[Sweep], Tensor]


def ours(sweep: Sweep) -> Tensor:
    """Run once, then resume downstream of each intervention; the first run is counted."""
    base = run(sweep.model, sweep.images, sweep.queries, batch_size=len(sweep.images))
    return torch.stack([resume(base, edits=[probe.edit])[sweep.result] for probe in sweep.probes])


@contextmanager
def hooked(sweep: Sweep, probe: Probe) -> Any:
    """Write by a plain torch hook inside the block."""
    module = sweep.module.get_submodule(probe.path)
    if probe.at == "output":
        handle = module.register_forward_hook(lambda _m, _i, output: probe.write(output))
    else:
        handle = module.register_forward_pre_hook(lambda _m, args: (probe.write(args[0]),))
    try:
        yield
    finally:
        handle.remove()


def naive(sweep: Sweep) -> Tensor:
    """One full forward per intervention and image."""
    results = []
    with torch.no_grad():
        for probe in sweep.probes:
            with hooked(sweep, probe):
                parts = [sweep.module(*sweep.inputs(i, i + 1)) for i in range(len(sweep.images))]
            results.append(torch.cat(parts))
    return torch.stack(results)


def hooks(sweep: Sweep) -> Tensor:
    """One full forward per intervention, all images in one batch."""
    results, inputs = [], sweep.inputs(0, len(sweep.images))
    with torch.no_grad():
        for probe in sweep.probes:
            with hooked(sweep, probe):
                results.append(sweep.module(*inputs))
    return torch.stack(results)


def hand_cache(sweep: Sweep) -> Tensor:
    """A loop written by hand for these stages: results kept in a dict, late stages called again."""
    model, site = sweep.model, sweep.model.site(sweep.result)
    cache: dict[str, Any] = {"images": sweep.images, "queries": sweep.queries}
    below = {step.name: set(model.downstream(step.name)) for step in model.steps}
    results = []
    with torch.no_grad():
        for step in model.steps:
            cache[step.name] = step.run(*(cache[source] for source in step.inputs))
        for probe in sweep.probes:
            start = model.site(probe.site).at.step
            now = {**cache, start: probe.write(cache[start])}
            for step in model.steps:
                if step.name in below[start]:
                    now[step.name] = step.run(*(now[source] for source in step.inputs))
            results.append(pick(now[site.at.step], None, site))
    return torch.stack(results)


OWN: dict[str, Engine] = {"ours": ours, "naive": naive, "hooks": hooks, "hand_cache": hand_cache}
