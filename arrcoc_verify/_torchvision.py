"""Let torchvision's pure-Python part be imported where its compiled operators cannot be loaded.

The torchvision wheel of package indices is built against CUDA; beside a CPU build of torch its
extension does not load, and `import torchvision` then fails because it registers shape rules for
two operators that nobody defined. timm and open_clip import torchvision but need none of its
operators. Call `prepare()` before importing them.
"""

import functools
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any, NoReturn

from arrcoc_verify.errors import UsageError

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators whose shape rules torchvision registers whether or not its extension loaded."""

_defined: list[Any] = []  # torch forgets a definition when its library object is collected


@functools.cache
def prepare() -> None:
    """Make `import torchvision` work, if need be without its compiled operators.

    Does nothing where they load, where torchvision is absent or already imported. Otherwise every
    operator in `SCHEMAS` exists, and calling it raises `UsageError`.
    """
    if "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _extension_loads(Path(spec.origin).parent):
        return
    _define_missing()


def _extension_loads(folder: Path) -> bool:
    """Return whether the extension in torchvision's `folder` loads into this torch."""
    import torch

    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_C{suffix}"
        if path.exists():
            try:
                torch.ops.load_library(path)
            except OSError:
                return False
            return True
    return False


def _define_missing() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    _defined.append(library)
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
            for device in ("CPU", "CUDA"):
                library.impl(name, functools.partial(_refuse, name), device)


def _refuse(name: str, *_: object) -> NoReturn:
    import torch

    raise UsageError(
        f"torchvision::{name} needs torchvision's compiled operators, which torch"
        f" {torch.__version__} cannot load; install the torchvision build that matches it"
    )
