"""The environment of the dictionary libraries: torch is borrowed, only what differs is installed.

Two of them ask for older versions of what ours needs, or for what only their capturing of models
needs, so they come without what they ask for.
"""

import subprocess
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
        folder: where it lies or shall lie.

    Returns:
        (interpreter, version by engine, ""), or (None, {}, why there is none).
    """
    try:
        python = made(folder)
        if len(versions(python)) < len(NAMES):
            pip = (python, "-m", "pip", "install", "--quiet", "--retries", "1")
            run(*pip, *WHOLE)
            run(*pip, "--no-deps", *BARE)
        return python, versions(python), ""
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        last = told.strip().splitlines()[-1] if told.strip() else type(error).__name__
        return None, {}, f"the libraries' environment could not be made: {last}"


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the libraries that an environment has."""
    found = {}
    for engine, name in NAMES.items():
        asked = f"from importlib.metadata import version; print(version({name!r}))"
        try:
            found[engine] = run(python, "-c", asked)
        except subprocess.CalledProcessError:
            continue
    return found
