"""Checkpoints of training: one safetensors file that is whole or not there."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arrcoc_verify.errors import RecordError, StoreError
from arrcoc_verify.report.atomic import make_folder, write_bytes

NAME = "checkpoint.safetensors"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write tensors and JSON data; what was there before stays until the new file is whole.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        make_folder(folder)
        write_bytes(folder / NAME, save(plain, metadata={"told": json.dumps(told)}))
    except RecordError as error:
        raise StoreError(str(error)) from error


def read_checkpoint(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and data of a checkpoint that was written for the same `identity`.

    Raises:
        StoreError: there is none, it is damaged, or it belongs to other settings, which are named.
    """
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["told"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StoreError(
            f"no checkpoint to go on from at {path}: {error}; train anew, without --resume"
        ) from error
    require_same(path, told, identity)
    return tensors, told


def require_same(path: Path, told: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made by other settings.

    Args:
        path: what was made, for the message.
        told: its settings, as read from JSON.
        identity: the settings now.

    Raises:
        StoreError: they differ; what differs is named.
    """
    wrong = list(_differences(told, json.loads(json.dumps(identity))))
    if wrong:
        raise StoreError(
            f"{path} was written by other settings: {'; '.join(wrong)}. Use those, or train anew "
            "in another folder"
        )


def _differences(told: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(now, dict):
        there = told if isinstance(told, dict) else {}
        for key, value in now.items():
            yield from _differences(there.get(key), value, f"{name}.{key}" if name else key)
    elif told != now:
        yield f"{name}: {told!r} there, {now!r} now"
