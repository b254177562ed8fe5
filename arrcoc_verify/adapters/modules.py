"""Find the torch modules behind a callable, and what identifies them.

Training mode, compilation and the digest can only be judged of modules that are known, and a plain
function reaches its network through a closure, a bound object or a name of its file.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn


def modules_of(runs: Iterable[Callable[..., Any]]) -> tuple[nn.Module, ...]:
    """Return the outermost torch modules that these callables hold or name, each once."""
    seen: set[int] = set()
    found: list[nn.Module] = []
    for run in runs:
        found += _reach(run, seen)
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    return tuple(module for module in found if id(module) not in inner)


def _reach(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
        return
    for held in _held(value):
        yield from _reach(held, seen)


def _held(value: Any) -> list[Any]:
    """Return what a callable or container holds that may lead to a module."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        return _named_by(value)
    kind = type(value)
    if isinstance(value, type) or kind.__module__.split(".")[0] in ("builtins", "torch", "numpy"):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _named_by(function: Any) -> list[Any]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    cells += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    names = [function.__globals__.get(name) for name in function.__code__.co_names]
    own = function.__module__
    return cells + [
        item
        for item in names
        if isinstance(item, nn.Module)
        or (inspect.isfunction(item) and item.__module__ == own)
        or (not inspect.ismodule(item) and type(item).__module__ == own)
    ]


def digest_of(modules: Iterable[nn.Module], runs: Iterable[Callable[..., Any]]) -> str:
    """Return `sha256:<hex>` over the weights of modules and the source of functions."""
    whole = hashlib.sha256()
    for module in modules:
        whole.update(f"{type(module).__qualname__}\0{module}\0".encode())
        for name, value in sorted(module.state_dict().items()):
            if not isinstance(value, torch.Tensor):  # what a module keeps beside its tensors
                whole.update(f"{name}\0{value!r}\0".encode())
                continue
            whole.update(f"{name}\0{tuple(value.shape)}\0{value.dtype}\0".encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            whole.update(raw.numpy().tobytes())
    for run in runs:
        whole.update(_source(run).encode() + b"\0")
    return f"sha256:{whole.hexdigest()}"


def _source(run: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(run if inspect.isroutine(run) else type(run))
    except (OSError, TypeError):
        return getattr(run, "__qualname__", type(run).__qualname__)
