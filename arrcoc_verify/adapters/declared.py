"""Read a model's declaration from a TOML file: the same words as `describe`, nothing executable.

    [model]
    name = "my-router"
    grid = [8, 8]
    image_size = [256, 256]

    [declaration]            # any other field of Declaration
    lod = [64, 400]

    [[module]]               # a torch module that several steps or sites name
    name = "net"
    make = "stages.py:Net"   # a module, or something that is called and returns one
    weights = "net.safetensors"

    [[step]]
    name = "information"
    run = "stages.py:information"

    [[site]]
    name = "encoder.hidden"
    module = "net.blocks.3"

Files are named relative to the TOML file and may not lie outside its folder.

With a `[backbone]` table in place of steps, the file names encoders for the reference model's own
scorers and allocator (docs/backbones.md).
"""

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from arrcoc_verify.adapters.callables import describe, profiled
from arrcoc_verify.adapters.locate import attribute, inside, locate, told
from arrcoc_verify.adapters.part import Part, Place
from arrcoc_verify.adapters.weights import fill
from arrcoc_verify.errors import ArrcocError, BadModel, UnknownName
from arrcoc_verify.model import Declaration, Model

TABLES = ("model", "declaration", "module", "step", "site", "profile", "backbone")
MODEL = ("name", "grid", "image_size")
MODULE = ("name", "make", "arguments", "weights")
STEP = ("name", *(field.name for field in dataclasses.fields(Part)))
SITE = ("name", *(field.name for field in dataclasses.fields(Place)))


def read_toml(path: Path) -> Model:
    """Return the model that a TOML file declares.

    Raises:
        BadModel: the file cannot be read, or the model does not fit what it says.
        UnknownName: a table or key that does not exist; the nearest is suggested.
    """
    if not path.is_file():
        raise BadModel(f"there is no file {path}; looked in {path.resolve().parent}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadModel(f"{path} is not TOML: {error}") from error
    folder = path.resolve().parent
    _only(data, TABLES, "table")
    head = _table(data, "model")
    _model_keys(head)
    name = head.get("name", path.stem)
    if "backbone" in data:
        return _on_backbone(data, folder, name)
    made = {entry["name"]: _module(entry, folder) for entry in _list(data, "module", MODULE)}
    steps = {entry["name"]: _step(entry, made, folder) for entry in _list(data, "step", STEP)}
    sites = {entry["name"]: _site(entry, made, folder) for entry in _list(data, "site", SITE)}
    size = {key: head[key] for key in ("grid", "image_size") if key in head}
    return describe(
        name,
        steps,
        sites=sites,
        profile=_table(data, "profile"),
        modules=list(made.values()),
        **size,
        **_table(data, "declaration"),
    )


def _on_backbone(data: Mapping[str, Any], folder: Path, name: str) -> Model:
    """Return the reference model's allocator on the encoders that `[backbone]` names."""
    _only(data, ("model", "backbone", "profile"), "table beside [backbone]")
    _only(_table(data, "model"), ("name",), "key of [model] beside [backbone]")
    # Loading timm, open_clip and transformers takes seconds; most models need none of them.
    backbones = importlib.import_module("arrcoc_verify.reference.backbones")
    model: Model = backbones.read(_table(data, "backbone"), folder, name)
    given = _table(data, "profile")
    return dataclasses.replace(model, profile=profiled(given, name)) if given else model


def _model_keys(head: Mapping[str, Any]) -> None:
    moved = [field.name for field in dataclasses.fields(Declaration) if field.name not in MODEL]
    for key in head:
        if key in moved:
            raise BadModel(f"key {key!r} belongs under [declaration], not under [model]")
    _only(head, MODEL, "key of [model]")


def _only(held: Mapping[str, Any], known: tuple[str, ...], kind: str) -> None:
    for key in held:
        if key not in known:
            raise UnknownName(kind, key, known)


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = data.get(name, {})
    if not isinstance(held, dict):
        raise BadModel(f"[{name}] must be a table, got {type(held).__name__}")
    return held


def _list(data: Mapping[str, Any], name: str, known: tuple[str, ...]) -> list[dict[str, Any]]:
    held = data.get(name, [])
    if not isinstance(held, list) or not all(isinstance(item, dict) for item in held):
        raise BadModel(f"write [[{name}]] with two brackets: there may be several")
    seen: set[str] = set()
    for item in held:
        _only(item, known, f"key of [[{name}]]")
        if not isinstance(item.get("name"), str):
            raise BadModel(f"every [[{name}]] needs a `name`, got {item.get('name')!r}")
        if item["name"] in seen:
            raise BadModel(f"two [[{name}]] are called {item['name']!r}")
        seen.add(item["name"])
    return held


def _needed(entry: Mapping[str, Any], kind: str, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise BadModel(f"[[{kind}]] {entry['name']!r} needs `{key}` as text, got {value!r}")
    return value


def _module(entry: Mapping[str, Any], folder: Path) -> nn.Module:
    reference = _needed(entry, "module", "make")
    found = locate(reference, folder)
    if not isinstance(found, nn.Module):
        try:
            found = found(**entry.get("arguments", {}))
        except Exception as error:
            raise told(f"{reference} could not be called", error) from error
    if not isinstance(found, nn.Module):
        raise BadModel(f"{reference} returned a {type(found).__name__}, wanted a torch module")
    if "weights" in entry:
        fill(found, inside(_needed(entry, "module", "weights"), folder))
    return found.eval()


def _named(reference: str, made: Mapping[str, nn.Module], folder: Path) -> Any:
    """Return what a text names: a declared module, a part of it, or an object in a file."""
    if ":" in reference:
        return locate(reference, folder)
    first, _, path = reference.partition(".")
    if first not in made:
        raise UnknownName("module", first, made)
    value: Any = made[first]
    for part in path.split(".") if path else ():
        value = attribute(value, part, reference)
    return value


def _step(entry: Mapping[str, Any], made: Mapping[str, nn.Module], folder: Path) -> Part:
    rest = {key: _tuple(value) for key, value in entry.items() if key not in ("name", "run")}
    return Part(run=_named(_needed(entry, "step", "run"), made, folder), **rest)


def _site(entry: Mapping[str, Any], made: Mapping[str, nn.Module], folder: Path) -> Place:
    rest = {key: _tuple(value) for key, value in entry.items() if key != "name"}
    for key in ("module", "function"):
        if key in rest:
            rest[key] = _named(_needed(entry, "site", key), made, folder)
    if "module" in rest and not isinstance(rest["module"], nn.Module):
        raise BadModel(f"site {entry['name']!r}: {entry['module']!r} is not a torch module")
    return Place(**rest)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def from_mapping(held: Mapping[str, Any]) -> Model:
    """Return the model that a factory's mapping describes: the arguments of `describe` by name."""
    missing = [key for key in ("name", "steps") if key not in held]
    if missing:
        raise BadModel(
            f"the mapping lacks {', '.join(missing)}: it holds the arguments of "
            "arrcoc_verify.adapters.describe by name"
        )
    try:
        return describe(**held)
    except ArrcocError:
        raise
    except (TypeError, AttributeError) as error:
        raise told("the mapping does not describe a model", error) from error
