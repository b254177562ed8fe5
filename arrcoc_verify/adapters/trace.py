"""Run a described model once on a test picture: bind arguments, find where sites fire, read axes.

Nothing is written while tracing, and the test pictures are made here, so a description needs no
data. What a stranger's code raises comes back as one sentence with the step's name.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arrcoc_verify.adapters.layout import readings
from arrcoc_verify.adapters.locate import told
from arrcoc_verify.adapters.part import Part, Place, parameters
from arrcoc_verify.adapters.pictures import QUERIES, pictures
from arrcoc_verify.attach import attached, copied, entry, pick
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.model import (
    ROLES,
    ROOTS,
    Declaration,
    FunctionResult,
    Location,
    ModuleInput,
    ModuleOutput,
    Output,
    Site,
    Step,
    Tapped,
)
from arrcoc_verify.verdict import STAGES

_KNOWING = ("information", "salience", "query_relevance")
_BALANCING = (
    "tensions", "weights", "mix", "normaliser", "relevance", "balancing_features",
    "reported_weights", "reported_tensions",
)  # fmt: skip
STAGE_OF_ROLE = {
    "query": "query",
    **dict.fromkeys([*_KNOWING, *(f"{word}_features" for word in _KNOWING)], "knowing"),
    **dict.fromkeys(_BALANCING, "balancing"),
    **dict.fromkeys(
        ("attending_features", "demand", "multiplier", "lod", "tokens", "membership"), "attending"
    ),
}
"""The stage that a site belongs to by its role."""

ALLOCATED = ("tokens", "membership")
REPORTS = {
    "weights": "reported_weights",
    "tensions": "reported_tensions",
    "relevance": "relevance",
    **{role: role for role in ROLES if role.startswith("reported_")},
}
"""Roles of a value that is returned but that nothing reads; what it is called causes nothing."""


@dataclass(kw_only=True)
class _Tracer:
    declaration: Declaration
    places: Mapping[str, Place]
    modules: tuple[nn.Module, ...]
    values: dict[str, Any]
    later: set[str]
    steps: list[Step] = field(default_factory=list)
    met: dict[str, list[tuple[Location, Tensor]]] = field(default_factory=dict)

    def step(self, name: str, part: Part) -> None:
        """Bind one step's arguments and run it, watching for the declared places."""
        inputs, run = self._bound(name, part)
        made = Step(name=name, run=run, inputs=inputs, transient=part.transient, pure=part.pure)
        watched = [
            Site(name=key, stage=stage_in(key), axes=("image",), at=where)
            for key, place in self.places.items()
            if (where := _location(place, name, part)) is not None
        ]

        def seen(site: Site, value: Tensor) -> Tensor:
            self.met.setdefault(site.name, []).append((site.at, value.clone()))
            return value

        arguments = [copied(self._value(source)) for source in inputs]
        try:
            with attached(watched, seen, self.modules):
                value = run(*arguments)
        except Exception as error:
            raise told(f"step {name!r} failed on a test picture", error) from error
        if value is None:
            raise BadModel(f"step {name!r} returned nothing; it must return a tensor")
        if _has_arrays(value):
            made = dataclasses.replace(made, run=_Tensors(run))
            value = tensors(value)
        for site in watched:
            if isinstance(site.at, Output):
                self.met[site.name] = [(site.at, pick(value, site.at.key, site))]
        self.values[name] = value
        self.later.discard(name)
        self.steps.append(made)

    def _bound(self, name: str, part: Part) -> tuple[tuple[str, ...], Callable[..., Any]]:
        if part.inputs is not None:
            for declared in part.inputs:
                self._value(declared, name)
            return tuple(part.inputs), part.run
        inputs: list[str] = []
        words: list[str] = []
        by_position = True
        for word, parameter in parameters(part.run).items():
            source = self._source(word, name)
            if source is None and word in self.later:
                raise BadModel(f"step {name!r} reads {word!r}, which comes after it: put it before")
            if source is None and parameter.default is inspect.Parameter.empty:
                known = ["image", *self.values, *(key.split(".")[1] for key in self._entries())]
                kind = f"argument (say what it reads by Part(run=..., inputs=...)) of step {name!r}"
                raise UnknownName(kind, word, known)
            if source is None:
                by_position = False  # left at its default: what comes after it goes by name
                continue
            inputs.append(source)
            words.append(word)
            by_position &= parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        if not inputs:
            raise BadModel(
                f"step {name!r} has no arguments that name what it reads; give "
                "Part(run=..., inputs=(...))"
            )
        run = part.run if by_position else _Named(part.run, tuple(words))
        return tuple(inputs), run

    def _source(self, word: str, step: str) -> str | None:
        if word in self.values:
            return word
        found = [key for key in self._entries() if key.split(".")[1] == word]
        if len(found) > 1:
            raise BadModel(
                f"argument {word!r} of step {step!r} could be any of {', '.join(found)}; "
                "say which with Part(run=..., inputs=(...))"
            )
        return found[0] if found else None

    def _entries(self) -> list[str]:
        return [f"{step}.{key}" for step, value in self.values.items() for key in named(value)]

    def _value(self, source: str, step: str = "") -> Any:
        name, _, key = source.partition(".")
        if name not in self.values:
            raise UnknownName(f"input of step {step!r}", name, self.values)
        if not key:
            return self.values[name]
        try:
            return entry(self.values[name], key)
        except (LookupError, AttributeError, TypeError) as error:
            raise UnknownName(f"entry of step {name!r}", key, named(self.values[name])) from error


def trace(
    parts: Mapping[str, Part],
    places: Mapping[str, Place],
    declaration: Declaration,
    modules: tuple[nn.Module, ...],
) -> tuple[tuple[Step, ...], dict[str, Site]]:
    """Return the steps with their inputs bound, and every site with its axes."""
    count = min(2, declaration.batch_size if declaration.batch_invariant else 1)
    roots = {ROOTS[0]: pictures(count, declaration.image_size), ROOTS[1]: list(QUERIES[:count])}
    tracer = _Tracer(
        declaration=declaration,
        places=places,
        modules=modules,
        values=dict(roots),
        later=set(parts),
    )
    with torch.no_grad():
        for name, part in parts.items():
            tracer.step(name, part)
    sites = {key: _site(key, place, tracer, count) for key, place in places.items()}
    sites.update(_by_themselves(tracer, parts, sites, count))
    return tuple(tracer.steps), sites


def stage_in(name: str) -> str:
    """Return the stage in a site's name `<stage>.<word>`."""
    stage, dot, word = name.partition(".")
    if stage not in STAGES:
        raise UnknownName(f"stage of site {name!r}", stage, STAGES)
    if not (dot and word):
        raise BadModel(f"a site is called '<stage>.<word>', got {name!r}")
    return stage


def _location(place: Place, step: str, part: Part) -> Location | None:
    """Return where a place would be in this step, or None where it cannot be."""
    if place.step not in (None, step):
        return None
    if isinstance(place.module, nn.Module):
        if place.argument is not None:
            return ModuleInput(step=step, module=place.module, key=place.argument)
        return ModuleOutput(step=step, module=place.module, key=place.key)
    if place.function is not None:
        if place.function is part.run:  # held by the step itself, not by a namespace
            return Output(step=step, key=place.key)
        return FunctionResult(step=step, function=place.function, key=place.key)
    if place.tap is not None:
        return Tapped(step=step, name=place.tap)
    return Output(step=step, key=place.key) if place.step == step else None


def _site(name: str, place: Place, tracer: _Tracer, count: int) -> Site:
    met = tracer.met.get(name, [])
    steps = sorted({at.step for at, _ in met})
    if not met:
        if place.step is not None and place.step not in tracer.values:
            raise UnknownName(f"step of site {name!r}", place.step, [s.name for s in tracer.steps])
        if place.module is None and place.function is None and place.tap is None:
            raise BadModel(f"site {name!r} needs one of module, function, tap and step")
        raise BadModel(
            f"site {name!r} met no activation while the model ran on a test picture: the code does "
            "not pass there, or holds the function where it cannot be wrapped (a closure, a table, "
            "a class); pass the value through arrcoc_verify.tap.tap instead"
        )
    if len(steps) > 1:
        raise BadModel(f"site {name!r} fires in steps {', '.join(steps)}; say which with `step`")
    if len(met) > 1:
        raise BadModel(
            f"site {name!r} fired {len(met)} times in one run of step {steps[0]!r}; a site fires "
            "once: tap the occurrence that is meant"
        )
    at, value = met[0]
    word = name.partition(".")[2]
    role = place.role or (word if word in ROLES else None)
    writable = place.writable
    if writable is None:
        writable = _acts(at, role, tracer.steps) and not (role or "").startswith("reported")
    return Site(
        name=name,
        stage=stage_in(name),
        axes=_axes(name, value, place.axes, role, tracer, count),
        at=at,
        role=role,
        channels=tuple(place.channels),
        writable=writable,
    )


def _by_themselves(
    tracer: _Tracer, parts: Mapping[str, Part], given: Mapping[str, Site], count: int
) -> dict[str, Site]:
    """Return the sites that steps make by their results."""
    taken = [site.at for site in given.values()]
    roles = {site.role for site in given.values() if site.role is not None}
    found: dict[str, Site] = {}
    stage = "encoder"
    for step in (step for step in tracer.steps if not step.transient):
        part, value = parts[step.name], tracer.values[step.name]
        alone: dict[str | None, Any] = {None: value}
        for key, tensor in (alone if isinstance(value, Tensor) else {**named(value)}).items():
            word = step.name if key is None else key
            at = Output(step=step.name, key=key)
            acts = _acts(at, word, tracer.steps)
            role = word if word in ROLES else None
            role = role if acts else REPORTS.get(word)
            stage = part.stage or STAGE_OF_ROLE.get(word, stage)
            name = f"{stage}.{word}"
            name = name if name not in found else f"{stage}.{step.name}_{word}"
            axes = part.axes if key is None else None
            wanted = role is not None or axes is not None or _plain(tensor, tracer, count)
            if at in taken or role in roles or name in given or not wanted:
                continue
            found[name] = Site(
                name=name,
                stage=stage,
                axes=_axes(name, tensor, axes, role, tracer, count),
                at=at,
                role=role,
                writable=acts,
            )
    return found


def _acts(at: Location, role: str | None, steps: Sequence[Step]) -> bool:
    """Return whether something can read what is written at `at`."""
    if not isinstance(at, Output) or role in ALLOCATED:
        return True
    sources = {source for step in steps for source in step.inputs}
    return at.step in sources or (at.key is not None and f"{at.step}.{at.key}" in sources)


def _plain(value: Any, tracer: _Tracer, count: int) -> bool:
    """Return whether a value without a role is an activation that can be read one way only.

    Whole numbers without a role are names of things (indices, token ids, masks), not activations.
    """
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != count:
        return False
    if not value.is_floating_point():
        return False
    grid, pixels = tracer.declaration.grid, tracer.declaration.image_size
    return len(readings(tuple(value.shape), grid, pixels, None)) == 1


def _axes(
    name: str,
    value: Any,
    given: Iterable[str] | None,
    role: str | None,
    tracer: _Tracer,
    count: int,
) -> tuple[str, ...]:
    if not isinstance(value, Tensor):
        raise BadModel(f"site {name!r} wants a tensor, the step returned a {type(value).__name__}")
    shape, grid = tuple(value.shape), tracer.declaration.grid
    if given is not None:
        axes = tuple(given)
        if len(axes) != len(shape):
            raise BadModel(f"site {name!r} declares axes {axes}, its activation has shape {shape}")
        return axes
    if not shape or shape[0] != count:
        raise BadModel(
            f"site {name!r} has shape {shape} for {count} pictures: the first axis must be the "
            "image"
        )
    fits = readings(shape, grid, tracer.declaration.image_size, role)
    if len(fits) != 1:
        said = f"could be {' or '.join(map(str, fits))}" if fits else "has no such patches"
        raise BadModel(
            f"site {name!r} has shape {shape}, which on the grid {grid} {said}; say what each axis "
            "is with `axes`, or mend the grid"
        )
    return fits[0]


def named(value: Any) -> dict[str, Any]:
    """Return the entries of a step's result that have names."""
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if isinstance(key, str)}
    if hasattr(value, "_fields"):
        return {key: getattr(value, key) for key in value._fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    return {}


@dataclass(frozen=True, slots=True)
class _Named:
    """Calls a function with its arguments by name."""

    run: Callable[..., Any]
    words: tuple[str, ...]

    def __call__(self, *values: Any) -> Any:
        return self.run(**dict(zip(self.words, values, strict=True)))


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Calls a function that returns numpy arrays, and returns tensors."""

    run: Callable[..., Any]

    def __call__(self, *values: Any) -> Any:
        return tensors(self.run(*values))


def tensors(value: Any) -> Any:
    """Return `value` with numpy arrays in mappings and sequences as tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, Mapping):
        return {key: tensors(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(tensors(item) for item in value)
    return value


def _has_arrays(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_arrays(item) for item in value.values())
    if type(value) in (list, tuple):
        return any(_has_arrays(item) for item in value)
    return isinstance(value, np.ndarray)
