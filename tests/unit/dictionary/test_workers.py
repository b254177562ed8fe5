import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arrcoc_verify.dictionary.storage import load_dictionary
from arrcoc_verify.dictionary.workers import Workers, joined
from arrcoc_verify.errors import UsageError

SCRIPT = Path(__file__).parent / "two_workers.py"
ROOT = SCRIPT.parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("workers")
    for size in (1, 2):
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={size}", str(SCRIPT), str(made)],
            check=False, cwd=ROOT, capture_output=True, text=True, timeout=300,
            env={"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1",
                 "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
def test_two_workers_train_what_one_trains(folder, architecture):
    one, two = (load_file(folder / f"{architecture}-{size}.safetensors") for size in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)
    assert not torch.equal(one["W_query"], torch.zeros_like(one["W_query"]))


def test_too_small_a_batch_is_refused():
    workers = Workers(rank=1, size=3)
    assert workers.part(torch.arange(8)).tolist() == [1, 4]  # two each: the rest is left out
    with pytest.raises(UsageError, match="cannot share a batch of 2"):
        workers.part(torch.arange(2))


def test_a_schedulers_variables_alone_start_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with joined() as (team, device):
        assert (team, device) == (Workers(), "cpu")


def test_the_command_trains_the_same_with_two_processes(tmp_path):
    options = [
        "train-dictionary", "--sites", "knowing.query_features", "--conditional", "--latents", "64",
        "--k", "4", "--steps", "15", "--batch-size", "64", "--architecture", "topk",
    ]  # fmt: skip
    for size in (1, 2):
        out = tmp_path / str(size)
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={size}", "-m", "arrcoc_verify", *options, "--out", str(out),
             "--json", str(out) + ".json"],
            check=True, cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.stdout.count("1 dictionaries in") == 1  # one of them speaks
        assert json.loads(Path(f"{out}.json").read_text())["workers"] == size
        assert not (out / "knowing.query_features" / "checkpoint").exists()
    one, two = (
        load_dictionary(tmp_path / size / "knowing.query_features").dictionary.state_dict()
        for size in ("1", "2")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)
