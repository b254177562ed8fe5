"""Train a small dictionary with as many workers as there are; `test_workers.py` runs this file."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from arrcoc_verify.dictionary.architecture import DictionaryConfig
from arrcoc_verify.dictionary.training import Recipe, Trainer
from arrcoc_verify.dictionary.workers import joined
from arrcoc_verify.dictionary.worlds import World


def main(folder):
    torch.set_num_threads(1)
    with joined() as (team, _):
        train(folder, team)


def train(folder, team):
    for architecture in ("topk", "batchtopk", "jumprelu", "gated"):
        config = DictionaryConfig(architecture=architecture, d_in=24, latents=48, k=2, query=12)
        recipe = Recipe(steps=20, dead_after=64)
        trainer = Trainer(config, recipe, World.make("prior", seed=0, size=64))
        made = trainer.train()
        if team.first:
            save_file(made.state_dict(), folder / f"{architecture}-{team.size}.safetensors")
    uneven(team.size)


def uneven(size):
    """A batch that two cannot share evenly: both must count the same samples, or one waits."""
    config = DictionaryConfig(architecture="batchtopk", d_in=24, latents=48, k=2, query=12)
    recipe = Recipe(steps=20, dead_after=250)
    trainer = Trainer(config, recipe, World.make("prior", seed=0, size=63))
    trainer.train()
    counted = [torch.empty_like(trainer.silent) for _ in range(size)]
    dist.all_gather(counted, trainer.silent)
    assert all(torch.equal(one, trainer.silent) for one in counted)
    assert bool((trainer.silent >= 250).any())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
