"""Our own ways to train, behind the face that all libraries get here."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.initial import start
from arrcoc_verify.dictionary.kernels import selection
from arrcoc_verify.dictionary.kernels.step import Graphed, SparseStep
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.training import Recipe, Trainer
from benchmarks.bench_sae_world import Setting, World


class Engine(Protocol):
    """A library training one dictionary."""

    def step(self, x: Tensor) -> None:
        """Take one step of training on `[sample, channel]`."""

    def decoder(self) -> Tensor:
        """Return the directions, `[latent, channel]`, of any norm."""

    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes `[sample, latent]` and reconstructions, as in use, not in training."""


Make = Callable[[Setting, World, str], Engine]


class Own:
    """The product's trainer, the way everyone gets it."""

    def __init__(self, setting: Setting, world: World, device: str) -> None:
        """Start from the first batch, as the trainer does, on the processor."""
        self.world, self.x = world, world.batch(0).cpu()
        self.trainer = Trainer(
            DictionaryConfig(
                architecture="topk", d_in=setting.d_in, latents=setting.latents, k=setting.k
            ),
            Recipe(steps=setting.total, lr=setting.lr, warmup=0.0, decay=0.0, betas=(0.9, 0.999)),
            self, device=device,
        )  # fmt: skip

    def batch(self, step: int) -> Samples:
        """Return what was given to `step`, whatever its number."""
        del step
        return Samples(x=self.x)

    def held_out(self) -> Samples:
        """Return samples that no step holds."""
        return Samples(x=self.world.held_out()[0])

    def step(self, x: Tensor) -> None:
        """Take one step."""
        self.x = x
        self.trainer.advance()

    def decoder(self) -> Tensor:
        """Return the directions."""
        return self.trainer.dictionary.W_dec.detach()

    @torch.no_grad()
    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstructions."""
        codes = self.trainer.dictionary.encode(x)
        return codes, self.trainer.dictionary.decode(codes)


class Fused:
    """The fused step of CUDA alone: no clipping, no AuxK, no counting of the dead."""

    def __init__(
        self,
        setting: Setting,
        world: World,
        device: str,
        dtype: torch.dtype,
        *,
        graph: bool,
        chunk: int,
    ) -> None:
        """Start as the trainer does, from fewer samples."""
        config = DictionaryConfig(
            architecture="topk", d_in=setting.d_in, latents=setting.latents, k=setting.k
        )
        self.dictionary = Dictionary(config)
        first = world.batch(0)
        start(self.dictionary, Samples(x=first[:2048].cpu()), seed=0)
        self.dictionary.to(device)
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        step = SparseStep(
            {name.lower(): getattr(self.dictionary, name).detach() for name in names}, setting.k,
            how=selection.Select(chunk=chunk), dtype=dtype,
        )  # fmt: skip
        step.rate.fill_(setting.lr)
        self.advance = Graphed(step, first) if graph else step

    def step(self, x: Tensor) -> None:
        """Take one step."""
        self.advance(x)

    def decoder(self) -> Tensor:
        """Return the directions."""
        return self.dictionary.W_dec.detach()

    @torch.no_grad()
    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstructions."""
        codes = self.dictionary.encode(x)
        return codes, self.dictionary.decode(codes)


def without_proposals(setting: Setting, world: World, device: str) -> Engine:
    """Return our trainer with all matrix products in float32."""
    selection.fast_bfloat16 = lambda _: False
    return Own(setting, world, device)


def fused(dtype: torch.dtype, *, graph: bool = False, chunk: int = 512) -> Make:
    """Return how to make a fused engine."""
    return lambda setting, world, device: Fused(
        setting, world, device, dtype, graph=graph, chunk=chunk
    )


OWN: dict[str, Make] = {"ours": Own, "ours_float32_only": without_proposals}
ON_CUDA: dict[str, Make] = {
    "ours": Own,
    "ours_fused": fused(torch.float32),
    "ours_fused_bfloat16": fused(torch.bfloat16),
    "ours_graphed_bfloat16": fused(torch.bfloat16, graph=True),
    "ours_graphed_bfloat16_whole": fused(torch.bfloat16, graph=True, chunk=2**20),
}


def own(device: str) -> dict[str, Make]:
    """Return our engines for a device."""
    return ON_CUDA if device.startswith("cuda") else OWN
