"""Make a loaded model ready as the user asked: which claims are made for it, where it runs."""

import dataclasses
import tomllib
from pathlib import Path

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
    known = {one.name: one for one in dataclasses.fields(ClaimProfile)}
    for key, value in data.items():
        if key not in known:
            raise UnknownName(f"key of the profile {path}", key, known)
        wanted = {"name": str, "salience_query_free": bool}.get(key, dict)
        if not isinstance(value, wanted):
            raise BadConfig(f"{key} in the profile {path}: wanted {wanted.__name__}, got {value!r}")
    return dataclasses.replace(model, profile=ClaimProfile(**{"name": path.stem, **data}))


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
