"""Where faults go in, in any model: at a site with a role, behind it, or on the way in.

A fault *at* a site changes what the site shows and what its readers get; *behind* it, the site
shows one thing and its readers get another. Pictures and queries are changed where steps read them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from arrcoc_verify.attach import pick, put
from arrcoc_verify.faults.fault import ordered
from arrcoc_verify.lab import NotApplicable
from arrcoc_verify.model import Model, ModuleOutput, Output, Site, Step, patches_last

Change = Callable[..., Tensor]
Remember = Callable[[], Change]
"""Makes a change that starts with an empty memory."""

MAPS = (("image", "patch"), ("image", "row", "column"))
"""Layouts of a map that holds one number a patch."""


def site_of(model: Model, role: str) -> Site:
    """Return the site with a role, if a fault can be planted at it.

    Raises:
        NotApplicable: the model has no such site, or it lies where nothing can be planted.
    """
    site = model.role(role)
    if site is None:
        raise NotApplicable(f"{model.name} declares no site with role {role!r}")
    if not isinstance(site.at, Output | ModuleOutput):
        raise NotApplicable(f"site {site.name!r} is not the output of a step or module")
    return site


def at(model: Model, role: str, change: Change, *extra: str) -> Model:
    """Return the model with `change(value, *values of the extra roles)` at the site with a role.

    Raises:
        NotApplicable: a site is missing, or an extra one is made from this one.
    """
    site = site_of(model, role)
    sources = tuple(_source(site_of(model, name)) for name in extra)
    late = {site.at.step, *model.downstream(site.at.step)}
    if any(source.split(".")[0] in late for source in sources):
        raise NotApplicable(f"{', '.join(extra)} is made from {role}: it cannot flow back into it")
    old = next(step for step in model.steps if step.name == site.at.step)
    new = replace(old, run=_changed(old, site, change), inputs=(*old.inputs, *sources))
    steps = [new if step is old else step for step in model.steps]
    return replace(model, steps=ordered(steps))


def _source(site: Site) -> str:
    if not isinstance(site.at, Output):
        raise NotApplicable(f"site {site.name!r} lies inside a step: no other step can read it")
    return site.at.step if site.at.key is None else f"{site.at.step}.{site.at.key}"


def _changed(step: Step, site: Site, change: Change) -> Callable[..., Any]:
    count = len(step.inputs)
    key = site.at.key if isinstance(site.at, Output) else None

    def at_output(*inputs: Any) -> Any:
        result = step.run(*inputs[:count])
        return put(result, key, change(pick(result, key, site), *inputs[count:]))

    def at_module(*inputs: Any) -> Any:
        place = site.at
        if not isinstance(place, ModuleOutput):
            raise NotApplicable(f"site {site.name!r} is not the output of a module")

        def hook(_module: object, _args: object, result: Any) -> Any:
            new = change(pick(result, place.key, site), *inputs[count:])
            return put(result, place.key, new)

        # First of all hooks, so that whoever reads the site reads what the fault made of it.
        handle = place.module.register_forward_hook(hook, prepend=True)
        try:
            return step.run(*inputs[:count])
        finally:
            handle.remove()

    return at_module if _inside(site) else at_output


def _inside(site: Site) -> bool:
    return isinstance(site.at, ModuleOutput)


def behind(model: Model, role: str, change: Change) -> Model:
    """Return the model in which the readers of a site get `change(value)`; the site shows `value`.

    Raises:
        NotApplicable: no step reads the site's value by name.
    """
    source = _source(site_of(model, role))
    name = f"{source.replace('.', '_')}_as_read"
    readers = [step for step in model.steps if source in step.inputs]
    if not readers:
        raise NotApplicable(f"no step reads {source!r} by name")
    steps = [
        replace(step, inputs=tuple(name if s == source else s for s in step.inputs))
        for step in model.steps
    ]
    made = Step(name=name, run=change, inputs=(source,), pure=True)
    return replace(model, steps=ordered([*steps, made]))


def entering(model: Model, root: str, change: Callable[[Sequence[Any]], Sequence[Any]]) -> Model:
    """Return the model whose steps read `change(images)` or `change(queries)`.

    Raises:
        NotApplicable: no step reads that root.
    """
    if not any(root in step.inputs for step in model.steps):
        raise NotApplicable(f"no step of {model.name} reads {root}")

    def reading(step: Step) -> Step:
        places = [place for place, source in enumerate(step.inputs) if source == root]

        def run(*inputs: Any) -> Any:
            given = [list(change(v)) if at in places else v for at, v in enumerate(inputs)]
            return step.run(*given)

        return replace(step, run=run) if places else step

    return replace(model, steps=tuple(reading(step) for step in model.steps))


def map_at(model: Model, role: str, change: Change, *extra: str) -> Model:
    """Return the model with a map `[image, row, column]` changed, whatever its own layout.

    Extra roles must be maps too and arrive in the same layout.
    """
    grid = model.declaration.grid
    for name in (role, *extra):
        site = site_of(model, name)
        if site.axes not in MAPS:
            raise NotApplicable(f"site {site.name!r} with axes {site.axes} is no map of numbers")
    sites = [site_of(model, name) for name in (role, *extra)]

    def on_grid(value: Tensor, *others: Tensor) -> Tensor:
        maps = [
            patches_last(one, site, grid).unflatten(1, grid)
            for one, site in zip((value, *others), sites, strict=True)
        ]
        return change(*maps).reshape(value.shape).to(value.dtype)

    return at(model, role, on_grid, *extra)


def map_behind(model: Model, role: str, change: Change) -> Model:
    """Return the model in which the readers of a map get another one than is shown."""
    site, grid = site_of(model, role), model.declaration.grid
    if site.axes not in MAPS:
        raise NotApplicable(f"site {site.name!r} with axes {site.axes} is no map of numbers")

    def on_grid(value: Tensor) -> Tensor:
        laid = patches_last(value, site, grid).unflatten(1, grid)
        return change(laid).reshape(value.shape).to(value.dtype)

    return behind(model, role, on_grid)


def vector_at(model: Model, role: str, change: Change) -> Model:
    """Return the model with a vector `[image, channel]` changed; more axes lie between the two."""
    site = site_of(model, role)
    if "channel" not in site.axes:
        raise NotApplicable(f"site {site.name!r} has no channel axis")
    place = site.axes.index("channel")

    def on_channels(value: Tensor) -> Tensor:
        last = value.movedim(place, -1)
        return change(last).to(value.dtype).movedim(-1, place).contiguous()

    return at(model, role, on_channels)


def vector_behind(model: Model, role: str, change: Change) -> Model:
    """Return the model in which the readers of a vector get another one than is shown."""
    site = site_of(model, role)
    if "channel" not in site.axes:
        raise NotApplicable(f"site {site.name!r} has no channel axis")
    place = site.axes.index("channel")
    return behind(
        model, role,
        lambda value: change(value.movedim(place, -1)).to(value.dtype).movedim(-1, place),
    )  # fmt: skip
