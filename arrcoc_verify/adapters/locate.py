"""Find the Python object that a text names: `package.module:attribute` or `FILE.py:attribute`.

To name an object is to let its module run; nothing else here executes anything. A file is loaded
once for each content, under the name that its neighbours import it by, so that a step, a site and a
neighbour which name the same function mean the same function, and an edited file is seen.
"""

import hashlib
import importlib
import importlib.util
import linecache
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from arrcoc_verify.errors import ArrcocError, BadModel, UnknownName


def locate(reference: str, folder: Path | None = None) -> Any:
    """Return the object that `reference` names.

    Args:
        reference: `package.module:attribute` or `FILE.py:attribute`; the attribute may go on by
            dots, an index of a list included (`stages.py:net.blocks.3`).
        folder: files are looked for here and may not lie outside, and Python's own library, where
            a name could be any command, is refused; None means anywhere.

    Raises:
        BadModel: it cannot be imported.
        UnknownName: the module has no such attribute; the nearest is suggested.
    """
    source, colon, path = reference.partition(":")
    if not (source and colon and path):
        raise BadModel(
            f"{reference!r} names no object: write 'package.module:attribute' or "
            "'FILE.py:attribute'"
        )
    if source.endswith(".py"):
        value: Any = load_file(inside(source, folder))
    else:
        if folder is not None and source.partition(".")[0] in sys.stdlib_module_names:
            raise BadModel(
                f"{reference!r} lies in Python's own library: a declaration names the model's "
                "code, beside it or in an installed package"
            )
        value = _imported(source, folder)
    for part in path.split("."):
        value = attribute(value, part, reference)
    return value


def inside(name: str, folder: Path | None, *, is_folder: bool = False) -> Path:
    """Return the path of an existing file or folder, refusing one that leaves `folder`."""
    path = Path(name) if folder is None else folder / name
    if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise BadModel(
            f"{name!r} leaves the folder {folder}: a declaration names files beside it only; "
            "move the file there"
        )
    if not (path.is_dir() if is_folder else path.is_file()):
        what = "folder" if is_folder else "file"
        raise BadModel(f"there is no {what} {path}; looked in {path.resolve().parent}")
    return path


def attribute(value: Any, part: str, reference: str) -> Any:
    """Return one attribute, entry or index of `value`."""
    if hasattr(value, part):
        return getattr(value, part)
    if isinstance(value, Mapping) and part in value:
        return value[part]
    listed = isinstance(value, list | tuple | nn.Sequential | nn.ModuleList)
    if listed and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    if isinstance(value, nn.Module):
        raise UnknownName(f"part of {reference!r}", part, dict(value.named_children()))
    known = value if isinstance(value, Mapping) else [n for n in vars_of(value) if n[:1] != "_"]
    raise UnknownName(f"attribute in {reference!r}", part, map(str, known))


def vars_of(value: Any) -> list[str]:
    """Return the names an object holds itself."""
    return list(getattr(value, "__dict__", {}))


_read: dict[Path, str] = {}
"""File -> digest of what was last loaded from it."""


def load_file(path: Path) -> ModuleType:
    """Return the module that a Python file makes, its folder importable from it.

    Raises:
        BadModel: the file raised while it ran.
    """
    path = path.resolve()
    importable(path.parent)
    content = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()
    name = path.stem if _importable_as(path) else f"_arrcoc_file_{path.stem}_{digest[:12]}"
    held = sys.modules.get(name)
    if held is not None and _read.setdefault(path, digest) == digest:
        return held
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise BadModel(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    linecache.checkcache(str(path))  # the digest of a model reads its functions' source
    try:
        # Not through the loader: its cached bytecode may be older than an edit in this second.
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise told(f"{path} could not be loaded", error) from error
    _read[path] = digest
    return module


def _importable_as(path: Path) -> bool:
    """Return whether `import <stem>` means this very file, so that its neighbours share it."""
    if not path.stem.isidentifier():
        return False
    try:
        spec = importlib.util.find_spec(path.stem)
    except ValueError:  # a module without a spec has that name
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def importable(folder: Path) -> None:
    """Let modules in `folder` be imported, as `python -m` does, after all that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _imported(name: str, folder: Path | None) -> ModuleType:
    importable((folder or Path.cwd()).resolve())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise BadModel(
                f"there is no module {error.name!r}; looked in {folder or Path.cwd()} and in what "
                "is installed; name a file by its path: 'FILE.py:attribute'"
            ) from error
        raise told(f"module {name!r} could not be imported", error) from error
    except (Exception, SystemExit) as error:
        raise told(f"module {name!r} could not be imported", error) from error


def told(what: str, error: BaseException) -> BadModel:
    """Return a BadModel that says what a stranger's code raised, and where."""
    if isinstance(error, ArrcocError):
        return BadModel(f"{what}: {error}")
    last, place = error.__traceback__, ""
    while last is not None:
        file = Path(last.tb_frame.f_code.co_filename)
        if file.suffix == ".py" and "site-packages" not in file.parts:
            place = f" ({file.name}, line {last.tb_lineno})"
        last = last.tb_next
    return BadModel(f"{what}: {type(error).__name__}: {error}{place}")
