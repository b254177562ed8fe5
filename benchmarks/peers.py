"""The rivals' own environment: torch is borrowed from ours, only what differs is installed."""

import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]


def wanted() -> list[str]:
    """Return the requirements of the `peers` extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    return extras["peers"]


def environment(folder: Path) -> tuple[Path | None, str]:
    """Return the interpreter of the rivals' environment, made where there is none, or the reason.

    Args:
        folder: where it lies or shall lie.

    Returns:
        (interpreter, version of nnsight), or (None, why there is none).
    """
    try:
        python = made(folder)
        if _version(python) is None:
            Console(stderr=True).print(f"installing {', '.join(wanted())} into {folder}")
            run(python, "-m", "pip", "install", "--quiet", "--retries", "1", *wanted())
        version = _version(python)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        last = told.strip().splitlines()[-1] if told.strip() else type(error).__name__
        return None, f"the rivals' environment could not be made: {last}"
    if version is None:
        return None, "nnsight was installed but cannot be imported"
    return python, version


def made(folder: Path) -> Path:
    """Return the interpreter of an environment that sees all of ours, made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    ours = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    return python


def _version(python: Path) -> str | None:
    try:
        return run(python, "-c", "import nnsight; print(nnsight.__version__)")
    except subprocess.CalledProcessError:
        return None


def run(*command: object) -> str:
    """Return the last line that a command prints; raise what subprocess raises."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, timeout=600
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
