"""What a user can set, from whichever door it comes: command line, pytest ini, pyproject.toml.

One table of keys for all doors, so that they cannot drift apart. Unknown keys are refused with the
nearest name; a value of the wrong kind says what was wanted. Loads nothing heavy.

    [tool.arrcoc_verify]
    model = "mymodel.adapters:load"
    images = "pictures"
    alpha = 0.01

    [[tool.arrcoc_verify.waivers]]
    claim = "whole.paraphrase-is-stable"
    reason = "known limit of v2"
    author = "M. Curie"
    expires = "2027-01-31"
"""

import datetime
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.verdict import Waiver

TABLE = "arrcoc_verify"
"""The settings' table in pyproject.toml, under `tool`."""

REFERENCE = "reference:analytic"
"""What the commands examine when no model is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, resolved.

    Attributes:
        model: what names the model under test; None when nothing did.
        images: folder, CSV or COCO json; None means the embedded photographs.
        profile: None for the model's own claims, `default`, or a TOML file.
        out: folder of the record; None makes one from the time.
        seed: of every draw, 0 or more.
        device: cpu or cuda.
        alpha: family-wise error of a run, between 0 and 1.
        confidence: level of the intervals, between 0 and 1.
        per_cluster: scenes of each independent cluster, 1 or more.
        claims: shell patterns of claim ids.
        inconclusive: what pytest makes of an inconclusive verdict, fail or skip.
        family: number of claims that share alpha in pytest; None means those that it collected.
        skip_bad_rows: leave out pictures and rows that cannot be used, and list them.
        waivers: verdicts that a person has accepted.
        origin: key -> where its value came from, for keys that were set.
    """

    model: str | None = None
    images: Path | None = None
    profile: str | None = None
    out: Path | None = None
    seed: int = 0
    device: str = "cpu"
    alpha: float = 0.01
    confidence: float = 0.99
    per_cluster: int = 2
    claims: tuple[str, ...] = ("*",)
    inconclusive: str = "fail"
    family: int | None = None
    skip_bad_rows: bool = False
    waivers: tuple[Waiver, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Settings from one place; later layers win over earlier ones.

    Attributes:
        name: of the place, for messages.
        values: key -> value as written; text is read as the key's kind where that is not text.
        folder: what relative paths in it start from; None for the working folder.
    """

    name: str
    values: Mapping[str, Any]
    folder: Path | None = None


def settle(*layers: Layer) -> Config:
    """Return the settings of several places together.

    Raises:
        UnknownName: a key does not exist; the nearest is suggested.
        BadConfig: a value is of the wrong kind or out of range.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for key, given in layer.values.items():
            if key not in KEYS:
                raise UnknownName(f"key of {layer.name}", key, KEYS)
            if given is None:
                continue
            values[key] = KEYS[key](_Given(key=key, value=given, layer=layer))
            origin[key] = layer.name
    return Config(**values, origin=origin)


def from_pyproject(folder: Path, *, upward: bool = True) -> Layer:
    """Return the layer of the nearest pyproject.toml, or an empty one where there is none.

    Args:
        folder: where to look.
        upward: look in the folders above as well.

    Raises:
        BadConfig: the file is not TOML, or `tool.arrcoc_verify` is not a table.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents) if upward else (folder,):
        path = place / "pyproject.toml"
        if path.is_file():
            return _read(path)
    return Layer(name="pyproject.toml", values={}, folder=folder)


def _read(path: Path) -> Layer:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path} cannot be read as TOML: {error}") from error
    values = data.get("tool", {}).get(TABLE, {})
    name = f"[tool.{TABLE}] in {path}"
    if not isinstance(values, dict):
        raise BadConfig(f"{name} should be a table, got {type(values).__name__}")
    return Layer(name=name, values=values, folder=path.parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    key: str
    value: Any
    layer: Layer

    def bad(self, wanted: str) -> BadConfig:
        return BadConfig(f"{self.key} in {self.layer.name}: wanted {wanted}, got {self.value!r}")


def _text(given: _Given) -> str:
    if not isinstance(given.value, str) or not given.value.strip():
        raise given.bad("text")
    return given.value


def _path(given: _Given) -> Path:
    if isinstance(given.value, Path):
        return given.value
    path = Path(_text(given)).expanduser()
    return path if given.layer.folder is None else given.layer.folder / path


def _spec(given: _Given) -> str:
    """Name a model's file from the folder of the settings, if that is where it lies."""
    text = _text(given)
    head, colon, rest = text.partition(":")
    folder = given.layer.folder
    if folder is None:
        return text
    if head == "arrcoc01" and colon:
        return f"arrcoc01:{folder / rest}"
    if head.endswith((".toml", ".py")):
        return f"{folder / head}{colon}{rest}"
    return text


def _profile(given: _Given) -> str:
    text = _text(given)
    if text == "default" or given.layer.folder is None:
        return text
    return str(given.layer.folder / text)


def _number(given: _Given) -> float:
    value = given.value
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise given.bad("a number")
    return number


def _share(given: _Given) -> float:
    number = _number(given)
    if not 0 < number < 1:
        raise given.bad("a number between 0 and 1, such as 0.01")
    return number


def _whole(least: int) -> Callable[[_Given], int]:
    def read(given: _Given) -> int:
        number = _number(given)
        if not number.is_integer() or number < least:
            raise given.bad(f"a whole number of at least {least}")
        return int(number)

    return read


def _one_of(*words: str) -> Callable[[_Given], str]:
    def read(given: _Given) -> str:
        if given.value not in words:
            raise given.bad(" or ".join(words))
        return str(given.value)

    return read


def _patterns(given: _Given) -> tuple[str, ...]:
    value = given.value
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise given.bad("patterns of claim ids, such as 'balancing.*'")
    if not parts:
        raise given.bad("at least one pattern of claim ids, such as 'balancing.*'")
    return tuple(parts)


def _switch(given: _Given) -> bool:
    value = {"true": True, "false": False}.get(str(given.value).lower())
    if value is None:
        raise given.bad("true or false")
    return value


def _waivers(given: _Given) -> tuple[Waiver, ...]:
    if not isinstance(given.value, list | tuple):
        raise given.bad(f"[[tool.{TABLE}.waivers]] tables")
    return tuple(_waiver(given, entry) for entry in given.value)


def _waiver(given: _Given, entry: Any) -> Waiver:
    known = tuple(f.name for f in fields(Waiver))
    if not isinstance(entry, dict):
        raise given.bad(f"tables with {', '.join(known)}")
    for key in entry:
        if key not in known:
            raise UnknownName(f"key of a waiver in {given.layer.name}", key, known)
    if missing := [key for key in known if not entry.get(key)]:
        raise BadConfig(
            f"a waiver in {given.layer.name} lacks {', '.join(missing)}; "
            f"each has {', '.join(known)}"
        )
    try:
        expires = datetime.date.fromisoformat(str(entry["expires"])).isoformat()
    except ValueError:
        raise BadConfig(
            f"a waiver in {given.layer.name} expires on {entry['expires']!r}: "
            "wanted a date such as 2027-01-31"
        ) from None
    return Waiver(**{key: str(entry[key]) for key in known if key != "expires"}, expires=expires)


KEYS: Mapping[str, Callable[[_Given], Any]] = {
    "model": _spec,
    "images": _path,
    "profile": _profile,
    "out": _path,
    "seed": _whole(0),
    "device": _one_of("cpu", "cuda"),
    "alpha": _share,
    "confidence": _share,
    "per_cluster": _whole(1),
    "claims": _patterns,
    "inconclusive": _one_of("fail", "skip"),
    "family": _whole(1),
    "skip_bad_rows": _switch,
    "waivers": _waivers,
}
"""Key -> how its value is read. Command line, pytest ini and pyproject.toml share it."""
