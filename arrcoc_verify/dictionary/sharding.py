"""One dictionary over several devices: each holds some of the latents, and all see every sample.

For dictionaries whose parameters, moments and codes do not fit one device. What competes for a
place among the k is compared over all shards, and reconstructions are summed, so that shards train
the same dictionary as one device does, up to rounding. Encoder and decoder are split as the two
layers of a feed-forward block are in Shoeybi et al., arXiv 1909.08053.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.losses import Loss, Samples, Terms, square
from arrcoc_verify.dictionary.training import Recipe, Source, Trainer, largest
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.errors import StoreError, UsageError
from arrcoc_verify.report.atomic import write_text

ARCHITECTURES = ("topk", "batchtopk")
KEPT = "kept.json"
"""In a checkpoint's folder: the step that every share was written of."""
AXES: Mapping[str, int] = {"W_enc": 0, "b_enc": 0, "W_dec": 0, "W_query": 1}
"""Parameter -> the axis that counts latents; every shard holds all of the others."""


def check_divisible(architecture: str, turns: int) -> None:
    """Refuse a dictionary that cannot be split.

    Raises:
        UsageError: its selection or its directions need all latents in one place.
    """
    if architecture not in ARCHITECTURES or turns:
        raise UsageError(
            f"only {' and '.join(ARCHITECTURES)} without turns can be split over devices, got "
            f"{architecture}, turns={turns}"
        )


class ShardedTrainer(Trainer):
    """A trainer that holds a share of the latents; attributes as of `Trainer`.

    Attributes:
        team: the processes that hold the other shares.
    """

    def __init__(
        self, config: DictionaryConfig, recipe: Recipe, source: Source, *,
        team: Workers | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        """Draw the whole dictionary on the CPU, and move this process's share to its device.

        Raises:
            UsageError: a dictionary that cannot be split this way.
        """
        self.team = team or Workers.present()
        check_divisible(config.architecture, config.turns)
        share, rest = divmod(config.latents, self.team.size)
        if rest or config.k > share:
            raise UsageError(
                f"{config.latents} latents must be a multiple of the {self.team.size} shards, each "
                f"with at least k={config.k:g}"
            )
        super().__init__(config, recipe, source, workers=Workers(), device=device)

    def _own(self, whole: Dictionary) -> Dictionary:
        share = self.config.latents // self.team.size
        part = Dictionary(replace(self.config, latents=share))
        part.load_state_dict({
            name: value.narrow(AXES[name], self.team.rank * share, share) if name in AXES else value
            for name, value in whole.state_dict().items()
        })  # fmt: skip
        return part

    def _loss(self, samples: Samples, dead: Tensor | None) -> Loss:
        return sharded_loss(self.dictionary, samples, self.terms, dead, self.team)

    def _clipped(self) -> Tensor:
        total = torch.zeros(2, device=self.device)  # of the shares, and of what all hold
        gradients = [
            (n, p.grad) for n, p in self.dictionary.named_parameters() if p.grad is not None
        ]
        for name, gradient in gradients:
            total[int(name not in AXES)] += gradient.square().sum()
        norm = (self.team.sum(total[0]) + total[1]).sqrt()
        factor = (self.recipe.clip / (norm + 1e-6)).clamp(max=1.0)
        for _, gradient in gradients:
            gradient.mul_(factor)
        return norm

    @torch.no_grad()
    def _calibrated(self) -> None:
        if self.config.architecture != "batchtopk":
            return
        held = self.held_out()
        values, keep = largest(self.dictionary, held), round(self.config.k * len(held.x))
        there = int(self.team.sum(torch.tensor(len(values), device=self.device)))
        if there > keep:
            ends = [self.team.cut(values, count) for count in (keep, keep + 1)]
            self.dictionary.threshold.copy_((ends[0] + ends[1]) / 2)
        elif there:
            self.dictionary.threshold.fill_(0.0)

    # Keeping and going on: a step counts as kept when every share of it is written

    def save(self, folder: Path) -> None:
        """Write this share; all must ask together."""
        super().save(folder / str(self.step) / str(self.team.rank))
        self.team.wait()
        if self.team.first:
            before = _kept(folder)
            write_text(folder / KEPT, json.dumps({"step": self.step, "shards": self.team.size}))
            if before is not None and before["step"] != self.step:
                shutil.rmtree(folder / str(before["step"]), ignore_errors=True)

    def load(self, folder: Path) -> None:
        """Go on from the last step that every share was kept of.

        Raises:
            StoreError: there is none, it is damaged, or of another dictionary, recipe, data or
                number of shards.
        """
        held = _kept(folder)
        if held is None or held["shards"] != self.team.size:
            there = "none" if held is None else f"{held['shards']} shards"
            raise StoreError(
                f"wanted a checkpoint of {self.team.size} shards in {folder}, found {there}; use "
                "as many processes, or train anew, without --resume"
            )
        super().load(folder / str(held["step"]) / str(self.team.rank))

    def has_kept(self, folder: Path) -> bool:
        """Return whether there is a checkpoint to go on from."""
        return _kept(folder) is not None

    def whole(self) -> Dictionary:
        """Return the dictionary with everyone's latents, on the CPU; all must ask together."""
        made = Dictionary(self.config)
        share = self.config.latents // self.team.size
        state = made.state_dict()
        for name, own in self.dictionary.state_dict().items():
            if name not in AXES:
                state[name].copy_(own)
                continue
            for rank in range(self.team.size):  # one share at a time is on the device besides
                part = self.team.given(own, rank)
                state[name].narrow(AXES[name], rank * share, share).copy_(part)
        return made


def _kept(folder: Path) -> dict[str, int] | None:
    try:
        told = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: int(told[name]) for name in ("step", "shards")}


def sharded_loss(
    dictionary: Dictionary, samples: Samples, terms: Terms, dead: Tensor | None, team: Workers
) -> Loss:
    """Return the loss of the whole dictionary; its gradient reaches this share's parameters.

    Args:
        dictionary: this process's share.
        samples: the whole batch, the same for all.
        terms: weights.
        dead: `[latent]` of this share; None for no auxiliary term.
        team: who holds the other shares.
    """
    config, wanted = dictionary.config, samples.wanted
    x = samples.x if config.transcoder else samples.x - _shared(dictionary.b_dec, team)
    shifted = x @ dictionary.W_enc.T + dictionary.b_enc + dictionary.shift(samples.query, 2)
    codes = shifted.relu()
    weighted = codes.detach() * dictionary.weights()
    least = None
    if config.architecture == "topk":
        kept = weighted >= _row_cut(weighted, int(config.k), team)
    else:
        least = team.cut(weighted, round(config.k * len(codes)))
        kept = weighted >= least
    codes = codes * (kept & (weighted > 0))
    decoded = _summed(codes @ dictionary.W_dec, team) + dictionary.b_dec
    if config.skip:
        decoded = decoded + samples.x @ dictionary.W_skip.T
    error = square(wanted - decoded) / terms.variance
    total = error
    many = 0 if dead is None else int(team.sum(dead.sum()))
    if dead is not None and many:
        residual = (wanted - decoded).detach()
        columns = dead.nonzero().flatten()
        total = total + terms.aux * _auxiliary(
            dictionary, shifted, residual, columns, many, terms, team
        )
    l0 = team.sum((codes.detach() > 0).sum(-1).float().mean())
    fired = (codes.detach() > 0).any(0)
    return Loss(total=total, error=error.detach(), l0=l0, fired=fired, least=least)


def _auxiliary(  # noqa: PLR0913 - as in `losses`, and who else holds dead latents
    dictionary: Dictionary,
    shifted: Tensor,
    residual: Tensor,
    columns: Tensor,
    many: int,
    terms: Terms,
    team: Workers,
) -> Tensor:
    """Return how badly dead latents, `many` in all shares, explain the residual."""
    codes = shifted[:, columns].relu()
    codes = codes * (codes >= _row_cut(codes.detach(), min(terms.aux_latents, many), team))
    explained = _summed(codes @ dictionary.W_dec[columns], team)
    spread = square(residual - residual.mean(0)).clamp(min=1e-12)
    return min(many / terms.aux_latents, 1.0) * square(residual - explained) / spread


def _row_cut(values: Tensor, count: int, team: Workers) -> Tensor:
    """Return each sample's `count`-th largest value over all shares, `[sample, 1]`."""
    own = values.topk(min(count, values.shape[1]), dim=1).values
    padded = torch.full((len(values), count), -torch.inf, dtype=own.dtype, device=own.device)
    padded[:, : own.shape[1]] = own
    return team.gathered(padded, 1).topk(count, dim=1).values[:, -1:]


class _Sum(torch.autograd.Function):
    """The sum over shares; the gradient of each part is that of the sum."""

    @staticmethod
    def forward(_: FunctionCtx, value: Tensor, team: Workers) -> Tensor:
        return team.sum(value)

    @staticmethod
    def backward(_, gradient):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        return gradient, None


class _Shared(torch.autograd.Function):
    """A value that all shares read; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, team: Workers) -> Tensor:
        ctx.team = team  # type: ignore[attr-defined]
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        return ctx.team.sum(gradient), None


def _summed(value: Tensor, team: Workers) -> Tensor:
    total: Tensor = _Sum.apply(value, team)  # type: ignore[no-untyped-call]
    return total


def _shared(value: Tensor, team: Workers) -> Tensor:
    same: Tensor = _Shared.apply(value, team)  # type: ignore[no-untyped-call]
    return same
