"""Training a dictionary: one step, many steps, and going on exactly where it stopped.

Data come by the number of the step, so a run that was killed and resumed sees what an unbroken one
saw; its parameters, moments, thresholds and counts of silence are kept in safetensors.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import BATCHWISE, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.checkpoint import NAME, read_checkpoint, write_checkpoint
from arrcoc_verify.dictionary.initial import start
from arrcoc_verify.dictionary.losses import Loss, Samples, Terms, loss
from arrcoc_verify.dictionary.sparse_loss import applies, sparse_loss
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.errors import NonFinite, UsageError

THRESHOLD_MEMORY = 0.99
"""Of the running mean of the least kept code; it is corrected for having started at nothing."""
PENALTY_GAIN = 0.02
"""Of the controller that moves the penalty of standard and gated until L0 is `k`."""

TURNING = ("turn_query", "enc_turn", "dec_turn")
"""Parameters by which directions turn."""


class Source(Protocol):
    """Where samples come from: any step's batch, the same whenever it is asked for."""

    def batch(self, step: int) -> Samples:
        """Return the batch of all workers for a step."""

    def held_out(self) -> Samples:
        """Return samples that no batch holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a dictionary is trained.

    Attributes:
        steps: number of batches.
        lr: learning rate; None for one that falls with the root of the width.
        warmup: share of the steps over which it rises.
        decay: share of the steps, at the end, over which it falls to 0.
        betas: of Adam. A short memory of squares forgets the first large gradients.
        clip: norm that gradients are cut to.
        penalty: weight of the codes' sum, of standard and gated; None adapts it until L0 is k.
        l0: weight of the distance of L0 from k, of jumprelu.
        aux: weight of the auxiliary error.
        aux_latents: dead latents a sample may use; None for half the input's channels.
        dead_after: samples without firing after which a latent is dead; None for a tenth of all.
        k_start: k at the start, sinking to the dictionary's over `k_decay` of the steps.
        k_decay: share of the steps over which k sinks.
        blend: share of a sample's direction in each row at the start.
        turn_after: share of the steps after which directions may turn with the query. Earlier,
            a latent would settle on one feature under one query and on another under the next.
        precision: of the matrix products; parameters and thresholds are always float32. bfloat16
            multiplies whole matrices, the sparse path is one of float32.
        seed: of the initial directions.
    """

    steps: int
    lr: float | None = None
    warmup: float = 0.02
    decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    penalty: float | None = None
    l0: float = 1.0
    aux: float = 1 / 32
    aux_latents: int | None = None
    dead_after: int | None = None
    k_start: float | None = None
    k_decay: float = 0.2
    blend: float = 0.0
    turn_after: float = 0.3
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.steps < 1:
            raise UsageError(f"training takes at least one step, got {self.steps}")
        if self.lr is not None and not self.lr > 0:
            raise UsageError(f"the learning rate must be above 0, got {self.lr}")
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision is float32 or bfloat16, got {self.precision!r}")

    def rate(self, latents: int) -> float:
        """Return the peak learning rate."""
        return self.lr if self.lr is not None else min(3e-3, 4e-4 * (2**14 / latents) ** 0.5)

    def factor(self, step: int) -> float:
        """Return what the learning rate is multiplied by at a step."""
        up = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(up, left, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is seen of a step.

    Attributes:
        step: number of steps done.
        fve: fraction of variance explained on this batch.
        l0: active latents of a sample.
        dead: share of latents that have been silent for long.
        loss: what was minimised.
    """

    step: int
    fve: float
    l0: float
    dead: float
    loss: float


class Trainer:
    """A dictionary in training.

    Attributes:
        config: of the whole dictionary.
        dictionary: what is trained, in the data's own scale.
        recipe: how.
        step: number of steps done.
        silent: samples since each latent fired, `[latent]`.
    """

    def __init__(
        self,
        config: DictionaryConfig,
        recipe: Recipe,
        source: Source,
        *,
        workers: Workers | None = None,
        device: str = "cpu",
    ) -> None:
        """Draw a dictionary and fit its start to the first batch."""
        self.recipe, self.source = recipe, source
        self.workers = workers or Workers.present()
        self.config = config
        whole = Dictionary(config, seed=recipe.seed)
        first = source.batch(0)
        self.samples, self.first_batch = len(first.x), first.digest()
        begun = start(whole, first, seed=recipe.seed, blend=recipe.blend)
        self.dictionary = self._own(whole).to(device)
        self.device, self.step = device, 0
        self.terms = Terms(
            variance=begun.variance, bandwidth=begun.bandwidth, l0=recipe.l0, aux=recipe.aux,
            penalty=1e-3 / math.sqrt(begun.variance) if recipe.penalty is None else recipe.penalty,
            aux_latents=recipe.aux_latents or max(1, config.d_in // 2),
        )  # fmt: skip
        own = self.dictionary.config.latents
        self.silent = torch.zeros(own, dtype=torch.int64, device=device)
        self._kept = torch.zeros(2, dtype=torch.float64, device=device)  # mean of least, weight
        parameters = [p for p in self.dictionary.parameters() if p.requires_grad]
        self.workers.same_(list(self.dictionary.state_dict().values()))
        self.optimiser = torch.optim.Adam(
            parameters, lr=recipe.rate(config.latents), betas=recipe.betas, fused=True
        )

    @property
    def dead_after(self) -> int:
        """Samples without firing after which a latent is dead."""
        if self.recipe.dead_after is not None:
            return self.recipe.dead_after
        return max(1, min(10_000_000, self.recipe.steps * self.samples // 10))

    @property
    def dead(self) -> Tensor:
        """Latents that count as dead, `[latent]`."""
        return self.silent >= self.dead_after

    def train(
        self,
        tell: Callable[[Figures], None] = lambda _: None,
        *,
        keep: Path | None = None,
        every: int = 500,
    ) -> Dictionary:
        """Go through the steps that are left, calibrate the threshold, and return the dictionary.

        Args:
            tell: called after each step.
            keep: folder for checkpoints; None keeps none.
            every: steps between checkpoints.
        """
        while self.step < self.recipe.steps:
            figures = self.advance()
            tell(figures)
            done = self.step == self.recipe.steps
            if keep is not None and self.workers.rank == 0 and (self.step % every == 0 or done):
                self.save(keep)
        self._calibrated()
        return self.dictionary

    def held_out(self) -> Samples:
        """Return held-out samples, where the dictionary is."""
        return _on(self.source.held_out(), self.device)

    # What a share of a dictionary does otherwise

    def _own(self, whole: Dictionary) -> Dictionary:
        """Return what this process trains of the whole."""
        return whole

    def _loss(self, samples: Samples, dead: Tensor | None) -> Loss:
        plain = self.recipe.precision == "float32"
        way = sparse_loss if plain and applies(self.dictionary, self.workers) else loss
        return way(self.dictionary, samples, self.terms, dead, self.workers)

    def _clipped(self) -> Tensor:
        """Clip the gradients and return the norm that they had."""
        return torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.recipe.clip)

    def _calibrated(self) -> None:
        calibrate(self.dictionary, self.held_out())

    def advance(self) -> Figures:
        """Do one step.

        Raises:
            NonFinite: the loss is not finite; the dictionary is left as it was.
        """
        samples = _on(self.source.batch(self.step).part(self.workers), self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.config.latents) * self.recipe.factor(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        result = self._differentiated(samples)
        gradients = [p.grad for p in self.dictionary.parameters() if p.grad is not None]
        self.workers.average_(gradients)
        _remove_parallel(self.dictionary)
        norm = self._clipped()
        if not bool(torch.isfinite(norm)):
            raise NonFinite(
                f"the loss is not finite at step {self.step}: lower the learning rate, or look at "
                "the activations for values of another size"
            )
        self.optimiser.step()
        self.dictionary.normalise_()
        self._watch(result, len(samples.x) * self.workers.size)
        self.step += 1
        return Figures(
            step=self.step, fve=1 - float(result.error), l0=float(result.l0),
            dead=float(self.dead.float().mean()), loss=float(result.total.detach()),
        )  # fmt: skip

    def _differentiated(self, samples: Samples) -> Loss:
        full = self.dictionary.config
        self.dictionary.config = replace(full, k=self._k())
        dead = self.dead if self.recipe.aux else None
        kind = torch.device(self.device).type
        half = self.recipe.precision == "bfloat16"
        try:
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
                result = self._loss(samples, dead)
            result.total.backward()
            if full.turns and self.step < self.recipe.turn_after * self.recipe.steps:
                for name in TURNING:
                    getattr(self.dictionary, name).grad = None
        finally:
            self.dictionary.config = full
        return result

    def _k(self) -> float:
        config, first = self.dictionary.config, self.recipe.k_start
        if first is None:
            return config.k
        part = min(1.0, self.step / max(1.0, self.recipe.k_decay * self.recipe.steps))
        k = min(first, config.latents) * (1 - part) + config.k * part
        return float(round(k)) if config.architecture == "topk" else k

    @torch.no_grad()
    def _watch(self, result: Loss, samples: int) -> None:
        config = self.dictionary.config
        self.silent = torch.where(result.fired, 0, self.silent + samples)
        if config.architecture == "jumprelu":
            self.dictionary.threshold.clamp_(min=0)
        if result.least is not None and bool(torch.isfinite(result.least)):
            new = torch.stack([result.least.double(), torch.ones_like(self._kept[1])])
            self._kept = THRESHOLD_MEMORY * self._kept + (1 - THRESHOLD_MEMORY) * new
            self.dictionary.threshold.copy_(self._kept[0] / self._kept[1])
        if config.architecture in ("standard", "gated") and self.recipe.penalty is None:
            off = math.log(max(float(result.l0), 1e-3) / config.k)
            moved = self.terms.penalty * math.exp(PENALTY_GAIN * max(-1.0, min(1.0, off)))
            self.terms = replace(self.terms, penalty=moved)

    # Keeping and going on

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on; whole or not at all."""
        names = [n for n, p in self.dictionary.named_parameters() if p.requires_grad]
        tensors = {f"dictionary.{k}": v for k, v in self.dictionary.state_dict().items()}
        for name, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"moments.{names[name]}.{k}": v for k, v in state.items()}
        tensors |= {"silent": self.silent, "kept": self._kept}
        told = {"step": self.step, **self._identity(), "penalty": self.terms.penalty}
        write_checkpoint(folder, tensors, told)

    def has_kept(self, folder: Path) -> bool:
        """Return whether there is a checkpoint to go on from."""
        return (folder / NAME).is_file()

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            StoreError: there is none, it is damaged, or of another dictionary, recipe or data.
        """
        tensors, told = read_checkpoint(folder, self._identity())
        self.step, self.silent = told["step"], tensors["silent"].to(self.device)
        self._kept = tensors["kept"].to(self.device)
        self.terms = replace(self.terms, penalty=told["penalty"])
        kept = {k.removeprefix("dictionary."): v for k, v in tensors.items()
                if k.startswith("dictionary.")}  # fmt: skip
        self.dictionary.load_state_dict(kept)
        names = [n for n, p in self.dictionary.named_parameters() if p.requires_grad]
        state = {}
        for at, name in enumerate(names):
            head = f"moments.{name}."
            state[at] = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        whole = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**whole, "state": {k: v for k, v in state.items() if v}})

    def _identity(self) -> dict[str, Any]:
        recipe = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.recipe).items()}
        return {"config": self.dictionary.config.plain(), "recipe": recipe,
                "samples": self.samples, "first_batch": self.first_batch}  # fmt: skip


@torch.no_grad()
def calibrate(dictionary: Dictionary, held_out: Samples) -> None:
    """Set a batch-wise dictionary's threshold so that held-out samples have L0 = k on average."""
    config = dictionary.config
    if config.architecture not in BATCHWISE:
        return
    values, keep = largest(dictionary, held_out), round(config.k * len(held_out.x))
    if len(values) > keep:
        dictionary.threshold.copy_((values[keep - 1] + values[keep]) / 2)
    elif len(values):
        dictionary.threshold.fill_(0.0)


def largest(dictionary: Dictionary, samples: Samples) -> Tensor:
    """Return the largest weighted codes above 0 of samples, falling: far more than k of each."""
    found: list[Tensor] = []
    for at in range(0, len(samples.x), 4096):  # only what may be kept is held at once
        x = samples.x[at : at + 4096]
        query = None if samples.query is None else samples.query[at : at + 4096]
        codes = (dictionary.evidence(x, query) + dictionary.shift(query, 2)).relu()
        weighted = (codes * dictionary.weights()).flatten()
        many = min(4 * round(dictionary.config.k * len(x)), weighted.numel())
        found.append(weighted.topk(many).values)
    values = torch.cat(found)
    return values[values > 0].sort(descending=True).values


def _remove_parallel(dictionary: Dictionary) -> None:
    """Take the part of the decoder's gradient that only changes norms, which stay 1 anyway."""
    rows, gradient = dictionary.W_dec.detach(), dictionary.W_dec.grad
    if gradient is not None:
        gradient.sub_((gradient * rows).sum(1, keepdim=True) * rows)


def _on(samples: Samples, device: str) -> Samples:
    def moved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device)

    return Samples(x=samples.x.to(device), query=moved(samples.query), target=moved(samples.target))
