"""Train small dictionaries whose latents are shared out; `test_sharding.py` runs this file."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from arrcoc_verify.dictionary.architecture import DictionaryConfig
from arrcoc_verify.dictionary.sharding import ShardedTrainer
from arrcoc_verify.dictionary.training import Recipe
from arrcoc_verify.dictionary.workers import joined
from arrcoc_verify.dictionary.worlds import World

CASES = {
    "topk": {"architecture": "topk"},
    "batchtopk": {"architecture": "batchtopk", "query": 12},
    "crosscoder": {"architecture": "batchtopk", "blocks": (8, 16)},
}
RECIPE = Recipe(steps=20, dead_after=64)


def config_of(case):
    return DictionaryConfig(d_in=24, latents=48, k=2, **CASES[case])


def world():
    return World.make("prior", seed=0, size=64)


def main(folder):
    torch.set_num_threads(1)
    with joined() as (team, _):
        train(folder, team)
    assert not [name for name in threads() if "gloo" in name]  # one that outlives Python aborts


def threads():
    tasks = Path("/proc/self/task")
    return [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []


def train(folder, team):
    for case in CASES:
        half = ShardedTrainer(config_of(case), RECIPE, world())
        for _ in range(RECIPE.steps // 2):
            half.advance()
        half.save(folder / f"{case}-kept")
        half.advance()  # lost
        trainer = ShardedTrainer(config_of(case), RECIPE, world())
        assert trainer.dictionary.config.latents == 48 // team.size
        assert trainer.has_kept(folder / f"{case}-kept")
        trainer.load(folder / f"{case}-kept")
        assert trainer.step == RECIPE.steps // 2
        trainer.train()
        made = trainer.whole()
        if team.first:
            save_file(made.state_dict(), folder / f"{case}.safetensors")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
