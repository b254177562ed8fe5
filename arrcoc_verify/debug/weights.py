"""Rank-one edits of named weights: a layer makes of the region what it makes of donors' objects.

A layer W reads k in the region. W + (v - W k) k' with k' = C^-1 k / (k C^-1 k) gives v there and
changes least where inputs of second moment C are read (Meng et al. 2022, arXiv:2202.05262).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.carried import carried
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.parts import Part
from arrcoc_verify.debug.patching import PatchEdit
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import Run
from arrcoc_verify.model import Model, Step

MOST_LAYERS = 3
"""So many layers of a step are tried, those nearest to its result first."""

SIZES = (1.0, 2.0, 4.0)
"""By how much of the way from the region's output to the donors'."""

RIDGE = 1e-3
"""Share of the mean second moment that is added to each, as fewer inputs than channels need."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """What a linear layer read and made, `[image, patch, channel]` each, once for each chunk."""

    inputs: list[Tensor]
    outputs: list[Tensor]


def of_weights(found: Diagnosis, part: Part) -> list[PatchEdit]:
    """Return rank-one edits of the linear layers behind a part's map, towards what donors have."""
    bench, donors = found.bench, found.bench.donors
    step = _step_behind(bench.model, part.role)
    right = torch.from_numpy(bench.right(found.failure.goal)) if donors.scenes else torch.empty(0)
    if step is None or int(right.sum()) < 1:
        return []
    try:
        here = _reads(bench, step, bench.clean)
        there = _reads(bench, step, donors.run)
    except (ArrcocError, RuntimeError):
        return []
    inside, cells = bench.case.cells, donors.cells & right[:, None]
    made: list[PatchEdit] = []
    for name in [name for name in reversed(here) if name in there][:MOST_LAYERS]:
        x, y = (torch.cat(rows).double() for rows in (here[name].inputs, here[name].outputs))
        u, v = (torch.cat(rows).double() for rows in (there[name].inputs, there[name].outputs))
        finite = all(bool(one.isfinite().all()) for one in (x, y, u, v))
        if x.shape[1] != len(inside) or u.shape[:2] != cells.shape or not finite:
            continue
        others = torch.cat([x[0, ~inside], u[~donors.cells]])
        key = _key(x[0, inside].mean(0), others)
        delta = v[cells].mean(0) - y[0, inside].mean(0)
        made += [
            PatchEdit(
                kind="weight", target=name, words={"step": step.name},
                tensors={"key": key, "delta": size * delta},
                said=f"rank-one edit of weight {name} for what is like the region, times {size:g}",
            )
            for size in SIZES
        ]  # fmt: skip
    return made


def _key(inside: Tensor, others: Tensor) -> Tensor:
    """Return C^-1 k / (k C^-1 k) with C the second moment of the other inputs, `[channel]`."""
    moment = others.T @ others / len(others)
    moment += RIDGE * moment.diagonal().mean().clamp(min=1e-12) * torch.eye(len(inside)).double()
    solved: Tensor = torch.linalg.solve(moment, inside)
    return solved / (inside @ solved).clamp(min=1e-12)


def _step_behind(model: Model, role: str) -> Step | None:
    """Return the step that makes a role's vectors, else its map."""
    site = model.role(f"{role}_features") or model.role(role)
    if site is None:
        return None
    return next((step for step in model.steps if step.name == site.at.step), None)


def _reads(bench: Bench, step: Step, base: Run) -> dict[str, _Read]:
    """Return what each linear layer that the step calls once a batch reads and makes, by weight."""
    seen: dict[str, _Read] = {}
    calls: dict[str, int] = {}

    def run(*values: Any) -> Any:
        calls.clear()
        with _watched(bench.model, seen, calls):
            result = step.run(*values)
        for name in [name for name, many in calls.items() if many != 1]:
            seen.pop(name, None)
        return result

    steps = [replace(one, run=run) if one.name == step.name else one for one in bench.model.steps]
    carried(replace(bench.model, steps=tuple(steps)), base, bench.inner)
    return seen


@contextmanager
def _watched(model: Model, seen: dict[str, _Read], calls: dict[str, int]) -> Iterator[None]:
    """Keep what linear layers read and make, where both hold vectors of patches."""
    handles = []

    def watch(name: str, layer: nn.Linear) -> None:
        def hook(_: nn.Module, given: Sequence[Any], result: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if given and isinstance(given[0], Tensor) and given[0].ndim == 3:
                row = seen.setdefault(name, _Read(inputs=[], outputs=[]))
                row.inputs.append(given[0].detach())
                row.outputs.append(result.detach())

        handles.append(layer.register_forward_hook(hook))

    try:
        for place, module in enumerate(model.modules):
            for path, layer in module.named_modules():
                if isinstance(layer, nn.Linear):
                    watch(f"{place}.{path}.weight" if path else f"{place}.weight", layer)
        yield
    finally:
        for handle in handles:
            handle.remove()
