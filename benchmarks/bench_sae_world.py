"""What the libraries are trained on: activations of planted features, any batch by its number."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.dictionary.sparse_world import SparseWorld

HELD_OUT = 2**40
"""Number of the first held-out batch, beyond those of any step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One comparison.

    Attributes:
        name: of the setting.
        d_in: channels of an activation.
        latents: size of the dictionaries.
        k: latents that stay active for a sample.
        features: planted directions.
        active: planted features of a sample, on average.
        batch: samples of a step.
        warm: steps before anything is timed; they count as training.
        rounds: timed rounds; in each of them every library takes its turn.
        steps: steps of a round.
        lr: of Adam, constant, the same for all.
        held_out: samples that scores are taken on.
        correlated: features of `SparseWorld`, correlated and with parents, not independent ones.
        followed: scores are taken after the warm steps and after every round, too.
    """

    name: str
    d_in: int
    latents: int
    k: int
    features: int
    active: float
    batch: int
    warm: int
    rounds: int
    steps: int
    lr: float
    held_out: int = 8192
    correlated: bool = False
    followed: bool = False

    @property
    def total(self) -> int:
        """Steps that every library takes."""
        return self.warm + self.rounds * self.steps

    def plain(self) -> dict[str, Any]:
        """Return the setting as JSON data."""
        return asdict(self) | {"total_steps": self.total}


_PLANTED = Setting(
    name="planted", d_in=64, latents=256, k=8, features=256, active=8, batch=512, warm=50,
    rounds=25, steps=158, lr=1e-3, correlated=True, followed=True,
)  # fmt: skip
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="wide", d_in=768, latents=12288, k=32, features=3072, active=24, batch=4096,
                warm=2, rounds=7, steps=4, lr=4e-4),
        Setting(name="small", d_in=64, latents=512, k=12, features=384, active=8, batch=1024,
                warm=50, rounds=5, steps=290, lr=1e-3),
        _PLANTED,
        replace(_PLANTED, name="planted-k4", k=4),
        replace(_PLANTED, name="planted-k16", k=16),
        Setting(name="quick", d_in=32, latents=128, k=4, features=64, active=3, batch=256,
                warm=2, rounds=2, steps=5, lr=1e-3, held_out=512, followed=True),
        Setting(name="gpu", d_in=768, latents=24576, k=32, features=1024, active=24, batch=8192,
                warm=20, rounds=5, steps=40, lr=4e-4),
        Setting(name="gpu-small", d_in=192, latents=3072, k=32, features=1536, active=24,
                batch=4096, warm=50, rounds=5, steps=200, lr=1e-3),
    )
}  # fmt: skip
BY_K = ("planted-k4", "planted", "planted-k16")
"""One world at half, at its own and at twice its number of active features."""
DEFAULT = {"cpu": ("wide", "small", *BY_K), "cuda": ("gpu", "gpu-small")}


class World:
    """Activations `codes @ directions + mean + noise`, the same on every call.

    Features fire independently, by a power law; the codes of those that fire are half-normal.

    Attributes:
        directions: planted, unit norm, `[feature, channel]`.
    """

    def __init__(self, setting: Setting, *, seed: int, device: str) -> None:
        """Plant the directions."""
        self.setting, self.seed, self.device = setting, seed, device
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))  # of no dictionary
        drawn = torch.randn(setting.features, setting.d_in, generator=generator)
        self.directions = (drawn / drawn.norm(dim=1, keepdim=True)).to(device)
        self.mean = (0.3 * torch.randn(setting.d_in, generator=generator)).to(device)
        chance = torch.arange(1.0, setting.features + 1).rsqrt()
        self.chance = (chance * setting.active / chance.sum()).clamp(max=0.5).to(device)

    def draw(self, number: int, samples: int) -> tuple[Tensor, Tensor]:
        """Return activations `[sample, channel]` and codes `[sample, feature]`, float32."""
        size = (samples, self.setting.features)
        generator = torch.Generator(self.device).manual_seed(
            1_000_003 * (self.seed + 1) + 1 + number
        )
        fires = torch.rand(size, generator=generator, device=self.device) < self.chance
        sizes = 0.5 + 0.5 * torch.randn(size, generator=generator, device=self.device).abs()
        noise = torch.randn(size[0], self.setting.d_in, generator=generator, device=self.device)
        codes = fires * sizes
        return codes @ self.directions + self.mean + 0.01 * noise, codes

    def batch(self, number: int) -> Tensor:
        """Return the activations of a step."""
        return self.draw(number, self.setting.batch)[0]

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Return activations that no step holds, and their codes."""
        return self.draw(HELD_OUT, self.setting.held_out)


class Correlated(World):
    """The product's own planted world, in which what a probe can do is known."""

    def __init__(self, setting: Setting, *, seed: int, device: str) -> None:
        """Draw the world."""
        self.setting, self.seed, self.device = setting, seed, device
        self.sparse = sparse_world(setting, seed)
        self.directions = self.sparse.directions.to(device)

    def draw(self, number: int, samples: int) -> tuple[Tensor, Tensor]:
        """Return activations and codes."""
        x, codes = self.sparse.draw(number, samples)
        return x.to(self.device), codes.to(self.device)


def sparse_world(setting: Setting, seed: int) -> SparseWorld:
    """Return the planted world of a setting with correlated features."""
    return SparseWorld.make(
        seed=seed, features=setting.features, channels=setting.d_in, active=setting.active,
        size=setting.batch,
    )  # fmt: skip


def world_of(setting: Setting, *, seed: int, device: str) -> World:
    """Return the world of a setting."""
    return (Correlated if setting.correlated else World)(setting, seed=seed, device=device)
