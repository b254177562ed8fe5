import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arrcoc_verify.dictionary.sharding import ShardedTrainer
from arrcoc_verify.dictionary.training import Trainer
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.errors import StoreError, UsageError
from tests.unit.dictionary.two_shards import CASES, RECIPE, config_of, world

SCRIPT = Path(__file__).parent / "two_shards.py"
ROOT = SCRIPT.parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shards")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(SCRIPT), str(made)],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1",
             "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("case", CASES)
def test_two_shards_stopped_in_the_middle_train_what_one_device_trains(folder, case):
    whole = Trainer(config_of(case), RECIPE, world()).train().state_dict()
    shared = load_file(folder / f"{case}.safetensors")
    begun = Trainer(config_of(case), RECIPE, world()).dictionary.state_dict()
    assert set(shared) == set(whole)
    for name in whole:
        torch.testing.assert_close(shared[name], whole[name], rtol=1e-3, atol=1e-4, msg=name)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert not torch.allclose(whole[name], begun[name], atol=1e-3), name  # it moved


def test_shares_of_another_number_of_processes_are_refused(folder):
    alone = ShardedTrainer(config_of("topk"), RECIPE, world())
    with pytest.raises(StoreError, match="found 2 shards"):
        alone.load(folder / "topk-kept")
    with pytest.raises(StoreError, match="found none"):
        alone.load(folder / "nothing")


@pytest.mark.parametrize("case", CASES)
def test_one_shard_is_the_whole(case):
    alone = ShardedTrainer(config_of(case), RECIPE, world())
    alone.train()
    assert bool(alone.dead.any())  # so that the auxiliary error is compared, too
    whole = Trainer(config_of(case), RECIPE, world()).train().state_dict()
    for name, value in alone.whole().state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"architecture": "jumprelu"}, "topk and batchtopk"),
        ({"architecture": "batchtopk", "query": 12, "turns": 1}, "without turns"),
        ({"latents": 47}, "multiple of the 2 shards"),
        ({"k": 30}, "at least k=30"),
    ],
)
def test_what_cannot_be_split_is_refused(change, wanted):
    config = replace(config_of("topk"), **change)
    with pytest.raises(UsageError, match=wanted):
        ShardedTrainer(config, RECIPE, world(), team=Workers(rank=0, size=2))
