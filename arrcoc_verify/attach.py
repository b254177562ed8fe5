"""Reach sites inside a step: module outputs and inputs, plain functions, taps. Always undone.

A hook returns a new tensor and never writes in place: `r + dropout(r)` in evaluation mode hands the
same tensor to both terms, and an in-place write would change the residual too. Firings are counted,
so that a hook that a compiled module, a skipped branch or a cached result silently ignored is seen.
"""

import copy
import dataclasses
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from arrcoc_verify.errors import CompiledModule, ShapeMismatch, TrainingMode
from arrcoc_verify.model import (
    FunctionResult,
    Model,
    ModuleInput,
    ModuleOutput,
    Output,
    Site,
    Tapped,
)
from arrcoc_verify.tap import tapping

Visit = Callable[[Site, Tensor], Tensor]
"""Sees the activation at a site and returns what takes its place."""


def entry(value: Any, key: str | int) -> Any:
    """Return what a mapping, sequence, named tuple or dataclass holds under `key`.

    Raises:
        LookupError, AttributeError, TypeError: it holds nothing there.
    """
    if isinstance(value, Tensor):
        raise TypeError("a tensor has no entries: its leading axis is the image")
    if isinstance(value, Mapping):
        return value[_held_key(value, key)]
    if isinstance(key, int) or key.isdigit():
        return value[int(key)]
    return getattr(value, key)


def _held_key(value: Mapping[Any, Any], key: str | int) -> Any:
    for candidate in (key, int(key) if str(key).isdigit() else key):
        if candidate in value:
            return candidate
    if isinstance(key, int):  # model outputs of libraries count their entries, too
        return list(value)[key]
    raise KeyError(key)


def pick(value: Any, key: str | int | None, site: Site) -> Tensor:
    """Return the tensor under `key` in what a step, module or function returned."""
    if key is not None:
        try:
            value = entry(value, key)
        except (LookupError, AttributeError, TypeError) as error:
            raise ShapeMismatch(
                f"site {site.name!r} wants entry {key!r}, got {_describe(value)}"
            ) from error
    if not isinstance(value, Tensor):
        raise ShapeMismatch(
            f"site {site.name!r} wants a tensor, got {_describe(value)}; "
            "name the entry that is meant with `key`"
        )
    return value


def put(value: Any, key: str | int | None, new: Tensor) -> Any:
    """Return a copy of `value`, of the same type, with `new` under `key`."""
    if key is None:
        return new
    if isinstance(value, Mapping):
        return _with(value, {_held_key(value, key): new})
    if hasattr(value, "_fields"):
        field = key if isinstance(key, str) and not key.isdigit() else value._fields[int(key)]
        return value._replace(**{field: new})
    if isinstance(value, list | tuple):
        fresh = list(value)
        fresh[int(key)] = new
        return type(value)(fresh)
    changed = copy.copy(value)
    object.__setattr__(changed, str(key), new)
    return changed


def _with(value: Mapping[Any, Any], items: Mapping[Any, Any]) -> Any:
    if not isinstance(value, MutableMapping):
        return {**value, **items}
    fresh = copy.copy(value)  # model outputs are mappings with attributes: keep their type
    for key, item in items.items():
        fresh[key] = item
    return fresh


def copied(value: Any) -> Any:
    """Return `value` with every tensor in it cloned, in containers of the same types."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return _with(value, {key: copied(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        items = [copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fresh = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(fresh, field.name, copied(getattr(value, field.name)))
        return fresh
    return value


def is_compiled(module: nn.Module) -> bool:
    """Return whether hooks added to `module` now could be ignored silently."""
    return (
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
    )


def refuse_compiled(modules: Sequence[nn.Module], site: Site) -> None:
    """Raise when the site's module is compiled or lies inside a compiled one."""
    target = getattr(site.at, "module", None)
    for root in modules:
        for name, module in root.named_modules():
            if is_compiled(module) and (
                target is None or any(m is target for m in module.modules())
            ):
                raise CompiledModule(
                    f"site {site.name!r} lies in a compiled module "
                    f"({name or type(module).__name__}): hooks added after "
                    "compilation are ignored without a word. Pass the uncompiled module"
                )


def refuse_training(model: Model) -> None:
    """Raise when any module is in training mode: dropout and batch statistics would speak."""
    for module in model.modules:
        for name, part in module.named_modules():
            if part.training:
                raise TrainingMode(
                    f"module {name or type(part).__name__!r} of {model.name!r} is in training "
                    "mode; call .eval() before verifying"
                )


@contextmanager
def attached(
    sites: Sequence[Site], visit: Visit, modules: Sequence[nn.Module]
) -> Iterator[Counter[str]]:
    """Call `visit` at each of `sites` inside the block and count firings by site name."""
    fired: Counter[str] = Counter()

    def see(site: Site, value: Tensor) -> Tensor:
        fired[site.name] += 1
        return visit(site, value)

    with ExitStack() as undo:  # entered first, so an error in a later attachment undoes the earlier
        taps: dict[str, list[Site]] = {}
        for same in _by_function(sites):
            undo.enter_context(_wrapped(same, see))
        for site in sites:
            if isinstance(site.at, ModuleOutput):
                refuse_compiled(modules, site)
                undo.callback(site.at.module.register_forward_hook(_output_hook(site, see)).remove)
            elif isinstance(site.at, ModuleInput):
                refuse_compiled(modules, site)
                hook = _input_hook(site, see)
                handle = site.at.module.register_forward_pre_hook(hook, with_kwargs=True)
                undo.callback(handle.remove)
            elif isinstance(site.at, Tapped):
                taps.setdefault(site.at.name, []).append(site)
        if taps:
            undo.enter_context(tapping(_tap_handler(taps, see)))
        yield fired


def inner(site: Site) -> bool:
    """Return whether the site lies inside a step, not at its result."""
    return not isinstance(site.at, Output)


def _output_hook(site: Site, see: Visit) -> Callable[..., Any]:
    key = getattr(site.at, "key", None)

    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        old = pick(output, key, site)
        new = see(site, old)
        return None if new is old else put(output, key, new)

    return hook


def _input_hook(site: Site, see: Visit) -> Callable[..., Any]:
    key = getattr(site.at, "key", 0)

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        place = _given_as(module, key, args, kwargs)
        old = pick(kwargs if isinstance(place, str) else args, place, site)
        new = see(site, old)
        if new is old:
            return None
        if isinstance(place, str):
            return args, {**kwargs, place: new}
        return tuple(put(list(args), place, new)), kwargs

    return hook


def _given_as(module: nn.Module, key: str | int, args: Any, kwargs: Mapping[str, Any]) -> str | int:
    """Return the name or position by which this call gives the argument that `key` means."""
    names = list(inspect.signature(module.forward).parameters)
    if isinstance(key, int):
        by_name = key >= len(args) and key < len(names) and names[key] in kwargs
        return names[key] if by_name else key
    by_place = key not in kwargs and key in names and names.index(key) < len(args)
    return names.index(key) if by_place else key


def namespaces_of(
    function: Callable[..., Any], modules: Collection[str] | None = None
) -> list[tuple[dict[str, Any], str]]:
    """Return every (module namespace, name) that holds this very function.

    Args:
        function: what to look for.
        modules: names of the modules to look into; None means all that are loaded.
    """
    found = []
    for loaded in list(sys.modules) if modules is None else modules:
        namespace = getattr(sys.modules.get(loaded), "__dict__", None)
        if isinstance(namespace, dict):
            found += [
                (namespace, name) for name, item in list(namespace.items()) if item is function
            ]
    return found


_Places = list[tuple[dict[str, Any], str]]
_found: dict[int, tuple[Callable[..., Any], tuple[int, int], _Places]] = {}


def _places_of(function: Callable[..., Any]) -> _Places:
    """Return `namespaces_of(function)`, looked for again only where something may have changed.

    A sweep asks for the same function thousands of times, and to look through every name of every
    module each time would cost more than a small model.
    """
    spaces = [getattr(module, "__dict__", None) for module in list(sys.modules.values())]
    size = (len(spaces), sum(len(space) for space in spaces if isinstance(space, dict)))
    known, then, places = _found.get(id(function), (None, (0, 0), []))
    held = all(space.get(name) is function for space, name in places)
    if known is not function or then != size or not held or not places:
        places = namespaces_of(function)
        _found[id(function)] = (function, size, places)
    return places


def _by_function(sites: Sequence[Site]) -> list[list[Site]]:
    groups: dict[int, list[Site]] = {}
    for site in sites:
        if isinstance(site.at, FunctionResult):
            groups.setdefault(id(site.at.function), []).append(site)
    return list(groups.values())


@contextmanager
def _wrapped(sites: Sequence[Site], see: Visit) -> Iterator[None]:
    """Put a wrapper in the place of one function, which may hold several sites."""
    function = getattr(sites[0].at, "function", None)
    if function is None:
        raise ShapeMismatch(f"site {sites[0].name!r} names no function")

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        for site in sites:
            key = getattr(site.at, "key", None)
            old = pick(output, key, site)
            new = see(site, old)
            output = output if new is old else put(output, key, new)
        return output

    places = _places_of(function)
    loaded = set(sys.modules)
    try:
        for namespace, name in places:
            namespace[name] = wrapper
        yield
    finally:
        # A module that was imported meanwhile took the wrapper for the function.
        late = namespaces_of(wrapper, set(sys.modules) - loaded)
        for namespace, name in [*places, *late]:
            namespace[name] = function


def _tap_handler(taps: Mapping[str, list[Site]], see: Visit) -> Callable[[str, object], object]:
    def handle(name: str, value: object) -> object:
        for site in taps.get(name, ()):
            value = see(site, pick(value, None, site))
        return value

    return handle


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with entries {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
