"""Where a result comes from: versions, commit, digests, machine. Imports nothing that is heavy.

Nothing personal is read: no user name, no host name, no environment beyond a short list of names.
"""

import ast
import datetime
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "timm", "open_clip_torch", "transformers", "safetensors", "einops",
    "numpy", "scipy", "statsmodels", "pandas", "pyarrow", "pillow", "jinja2", "pytest",
)  # fmt: skip
"""Distributions whose versions can change a result."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED")
"""Environment variables that can change a result; no others are read."""

_SKIPPED = {"__pycache__", ".git"}


def now() -> str:
    """Return the time in UTC to the second, as ISO 8601 with `Z`."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def version() -> str:
    """Return the installed version of this package, or `0+source` when it is not installed."""
    try:
        return metadata.version("arrcoc-verify")
    except metadata.PackageNotFoundError:
        return "0+source"


def file_digest(path: Path) -> str:
    """Return `sha256:<hex>` of a file's bytes, reading it in pieces."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """Return one digest for several files: their names under `root` and their bytes, in order."""
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        whole.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def folder_digest(root: Path) -> str:
    """Return one digest for all files under a folder, caches and version control left out."""
    files = (path for path in root.rglob("*") if path.is_file() and not _SKIPPED & set(path.parts))
    return files_digest(files, root)


def code_digest(paths: Iterable[Path], root: Path) -> str:
    """Return one digest of what Python files do: comments, docstrings and layout do not count."""
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                # A string that stands alone is a docstring or describes the name above it.
                node.body = [item for item in body if not _says(item)]  # type: ignore[attr-defined]
        whole.update(f"{path.relative_to(root).as_posix()}\0{_shape(tree)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _shape(node: Any) -> str:
    """Return a syntax tree as text; later Pythons add fields to it, which are empty here."""
    if isinstance(node, ast.AST):
        said = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        inside = ",".join(f"{name}={_shape(value)}" for name, value in said)
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{','.join(_shape(item) for item in node)}]"
    return repr(node)


def _says(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def json_digest(data: Any) -> str:
    """Return the digest of JSON data, the same whatever the order of its keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def tool() -> dict[str, str]:
    """Return name, version and digest of this package's own code."""
    folder = Path(__file__).parent
    code = [path for path in folder.rglob("*.py") if not _SKIPPED & set(path.parts)]
    return {
        "name": "arrcoc-verify",
        "version": version(),
        "digest": files_digest(code, folder),
    }


def packages(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed versions of distributions; those not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> dict[str, Any] | None:
    """Return commit and `dirty` of the repository a folder lies in; None where there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(folder: Path | None = None) -> dict[str, Any]:
    """Return interpreter, machine, package versions, and the commit of `folder` if it has one."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "packages": packages(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": None if folder is None else git_commit(folder),
    }


def peak_mib() -> float:
    """Return the largest resident memory this process ever had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
