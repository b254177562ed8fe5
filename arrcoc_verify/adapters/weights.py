"""Read weights without running anything: safetensors, or torch's zip format with tensors only.

What a file is, its first bytes say, not its name. A pickle is a program: to unpickle it is to run
what its author wrote, so it is refused whatever it is called.
"""

import pickle
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from arrcoc_verify.errors import BadModel

CONVERT = (
    "convert it once, on a machine that may run it: "
    "`safetensors.torch.save_file(model.state_dict(), 'model.safetensors')`"
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
"""What weights files are usually called; only used to explain that weights are not a model."""


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name.

    Raises:
        BadModel: the file is missing, a pickle, truncated, or holds anything but named tensors.
    """
    if not path.is_file():
        raise BadModel(f"there is no weights file {path}")
    kind = kind_of(path)
    if kind == "safetensors":
        try:
            return load_safetensors(path.read_bytes())
        except SafetensorError as error:
            raise BadModel(f"weights file {path} is damaged: {error}") from error
    if kind == "torch":
        return _torch_zip(path)
    raise BadModel(refusal(path, kind))


def kind_of(path: Path) -> str:
    """Return `safetensors`, `torch`, `pickle` or `unknown`, by the first bytes of a file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"PK\x03\x04":
        return "torch"
    if len(head) >= 9 and head[8:9] == b"{":
        (length,) = struct.unpack("<Q", head[:8])
        if length <= path.stat().st_size:
            return "safetensors"
    # Protocol 0 has no mark: it begins with an opcode and, as every pickle, ends with a full stop.
    plain = head[:1] in (b"(", b"c", b"]", b"}") and path.read_bytes()[-1:] == b"."
    return "pickle" if head[:1] == b"\x80" or plain else "unknown"


def refusal(path: Path, kind: str) -> str:
    """Return why a file is not read as weights, and what to do."""
    if kind == "pickle":
        return (
            f"{path} is a pickle: to load it is to run whatever program it holds, so it is not "
            f"opened. Weights come as safetensors; {CONVERT}"
        )
    return f"{path} is neither safetensors nor torch's zip format; {CONVERT}"


def _torch_zip(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadModel(
            f"{path} holds more than tensors: it wants to run code while it is loaded, so it is "
            f"not opened; {CONVERT}"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise BadModel(f"weights file {path} is damaged: {error}") from error
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items()
    ):
        raise BadModel(f"{path} holds a {type(held).__name__}, wanted tensors by name; {CONVERT}")
    return held


def fill(module: nn.Module, path: Path) -> None:
    """Load a weights file into a module, every tensor exactly.

    Raises:
        BadModel: names or shapes differ; says which.
    """
    held, wanted = load_weights(path), module.state_dict()
    missing = [name for name in wanted if name not in held]
    extra = sorted(name for name in held if name not in wanted)
    other = [
        f"{name} is {tuple(held[name].shape)}, wanted {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in held and held[name].shape != value.shape
    ]
    if missing or extra or other:
        raise BadModel(
            f"{path} does not fit {type(module).__name__}: missing {missing[:5]}, "
            f"not wanted {extra[:5]}, shapes {other[:5]}"
        )
    module.load_state_dict(held)
