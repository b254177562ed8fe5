"""Make a model under test from anybody's functions and modules and a tiny declaration.

    model = describe(
        "my-router",
        steps={"features": encode, "query": embed, "information": entropy, "tokens": allocate},
        grid=(8, 8), image_size=(256, 256), lod=(64, 400),
    )

What a step reads is told by the names of its arguments. A step, or an entry of the mapping that it
returns, that is called like a role (`information`, `weights`, `tokens`, ...) becomes the site of
that role. The model is run once on a test picture while it is described, so what does not fit is
said then, and the axes of activations need not be written down where their shape tells them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from torch import nn

from arrcoc_verify.adapters.modules import digest_of, modules_of
from arrcoc_verify.adapters.part import Part, Place, parameters
from arrcoc_verify.adapters.pixels import Pixels
from arrcoc_verify.adapters.trace import trace
from arrcoc_verify.errors import BadModel, TrainingMode, UnknownName
from arrcoc_verify.model import ROOTS, BudgetKind, ClaimProfile, Declaration, Model

QueryPath = get_type_hints(Declaration)["query_path"]


def describe(
    name: str,
    steps: Mapping[str, Callable[..., Any] | Part],
    *,
    sites: Mapping[str, Place] | None = None,
    profile: ClaimProfile | Mapping[str, Any] | None = None,
    modules: Iterable[nn.Module] = (),
    **declared: Any,
) -> Model:
    """Return a model under test made of somebody's own functions and modules.

    Args:
        name: shown everywhere.
        steps: name -> function, module or `Part`, each after those whose results it reads.
        sites: `<stage>.<word>` -> `Place`, beside those that step results make by themselves.
        profile: which claims the model's author makes; a mapping holds fields of `ClaimProfile`.
        modules: torch modules that the functions reach by ways that cannot be seen.
        **declared: fields of `Declaration`: `grid` and `image_size` at least.

    Raises:
        BadModel: the model does not run on a test picture, or is not what was declared.
        UnknownName: a stage, role, step or field that does not exist; the nearest is suggested.
        TrainingMode: a module is in training mode.
    """
    declaration = declare(declared)
    parts = with_pixels({key: _part(key, given) for key, given in steps.items()}, declaration)
    places = {key: _placed(key, place, parts) for key, place in (sites or {}).items()}
    runs = [part.run for part in parts.values()]
    held = modules_of([*runs, *_modules_at(places.values()), *modules])
    for module in held:
        if any(part.training for part in module.modules()):
            raise TrainingMode(
                f"module {type(module).__name__} of {name!r} is in training mode; "
                "call .eval() before verifying"
            )
    traced_steps, found = trace(parts, places, declaration, held)
    functions = [place.function for place in places.values() if place.function is not None]
    return Model(
        name=name,
        steps=traced_steps,
        sites=found,
        declaration=declaration,
        profile=profiled(profile, name),
        modules=held,
        adapter="callables",
        digest=digest_of(held, [*runs, *functions]),
    )


def whole(
    name: str,
    module: nn.Module,
    *,
    before: Mapping[str, Callable[..., Any] | Part] | None = None,
    inputs: tuple[str, ...] | None = None,
    sites: Mapping[str, Place] | None = None,
    **declared: Any,
) -> Model:
    """Return a model under test made of one torch module, read and written by hooks.

    Args:
        name: shown everywhere.
        module: the model, in evaluation mode.
        before: steps that make its inputs, such as `{"query": tokenise}`.
        inputs: what `module` is called with; None means by the names of its arguments.
        sites: `<stage>.<word>` -> `Place`; a module goes by its path, `Place(module="blocks.3")`.
        **declared: as for `describe`.
    """
    prefixed = {
        key: _replaced(place, module=f"model.{place.module}")
        if isinstance(place.module, str)
        else place
        for key, place in (sites or {}).items()
    }
    steps = {**(before or {}), "model": Part(run=module, inputs=inputs)}
    return describe(name, steps, sites=prefixed, **declared)


def declare(declared: Mapping[str, Any]) -> Declaration:
    """Return the declaration, refusing fields that do not exist or are missing."""
    known = [field.name for field in fields(Declaration)]
    for key in declared:
        if key not in known:
            raise UnknownName("field of the declaration", key, known)
    for key in ("grid", "image_size"):
        if key not in declared:
            raise BadModel(
                f"the declaration needs {key!r}: grid is rows and columns of patches, image_size "
                "height and width in pixels"
            )
    return Declaration(**{key: _read(key, value) for key, value in declared.items()})


def profiled(given: ClaimProfile | Mapping[str, Any] | None, name: str) -> ClaimProfile:
    """Return the claim profile, refusing fields that do not exist."""
    if isinstance(given, ClaimProfile):
        return given
    known = [field.name for field in fields(ClaimProfile)]
    for key, value in (given or {}).items():
        if key not in known:
            raise UnknownName("field of the profile", key, known)
        wanted = {"name": str, "salience_query_free": bool}.get(key, Mapping)
        if not isinstance(value, wanted):
            raise BadModel(
                f"{key!r} of the profile must be a {wanted.__name__}, got {value!r}; margins and "
                "reasons are tables by claim id"
            )
    return ClaimProfile(**{"name": name, **given}) if given else ClaimProfile()


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "grid": ("two whole numbers", lambda value: _numbers(value, int, 2)),
    "image_size": ("two whole numbers", lambda value: _numbers(value, int, 2)),
    "lod": (
        "two numbers, or None",
        lambda value: _maybe(value, 2),
    ),
    "ladder": (
        "numbers, or None",
        lambda value: _maybe(value, None),
    ),
    "relevance_range": ("two numbers, or None", lambda value: _maybe(value, 2)),
    "tension_range": ("two numbers", lambda value: _numbers(value, float, 2)),
    "total": ("a number, or None", lambda value: None if value is None else float(value)),
    "tolerance": ("a number", float),
    "batch_size": ("a whole number", lambda value: _numbers([value], int, 1)[0]),
    "budget_kind": (f"one of {get_args(BudgetKind)}", lambda value: _one(value, BudgetKind)),
    "query_path": (f"one of {get_args(QueryPath)}", lambda value: _one(value, QueryPath)),
    "lacks": ("a list of sentences", lambda value: tuple(_same(part, str) for part in value)),
}


def _read(key: str, value: Any) -> Any:
    wanted, read = _KINDS.get(key, ("true or false", lambda value: _same(value, bool)))
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise BadModel(f"{key!r} of the declaration must be {wanted}, got {value!r}") from error


def _numbers(value: Any, kind: type[int] | type[float], count: int) -> tuple[Any, ...]:
    numbers = [_same(part, (int, float)) for part in value]
    if len(numbers) != count or any(kind(part) != part for part in numbers):
        raise ValueError
    return tuple(kind(part) for part in numbers)


def _maybe(value: Any, count: int | None) -> tuple[Any, ...] | None:
    if value is None:
        return None
    return _numbers(value, float, len(value) if count is None else count)


def _one(value: Any, known: Any) -> Any:
    if value not in get_args(known):
        raise ValueError
    return value


def _same(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise TypeError
    return value


def _part(name: str, given: Callable[..., Any] | Part) -> Part:
    part = given if isinstance(given, Part) else Part(run=given)
    if not callable(part.run):
        raise BadModel(f"step {name!r} must be a function or module, got {type(part.run).__name__}")
    return part


def with_pixels(parts: Mapping[str, Part], declaration: Declaration) -> dict[str, Part]:
    """Return the steps with the default `image` step in front, where one of them asks for it."""
    asked = {word for part in parts.values() for word in part.inputs or parameters(part.run)}
    if "image" in parts or "image" not in asked:
        return dict(parts)
    run = Pixels(declaration.image_size)
    return {"image": Part(run=run, inputs=(ROOTS[0],), transient=True, pure=True), **parts}


def _placed(name: str, place: Place, parts: Mapping[str, Part]) -> Place:
    if not isinstance(place, Place):
        raise BadModel(f"site {name!r} must be a Place, got {type(place).__name__}")
    if not isinstance(place.module, str):
        return place
    step, _, path = place.module.partition(".")
    if step not in parts:
        raise UnknownName(f"step in the module of site {name!r}", step, parts)
    run = parts[step].run
    if not isinstance(run, nn.Module):
        raise BadModel(
            f"site {name!r}: step {step!r} is a {type(run).__name__}, not a torch module, so it "
            f"has no part {path!r}; give the module itself"
        )
    inside = dict(run.named_modules())
    if path not in inside:
        raise UnknownName(f"module in site {name!r}", path, (key for key in inside if key))
    return _replaced(place, module=inside[path], step=place.step or step)


def _replaced(place: Place, **changes: Any) -> Place:
    given = {field.name: getattr(place, field.name) for field in fields(Place)}
    return Place(**{**given, **changes})


def _modules_at(places: Iterable[Place]) -> list[nn.Module]:
    return [place.module for place in places if isinstance(place.module, nn.Module)]
