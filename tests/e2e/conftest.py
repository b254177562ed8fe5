"""Commands as a user gives them, in this process or in one of their own."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROUTERS = Path(__file__).parent / "routers.py"


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def uncontrolled():
    """Judge without the kept positive controls: they belong to the code as it was last released."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("arrcoc_verify.audit"), "_own_controls", dict)
        yield


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, uncontrolled):
    """Give a command in an empty folder, in this process; no end may show a traceback."""
    monkeypatch.chdir(tmp_path)
    ending = importlib.import_module("arrcoc_verify.cli.ending")

    def give(*arguments):
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["arrcoc-verify", *words])
        code = ending.run(words)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err + shown.out
        return Done(code, shown.out, shown.err)

    return give


@pytest.fixture
def audit(command):
    """Audit a small router on one scene a cluster; returns how it ended and what its JSON says."""

    def give(*options, router="sound", claims=("attending.tokens-in-range",)):
        chosen = [word for claim in claims for word in ("--claims", claim)]
        done = command(
            "audit", "--model", f"{ROUTERS}:{router}", "--per-cluster", 1, *chosen,
            "--json", "audit.json", *options,
        )  # fmt: skip
        told = Path("audit.json")
        return done, json.loads(told.read_text()) if told.exists() else None

    return give


@pytest.fixture
def process(tmp_path):
    """Give a command in an empty folder, in a process of its own."""

    def start(*arguments, code=None):
        words = ["-m", "arrcoc_verify"] if code is None else ["-c", code]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, *words, *map(str, arguments)], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    def give(*arguments, code=None):
        running = start(*arguments, code=code)
        out, err = running.communicate(timeout=300)
        return Done(running.returncode, out, err)

    give.start = start
    return give
