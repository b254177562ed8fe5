"""Train a small dictionary with as many workers as there are; `test_workers.py` runs this file."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from arrcoc_verify.dictionary.architecture import DictionaryConfig
from arrcoc_verify.dictionary.training import Recipe, Trainer
from arrcoc_verify.dictionary.worlds import World


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    for architecture in ("topk", "batchtopk", "jumprelu", "gated"):
        config = DictionaryConfig(architecture=architecture, d_in=24, latents=48, k=2, query=12)
        recipe = Recipe(steps=20, dead_after=64)
        trainer = Trainer(config, recipe, World.make("prior", seed=0, size=64))
        made = trainer.train()
        if dist.get_rank() == 0:
            save_file(made.state_dict(), folder / f"{architecture}-{size}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
