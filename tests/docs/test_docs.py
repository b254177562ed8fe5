"""What the documentation shows, works: its Python blocks run, in order, in an empty folder.

```python               runs, in one namespace a page
```python file=x.py     is written to x.py (so is any language with `file=`)
```console run          each line after `$ ` runs and must end well
anything else           is only shown
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Return (language, words, code, first line) of each block of a page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        language, *words = match[1].split() or [""]
        yield language, words, match[2], text[: match.start()].count("\n") + 2


def shell(code, folder):
    """Run the lines of a console block that begin with a prompt."""
    root = Path(__file__).parents[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    for line in code.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(
                line[2:], shell=True, cwd=folder, env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert 0 == done.returncode, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    namespace = {"__name__": "page"}
    torch.manual_seed(0)
    try:
        for language, words, code, line in blocks(page):
            files = [word.removeprefix("file=") for word in words if word.startswith("file=")]
            if files:
                (tmp_path / files[0]).write_text(code, encoding="utf-8")
            elif language == "python":
                padded = "\n" * (line - 1) + code  # so that an error names the page's own line
                exec(compile(padded, str(page), "exec"), namespace)
            elif language == "console" and "run" in words:
                shell(code, tmp_path)
    finally:
        for name in set(sys.modules) - before:
            held = getattr(sys.modules[name], "__file__", None)
            if held and Path(held).is_relative_to(tmp_path):
                del sys.modules[name]


def test_every_page_that_is_linked_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_every_kept_report_that_is_named_is_there():
    root = Path(__file__).parents[2]
    for page in (root / "README.md", *PAGES):
        for name in re.findall(r"reports/[a-z_]+\.json", page.read_text(encoding="utf-8")):
            assert (root / name).is_file(), f"{page.name} names {name}"
