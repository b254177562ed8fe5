"""Reach sites inside a step: module outputs and inputs, plain functions, taps. Always undone.

A hook returns a new tensor and never writes in place: `r + dropout(r)` in evaluation mode hands the
same tensor to both terms, and an in-place write would change the residual too. Firings are counted,
so that a hook that a compiled module, a skipped branch or a cached result silently ignored is seen.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from arrcoc_verify.errors import CompiledModule, ShapeMismatch
from arrcoc_verify.model import FunctionResult, ModuleInput, ModuleOutput, Output, Site, Tapped
from arrcoc_verify.tap import tapping

Visit = Callable[[Site, Tensor], Tensor]
"""Sees the activation at a site and returns what takes its place."""


def pick(value: Any, key: str | int | None, site: Site) -> Tensor:
    """Return the tensor under `key` in what a step, module or function returned."""
    if key is not None:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
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
    """Return a copy of `value` with `new` under `key`; the original is left as it was."""
    if key is None:
        return new
    if isinstance(value, Mapping):
        # Model outputs of libraries are mappings with attributes: keep their type where it copies.
        fresh = dict(value)
        fresh[str(key)] = new
        return fresh if type(value) is dict else type(value)(**fresh)
    fresh_list = list(value)
    fresh_list[int(key)] = new
    return type(value)(*fresh_list) if hasattr(value, "_fields") else type(value)(fresh_list)


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
            if is_compiled(module) and (target is None or any(m is target for m in module.modules())):
                raise CompiledModule(
                    f"site {site.name!r} lies in a compiled module ({name or type(module).__name__}): hooks "
                    "added after compilation are ignored without a word. Pass the uncompiled module"
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
        for site in sites:
            if isinstance(site.at, ModuleOutput):
                refuse_compiled(modules, site)
                undo.callback(site.at.module.register_forward_hook(_output_hook(site, see)).remove)
            elif isinstance(site.at, ModuleInput):
                refuse_compiled(modules, site)
                hook = _input_hook(site, see)
                handle = site.at.module.register_forward_pre_hook(hook, with_kwargs=True)
                undo.callback(handle.remove)
            elif isinstance(site.at, FunctionResult):
                undo.enter_context(_wrapped(site, see))
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

    def hook(module: nn.Module, args: object, output: Any) -> Any:
        old = pick(output, key, site)
        new = see(site, old)
        return None if new is old else put(output, key, new)

    return hook


def _input_hook(site: Site, see: Visit) -> Callable[..., Any]:
    key = getattr(site.at, "key", 0)

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        held = kwargs if isinstance(key, str) else args
        old = pick(held, key, site)
        new = see(site, old)
        if new is old:
            return None
        if isinstance(key, str):
            return args, {**kwargs, key: new}
        return tuple(put(list(args), key, new)), kwargs

    return hook


def namespaces_of(function: Callable[..., Any]) -> list[tuple[dict[str, Any], str]]:
    """Return every (module namespace, name) that holds this very function."""
    found = []
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if isinstance(namespace, dict):
            found += [(namespace, name) for name, item in list(namespace.items()) if item is function]
    return found


@contextmanager
def _wrapped(site: Site, see: Visit) -> Iterator[None]:
    assert isinstance(site.at, FunctionResult)  # noqa: S101 - narrows the type
    function, key = site.at.function, site.at.key

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        old = pick(output, key, site)
        new = see(site, old)
        return output if new is old else put(output, key, new)

    places = namespaces_of(function)
    try:
        for namespace, name in places:
            namespace[name] = wrapper
        yield
    finally:
        for namespace, name in places:
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
