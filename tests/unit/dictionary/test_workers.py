import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "two_workers.py"
ROOT = SCRIPT.parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("workers")
    for size in (1, 2):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={size}", str(SCRIPT), str(made)],
            check=True, cwd=ROOT, capture_output=True, timeout=300,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    return made


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
def test_two_workers_train_what_one_trains(folder, architecture):
    one, two = (load_file(folder / f"{architecture}-{size}.safetensors") for size in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)
    assert not torch.equal(one["W_query"], torch.zeros_like(one["W_query"]))
