"""The environment of the dictionary libraries: torch is borrowed, only what differs is installed.

Two of them ask for older versions of what ours needs, or for what only their capturing of models
needs, so they come without what they ask for.
"""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.peers import made, run

WHOLE = ("sae-lens>=6.54,<7",)
BARE = (
    "dictionary-learning==0.1.0",
    "eai-sparsify>=1.3.3,<2",
    "greenlet>=3",
    "natsort>=8",
    "nnsight>=0.8.1,<0.9",
    "schedulefree>=1.4",
    "zstandard>=0.23",
)
NAMES = {
    "sae_lens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
}
"""Distributions by the name of the engine."""


def environment(folder: Path) -> tuple[Path | None, dict[str, str], str]:
    """Return the libraries' interpreter, made where there is none, and their versions.

    Args:
        folder: where the environment lies or shall lie; or a folder of installed packages
            (`pip install --target`), for machines without a network, which our interpreter uses.

    Returns:
        (interpreter, version by engine, ""), or (None, {}, why there is none).
    """
    if packages(folder):
        return Path(sys.executable), versions([str(folder)]), ""
    try:
        python = made(folder)
        if len(versions(own_path(python))) < len(NAMES):
            pip = (python, "-m", "pip", "install", "--quiet", "--retries", "1")
            run(*pip, *WHOLE)
            run(*pip, "--no-deps", *BARE)
        return python, versions(own_path(python)), ""
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        last = told.strip().splitlines()[-1] if told.strip() else type(error).__name__
        return None, {}, f"the libraries' environment could not be made: {last}"


def packages(folder: Path) -> bool:
    """Return whether a folder holds packages themselves, not an environment."""
    return any((folder / engine).is_dir() for engine in NAMES)


def own_path(python: Path) -> list[str]:
    """Return where an environment keeps its packages."""
    return [run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")]


def versions(path: list[str]) -> dict[str, str]:
    """Return the versions of the libraries that are installed in some folders."""
    found = {one.metadata["Name"].lower(): one.version for one in distributions(path=path)}
    return {engine: found[name] for engine, name in NAMES.items() if name in found}
