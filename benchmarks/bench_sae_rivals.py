"""SAELens, dictionary_learning and sparsify, each by its own trainer's steps.

TopK, Adam at one constant rate with betas 0.9 and 0.999, AuxK and everything else as each library
has it. Imported only where they are installed.
"""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from arrcoc_verify._torchvision import prepare
from benchmarks.bench_sae_engines import Engine, Make
from benchmarks.bench_sae_world import Setting, World


class SaeLens:
    """The body of `SAETrainer.fit`, without progress bar and logging."""

    def __init__(self, setting: Setting, world: World, device: str) -> None:
        """Make the trainer of the library."""
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        del world
        self.sae = TopKTrainingSAE(TopKTrainingSAEConfig(
            d_in=setting.d_in, d_sae=setting.latents, k=setting.k, device=device,
        ))  # fmt: skip
        config = SAETrainerConfig(
            total_training_samples=setting.total * setting.batch,
            train_batch_size_samples=setting.batch, lr=setting.lr, lr_end=setting.lr, device=device,
            logger=LoggingConfig(log_to_wandb=False),
        )  # fmt: skip
        self.trainer = SAETrainer(cfg=config, sae=self.sae, data_provider=_nothing())

    def step(self, x: Tensor) -> None:
        """Take one step."""
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def decoder(self) -> Tensor:
        """Return the directions."""
        directions: Tensor = self.sae.W_dec.detach()
        return directions

    @torch.no_grad()
    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstructions."""
        codes = self.sae.encode(x)
        return codes, self.sae.decode(codes)


def _nothing() -> Iterator[Tensor]:
    yield from ()


class DictionaryLearning:
    """`TopKTrainer.update`."""

    def __init__(self, setting: Setting, world: World, device: str) -> None:
        """Make the trainer of the library."""
        from dictionary_learning.trainers.top_k import TopKTrainer

        del world
        self.trainer = TopKTrainer(
            steps=setting.total, activation_dim=setting.d_in, dict_size=setting.latents,
            k=setting.k, layer=0, lm_name="none", lr=setting.lr, warmup_steps=0, seed=0,
            device=device,
        )  # fmt: skip
        self.done = 0

    def step(self, x: Tensor) -> None:
        """Take one step."""
        self.trainer.update(self.done, x)
        self.done += 1

    def decoder(self) -> Tensor:
        """Return the directions."""
        directions: Tensor = self.trainer.ae.decoder.weight.detach().T
        return directions

    @torch.no_grad()
    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstructions."""
        codes = self.trainer.ae.encode(x)
        return codes, self.trainer.ae.decode(codes)


class Sparsify:
    """What `Trainer.fit` does with a batch of activations; it takes them from a model only."""

    def __init__(self, setting: Setting, world: World, device: str) -> None:
        """Make the coder of the library and Adam, one of its optimisers."""
        if device == "cpu":  # its Triton kernels take no tensors of the CPU
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
        torch.cuda.is_bf16_supported = lambda *_: False  # it would leave the common precision
        from sparsify import SparseCoder, SparseCoderConfig, TrainConfig

        self.config = TrainConfig(
            SparseCoderConfig(num_latents=setting.latents, k=setting.k), auxk_alpha=1 / 32
        )
        self.sae = SparseCoder(setting.d_in, self.config.sae, device, dtype=torch.float32)
        self.sae.b_dec.data = world.batch(0).mean(0)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=setting.lr)
        self.silent = torch.zeros(setting.latents, dtype=torch.long, device=device)
        self.fired = torch.zeros(setting.latents, dtype=torch.bool, device=device)

    def step(self, x: Tensor) -> None:
        """Take one step."""
        self.sae.set_decoder_norm_to_unit_norm()
        dead = self.silent > self.config.dead_feature_threshold
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.sae(x=x, y=x, dead_mask=dead, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        float(out.auxk_loss.detach())
        (out.fvu + self.config.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.silent += len(x)
        self.silent[self.fired] = 0
        self.fired.zero_()

    def decoder(self) -> Tensor:
        """Return the directions."""
        directions: Tensor = self.sae.W_dec.detach()
        return directions

    @torch.no_grad()
    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstructions."""
        acts, indices, pre = self.sae.encode(x)
        codes = torch.zeros_like(pre).scatter_(1, indices, acts)
        return codes, self.sae.decode(acts, indices)


RIVALS: dict[str, Make] = {
    "sae_lens": SaeLens,
    "dictionary_learning": DictionaryLearning,
    "sparsify": Sparsify,
}


def rival(name: str, setting: Setting, world: World, device: str) -> Engine:
    """Return a library's engine."""
    prepare()
    return RIVALS[name](setting, world, device)
