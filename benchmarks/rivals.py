"""nnsight in three forms; imported only where it is installed.

`nnsight` in a report is the faster of the first two.
"""

from functools import cache
from typing import Any

import nnsight
import torch
from torch import Tensor, nn

from benchmarks.engines import Engine
from benchmarks.sweeps import Probe, Sweep


class Wrapped(nnsight.NNsight):  # type: ignore[misc]  # absent where types are checked
    """nnsight's wrapper, told how to put several invokes into one batch."""

    def _batch_size(self, *inputs: Any, **_kwargs: Any) -> int:
        return len(inputs[0]) if inputs else 0

    def _batch(self, invokes: list[tuple[Any, Any]], _fn: Any) -> tuple[Any, Any]:
        return tuple(map(_joined, zip(*(inputs for inputs, _ in invokes), strict=True))), {}


def _joined(parts: tuple[Any, ...]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [item for part in parts for item in part]


@cache
def _wrap(module: nn.Module) -> Wrapped:
    return Wrapped(module)


def _envoy(wrapped: Any, path: str) -> Any:
    for part in path.split("."):
        wrapped = wrapped[int(part)] if part.isdigit() else getattr(wrapped, part)
    return wrapped


def _write(wrapped: Any, probe: Probe) -> None:
    envoy = _envoy(wrapped, probe.path)
    if probe.at == "output":
        envoy.output = probe.write(envoy.output)
    else:
        envoy.input = probe.write(envoy.input)


def one_trace_a_site(sweep: Sweep) -> Tensor:
    """One trace per intervention, all images in one batch."""
    wrapped, inputs, results = _wrap(sweep.module), sweep.inputs(0, len(sweep.images)), []
    with torch.no_grad():
        for probe in sweep.probes:
            with wrapped.trace(*inputs):
                _write(wrapped, probe)
                result = wrapped.output.save()
            results.append(result)
    return torch.stack(results)


def one_trace_for_all(sweep: Sweep) -> Tensor:
    """One trace with an invoke per intervention: one large batch."""
    wrapped, inputs = _wrap(sweep.module), sweep.inputs(0, len(sweep.images))
    with torch.no_grad(), wrapped.trace() as tracer:
        results = nnsight.save([])
        for probe in sweep.probes:
            with tracer.invoke(*inputs):
                _write(wrapped, probe)
                results.append(wrapped.output)
    return torch.stack(list(results))


def skip(sweep: Sweep) -> Tensor:
    """One trace per intervention, everything that it cannot change skipped with a kept result."""
    wrapped, inputs, results = _wrap(sweep.module), sweep.inputs(0, len(sweep.images)), []
    model = sweep.model
    kept: dict[str, Any] = {"images": sweep.images, "queries": sweep.queries}
    with torch.no_grad():
        for step in model.steps:
            kept[step.name] = step.run(*(kept[source] for source in step.inputs))
        for probe in sweep.probes:
            start = model.site(probe.site).at.step
            below = set(model.downstream(start))
            given = [
                (f"step_{step.name}", kept[step.name])
                for step in model.steps
                if step.name not in below
            ]
            values = dict(given) | {probe.path: probe.write(kept[start])}
            with wrapped.trace(*inputs):
                for name, value in values.items():
                    getattr(wrapped, name).skip(value)
                result = wrapped.output.save()
            results.append(result)
    return torch.stack(results)


PEERS: dict[str, Engine] = {
    "nnsight_trace": one_trace_a_site,
    "nnsight_invokes": one_trace_for_all,
    "nnsight_skip": skip,
}
