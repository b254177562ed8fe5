"""Make a loaded model ready as the user asked: which claims are made for it, where it runs."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from arrcoc_verify.errors import BadConfig, UnknownName, UsageError
from arrcoc_verify.model import ClaimProfile, Model


def with_profile(model: Model, profile: str | None) -> Model:
    """Return the model with another claim profile.

    Args:
        model: model under test.
        profile: None keeps the model's own; `default` is the package's; else a TOML file with the
            fields of `ClaimProfile`.

    Raises:
        BadConfig: the file cannot be read, or a value is of the wrong kind.
        UnknownName: a key does not exist; the nearest is suggested.
    """
    if profile is None:
        return model
    if profile == "default":
        return dataclasses.replace(model, profile=ClaimProfile())
    path = Path(profile)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(
            f"wanted a profile as a TOML file or the word default, cannot read {profile} "
            f"({error.strerror}): check the path"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"the profile {path} is not TOML: {error}") from error
    known = [one.name for one in dataclasses.fields(ClaimProfile)]
    for key in data:
        if key not in known:
            raise UnknownName(f"key of the profile {path}", key, known)
    values = {key: _value(key, value, path) for key, value in data.items()}
    return dataclasses.replace(model, profile=ClaimProfile(**{"name": path.stem, **values}))


def _value(key: str, value: Any, path: Path) -> Any:
    """Return a value of a profile as its kind."""
    wanted = {"name": str, "salience_query_free": bool}.get(key, dict)
    fits = isinstance(value, wanted)
    if not fits:
        raise BadConfig(f"{key} in the profile {path}: wanted {_KINDS[wanted]}, got {value!r}")
    return _entries(key, value, path) if wanted is dict else value


def _entries(key: str, value: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    number = key == "margins"
    for name, entry in value.items():
        if isinstance(entry, bool) or not isinstance(entry, (int, float) if number else str):
            kind = "a number" if number else "text"
            raise BadConfig(f"{key} of {name} in the profile {path}: wanted {kind}, got {entry!r}")
    return {name: float(entry) for name, entry in value.items()} if number else value


_KINDS = {str: "text", bool: "true or false", dict: "a table"}


def on_device(model: Model, device: str) -> Model:
    """Return the model with its modules on a device; its steps must put their inputs there.

    Raises:
        UsageError: the machine has no such device, or the model has no modules to move.
    """
    if device == "cpu":
        return model
    if not torch.cuda.is_available():
        raise UsageError(f"wanted the device {device}, this machine has none: use --device cpu")
    if not model.modules:
        raise UsageError(
            f"{model.name} has no torch modules that could be moved to {device}: use --device cpu, "
            "or place its tensors in the adapter"
        )
    for module in model.modules:
        module.to(device)
    return model
