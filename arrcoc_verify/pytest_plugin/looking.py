"""The command that debugs the case at which a claim of a test failed."""

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arrcoc_verify.pytest_plugin import options
from arrcoc_verify.pytest_plugin.state import Session
from arrcoc_verify.verdict import Case, Verdict

if TYPE_CHECKING:
    from PIL import Image

ASKED = ("model", "seed")
"""Settings that the command repeats."""


def command(
    session: Session, config: pytest.Config, verdict: Verdict,
    picture: "Image.Image | str | Path | None" = None, expect: str = "",
) -> str:  # fmt: skip
    """Return the command that debugs the worst case of a verdict, or "" where there is none.

    A picture that is no file is kept in pytest's cache, under a name made of its pixels.

    Args:
        session: the plugin's state.
        config: of pytest, for its cache.
        verdict: one that does not hold.
        picture: what the test showed the model; None to take the scene of the worst case.
        expect: what the test wants of the region, such as ">=200", or "".
    """
    case = verdict.worst[0] if verdict.worst else None
    if case is None or case.region is None:
        return ""
    shown = picture if picture is not None else _scene(session, case)
    path = shown if isinstance(shown, str | Path) else _kept(config, shown)
    if not path:
        return ""
    region = ",".join(map(str, case.region))
    words = ["arrcoc-verify", "debug", str(path), *options.arguments(session.settings, ASKED)]
    words += ["--query", case.query, "--region", region]
    return shlex.join([*words, "--expect", expect] if expect else words)


def bound(verdict: Verdict, at_least: float | None, at_most: float | None) -> str:
    """Return the bound that a region misses, as `--expect` has it."""
    tokens = verdict.effect.value if verdict.effect is not None else None
    if at_least is not None and (tokens is None or tokens < at_least):
        return f">={at_least:g}"
    return f"<={at_most:g}" if at_most is not None else ""


def _scene(session: Session, case: Case) -> "Image.Image | None":
    scenes = session.experiment.asserted.scenes
    same = (one for one in scenes if (one.name, one.query) == (case.scene, case.query))
    found = next(same, None)
    return None if found is None else found.image


def _kept(config: pytest.Config, image: "Image.Image | None") -> Path | None:
    cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    if image is None or cache is None:
        return None
    name = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    path = Path(cache.mkdir("arrcoc")) / f"{name}.png"
    if not path.exists():
        image.save(path)
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
