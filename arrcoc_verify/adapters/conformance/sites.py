"""Checks of each site: it fires once, is laid out as declared, and writing to it is exact."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify.adapters.conformance.subject import (
    PAIR,
    Judged,
    Subject,
    decided,
    differing,
    everything,
    listed,
    with_steps,
)
from arrcoc_verify.attach import inner, namespaces_of
from arrcoc_verify.errors import (
    ArrcocError,
    CompiledModule,
    ModelFault,
    SiteDidNotFire,
    SiteFiredTwice,
)
from arrcoc_verify.graph import Edit, resume
from arrcoc_verify.model import (
    ROLES,
    FunctionResult,
    ModuleOutput,
    Output,
    Site,
    Step,
    patches_last,
)
from arrcoc_verify.tap import tap

ALIASES = 4
"""Aliasing modules that are tried, at most."""
NEAR = 0.85
"""Likeness of two words from which one may be meant for the other."""


def fires_once(subject: Subject) -> Judged:
    """Every declared site fires exactly once in a run."""
    wrong: list[str] = []
    good: list[str] = []
    for name in subject.model.sites:
        try:
            subject.run([0], read=[name])
        except (SiteDidNotFire, SiteFiredTwice, ModelFault) as error:
            wrong.append(f"{name} ({type(error).__name__}: {error})")
        else:
            good.append(name)
    subject.firing = tuple(good)
    if wrong:
        return False, listed(wrong, 2)
    return True, f"all {len(good)} sites"


def roles(subject: Subject) -> Judged:
    """No site without a role is called almost like one that the model has not got."""
    sites = subject.model.sites.values()
    open_ = sorted(set(ROLES) - {site.role for site in sites})
    wrong = []
    for site in sites:
        word = site.name.split(".")[-1]
        near = difflib.get_close_matches(word, open_, n=1, cutoff=NEAR)
        if near and not site.role and near[0] != word:  # whoever spells it right may mean no role
            wrong.append(f"{site.name} has no role: did you mean {near[0]!r}?")
    if wrong:
        return False, listed(wrong, 2)
    return True, f"{sum(bool(site.role) for site in sites)} sites have one"


def axes(subject: Subject) -> Judged:
    """Activations have the declared axes, and patches are those of the declared grid."""
    wrong = [f"{site.name}: {why}" for site in subject.sites if (why := _misfit(subject, site))]
    if wrong:
        return False, listed(wrong, 2)
    rows, columns = subject.model.declaration.grid
    return True, f"{len(subject.sites)} sites fit their axes and the grid {rows} x {columns}"


def _misfit(subject: Subject, site: Site) -> str:
    value, declared = subject.value(site), subject.model.declaration
    if value is None:  # a text's length: what can vary is not a patch
        return "has another number of patches in each batch" if site.per_patch else ""
    if value.ndim != len(site.axes):
        return f"declares axes {site.axes}, has shape {tuple(value.shape)}"
    size = dict(zip(site.axes, value.shape, strict=True))
    rows, columns = declared.grid
    wanted = {"image": len(PAIR), "row": rows, "column": columns}
    wanted["patch"] = declared.patches
    if site.channels:
        wanted["channel"] = len(site.channels)
    for axis, count in wanted.items():
        if axis in size and size[axis] != count:
            return f"axis {axis!r} has {size[axis]} entries, declared are {count}"
    scalar = site.role in ("relevance", "tokens", "membership")
    if scalar and patches_last(value, site, declared.grid).numel() != len(PAIR) * declared.patches:
        return f"role {site.role!r} wants one number a patch, has shape {tuple(value.shape)}"
    return ""


def identity(subject: Subject) -> Judged:
    """Replacing an activation by itself changes no bit anywhere."""
    held = everything(subject.base)
    wrong = []
    for site in subject.sites:
        edit = Edit(site=site.name, write=torch.clone)
        moved = differing(held, everything(subject.run(PAIR, edits=[edit], read=subject.firing)))
        if moved:
            wrong.append(f"{site.name} changes {listed(moved, 2)}")
    if wrong:
        return False, listed(wrong)
    return True, f"bit-exact at {len(subject.sites)} sites"


def others(value: Tensor) -> Iterator[Tensor]:
    """Yield activations of the same shape that are not `value`: real ones first, then made ones."""
    yield value.roll(1, 0)
    if value.ndim > 1:
        yield value.flip(tuple(range(1, value.ndim)))
    if value.dtype == torch.bool:
        yield ~value
        return
    yield torch.zeros_like(value)
    yield value * 3 + 1
    yield -value


def reaches(subject: Subject) -> Judged:
    """Replacing an activation by another reaches the output, at writable sites and only there."""
    wrong = []
    for site in subject.sites:
        if subject.value(site) is None:
            continue
        moved, tried = _reached(subject, site)
        if site.writable and not moved:
            wrong.append(
                f"{site.name}: {tried} other activations changed nothing that is decided; declare "
                "writable=False if it only reports"
            )
        if not site.writable and moved:
            wrong.append(f"{site.name}: declared not writable, yet it changes {listed(moved, 2)}")
    if wrong:
        return False, listed(wrong)
    count = sum(site.writable for site in subject.sites)
    return True, f"{count} writable sites reach the output, {len(subject.sites) - count} do not"


def _reached(subject: Subject, site: Site) -> tuple[list[str], int]:
    model = subject.model
    sources = {source.partition(".")[0] for step in model.steps for source in step.inputs}
    leaf = isinstance(site.at, Output) and site.at.step not in sources
    allocates = site.role in ("tokens", "membership") or site.stage == "realising"
    if leaf and site.writable and allocates:
        return [site.name], 0  # it is the output
    late = {step.name for step in model.steps if step.lazy}
    read = [
        s.name for s in subject.sites
        if s.at.step in late or (inner(s) and s.role in ("tokens", "membership"))
    ]  # fmt: skip
    own = site.at.step if isinstance(site.at, Output) else None
    before = decided(subject.base, without=own)
    tried = 0
    for value in others(subject.base[site.name]):
        try:
            after = resume(subject.base, edits=[Edit(site=site.name, value=value)], read=read)
        except (RuntimeError, IndexError, ValueError, ArrcocError):
            continue  # not every tensor means something to every model
        tried += 1
        moved = differing(before, decided(after, without=own))
        if moved:
            return moved, tried
    return [], tried


def resumes(subject: Subject) -> Judged:
    """To recompute only what lies downstream of an edit equals a full run with it."""
    wrong, count = [], 0
    for site in subject.sites:
        held = subject.value(site)
        if held is None:
            continue
        value = held.roll(1, 0)
        where = None
        if site.per_patch:
            where = torch.arange(subject.model.declaration.patches) % 2 == 0
        edit = Edit(site=site.name, value=value, where=where)
        try:
            full = subject.run(PAIR, edits=[edit], read=subject.firing)
        except (RuntimeError, IndexError, ValueError, ArrcocError):
            continue
        part = resume(subject.base, edits=[edit], read=subject.firing)
        count += 1
        moved = differing(everything(full), everything(part))
        if moved:
            wrong.append(f"after an edit of {site.name}, {listed(moved, 2)} differ")
    if wrong:
        return False, listed(wrong)
    return True, f"bit-exact for edits of {count} sites"


def foreign_hooks(subject: Subject) -> Judged:
    """Hooks that a user registered before still fire, and stay."""
    modules = list({id(m): m for _, m in subject.module_sites()}.values()) or subject.parts()[:4]
    if not modules:
        return None, "there are no torch modules"
    fired: dict[int, int] = {}

    def count(module: nn.Module, *_: Any) -> None:
        fired[id(module)] = fired.get(id(module), 0) + 1

    edits = [Edit(site=site.name, write=torch.clone) for site in subject.sites]
    with ExitStack() as undo:
        for module in modules:
            undo.callback(module.register_forward_hook(count).remove)
            undo.callback(module.register_forward_pre_hook(count).remove)
        held = [_hooks(module) for module in modules]
        subject.run([0])
        plain = dict(fired)
        fired.clear()
        subject.run([0], edits=edits, read=subject.firing)
        if fired != plain:
            return False, "a user's hooks fire another number of times when sites are read"
        if [_hooks(module) for module in modules] != held:
            return False, "hooks were added or taken away by a run"
    return True, f"hooks on {len(modules)} modules fire as before"


def _hooks(module: nn.Module) -> tuple[tuple[int, ...], ...]:
    held = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # noqa: SLF001
    return tuple(tuple(hooks) for hooks in held)


class _Interruption(Exception):
    """Raised by our own edit in the middle of a run."""


def nothing_left(subject: Subject) -> Judged:
    """After an error in the middle of a run, nothing of ours is left behind."""
    before, probe = _attached(subject), object()
    held = everything(subject.base)
    for site in subject.sites:
        try:
            subject.run([0], edits=[Edit(site=site.name, write=_interrupt)], read=subject.firing)
        except _Interruption:
            pass
        except Exception as error:  # noqa: BLE001 - whatever the model makes of it
            if not _caused_by_ours(error):
                return False, f"an error inside {site.name} became {type(error).__name__}: {error}"
        else:
            return False, f"the model swallows an error that is raised at {site.name}"
        if _attached(subject) != before or tap(site.name, probe) is not probe:
            return False, f"something is left after an error at {site.name}"
    moved = differing(held, everything(subject.run(PAIR, read=subject.firing)))
    if moved:
        return False, f"after errors, {listed(moved)} have other bits"
    return True, f"clean after an error at each of {len(subject.sites)} sites"


def _interrupt(_value: Tensor) -> Tensor:
    raise _Interruption


def _caused_by_ours(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _Interruption):
            return True
        error = error.__cause__ or error.__context__
    return False


def _attached(subject: Subject) -> list[Any]:
    places = [
        sorted((id(space), name) for space, name in namespaces_of(site.at.function))
        for site in subject.sites
        if isinstance(site.at, FunctionResult)
    ]
    return [*(_hooks(module) for module in subject.parts()), *places]


def aliasing(subject: Subject) -> Judged:
    """Writing to the output of a module that returns its own input leaves that input alone."""
    found = _aliases(subject)
    if not found:
        return None, "no module returns its own input"
    for step, module in found[:ALIASES]:
        name = "runtime.aliasing_module"
        at = ModuleOutput(step=step, module=module)
        site = Site(name=name, stage="runtime", axes=("image",), at=at)
        extended = dataclasses.replace(subject.model, sites={**subject.model.sites, name: site})
        edit = Edit(site=name, write=torch.zeros_like)
        ours = everything(subject.run(PAIR, edits=[edit], model=extended))
        with _returning_zeros(module):
            wanted = everything(subject.run(PAIR))
        moved = differing(wanted, ours)
        if moved:
            kind = type(module).__name__
            return False, f"zeros at the output of {kind} reach its input: {listed(moved)}"
    return True, f"{min(len(found), ALIASES)} modules that return their own input"


@contextmanager
def _returning_zeros(module: nn.Module) -> Iterator[None]:
    """Let a module compute zeros by itself: what an edit of its output must be equal to."""
    own = "forward" in module.__dict__
    forward = module.forward
    module.__dict__["forward"] = lambda *args, **kwargs: torch.zeros_like(forward(*args, **kwargs))
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own:
            module.__dict__["forward"] = forward


def _aliases(subject: Subject) -> list[tuple[str, nn.Module]]:
    """Return the modules that return their own input, once a run, with the step they run in."""
    current = [""]
    met: dict[int, list[tuple[str, nn.Module, bool]]] = {}

    def wrap(step: Step) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            current[0] = step.name
            return step.run(*inputs)

        return run

    def note(module: nn.Module, args: Any, output: Any) -> None:
        alias = isinstance(output, Tensor) and any(output is arg for arg in args)
        met.setdefault(id(module), []).append((current[0], module, alias))

    with ExitStack() as undo:
        for module in subject.parts():
            undo.callback(module.register_forward_hook(note).remove)
        subject.run(PAIR, model=with_steps(subject.model, wrap))  # as it will be edited
    once = [calls[0] for calls in met.values() if len(calls) == 1]
    return [(step, module) for step, module, alias in once if alias]


def compiled(subject: Subject) -> Judged:
    """A compiled module is refused, or its sites are right all the same."""
    held = subject.module_sites()
    if not held:
        return None, "no site lies at a torch module"
    site, module = held[0]
    edit = Edit(site=site.name, write=lambda old: old * 2 + 1)
    wanted = everything(subject.run(PAIR, edits=[edit]))
    module.compile(backend="eager")
    try:
        moved = differing(wanted, everything(subject.run(PAIR, edits=[edit])))
    except CompiledModule:
        return True, "refused"
    finally:
        module._compiled_call_impl = None  # noqa: SLF001 - how torch itself marks a compiled module
    if moved:
        return False, f"an edit of {site.name} in a compiled module is lost: {listed(moved)}"
    return True, "right in a compiled module"
