"""Triton's kernels: run on the CPU, in Triton's interpreter, and compiled for a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(("file", "interpret"), [
    ("interpreted_triton.py", "1"),
    ("compiled_triton.py", "0"),
])  # fmt: skip
def test_the_kernels_give_what_torch_gives_and_compile(file, interpret, tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("not_run: Triton is not installed (the extra `triton`)")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)],
        cwd=HERE.parents[2],
        env={
            **os.environ, "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(tmp_path),
            "TRITON_DEFAULT_FP_FUSION": "1",  # Triton 3.9 warns where it is left open
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "skipped" not in done.stdout
