"""Interventions on sites: patch, ablate (zero, mean, resample), steer, clamp, freeze.

Each returns an `Edit`; nothing is written until a run uses it, and it is gone after the run.
Resampling is preferred to mean and zero ablation, which leave the distribution of activations
(Heimersheim and Nanda, arXiv 2404.15255; Zhang and Nanda, arXiv 2309.16042). The reference set is
kept apart from the images that are judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.model import Model, along_channel


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Activations of photographs that are not judged, to ablate with.

    Attributes:
        values: site -> activations of the reference runs, leading axis image.
        units: name of the photograph behind each example.
    """

    values: Mapping[str, Tensor]
    units: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, sites: Sequence[str], units: Sequence[str]) -> "Reference":
        """Return the reference activations at `sites` of a finished run."""
        if len(units) != len(run):
            raise UsageError(f"one unit name an example: got {len(units)} for {len(run)} examples")
        return cls(values={name: run[name] for name in sites}, units=tuple(units))

    def at(self, site: str) -> Tensor:
        """Return the activations `[example, ...]` at a site.

        Raises:
            UsageError: the reference holds none for it.
        """
        if site not in self.values:
            raise UsageError(
                f"the reference set holds no activations of {site!r}; "
                f"it has {', '.join(sorted(self.values))}"
            )
        return self.values[site]


def patch(
    site: str, source: Run, *, where: Tensor | None = None, order: Tensor | None = None
) -> Edit:
    """Write the activation that `source` has at `site`.

    Args:
        site: name of the site.
        source: run that the activation comes from, as many examples as the run that is edited.
        where: `[image, patch]` or `[patch]` mask; None writes everywhere.
        order: example of `source` to take for each example, `[image]`; default is the same one.
    """
    value = source[site]
    if order is not None:
        value = value[order]
    return Edit(site=site, value=value, where=where, label=f"patch {site}")


def freeze(site: str, base: Run) -> Edit:
    """Hold `site` at what it is in `base`, whatever happens upstream."""
    return Edit(site=site, value=base[site], label=f"freeze {site}")


def ablate(
    site: str,
    by: Literal["zero", "mean", "resample"],
    *,
    reference: Reference | None = None,
    where: Tensor | None = None,
    seed: int = 0,
) -> Edit:
    """Replace an activation by one that tells nothing about the input.

    `mean` is the mean of the reference over examples, at each patch and channel (positional
    structure is kept); `resample` draws one reference example for each image, the same
    one whatever the batch size and however often the edit is used.

    Raises:
        UsageError: mean or resample without a reference, or with one of a single example: the mean
            over a batch of one is no ablation at all.
    """
    label = f"{by}-ablate {site}"
    if by == "zero":
        return Edit(site=site, write=torch.zeros_like, where=where, label=label)
    if by not in ("mean", "resample"):
        raise UsageError(f"ablate by 'zero', 'mean' or 'resample', got {by!r}")
    if reference is None or len(reference.units) < 2:
        held = 0 if reference is None else len(reference.units)
        raise UsageError(
            f"{by} ablation of {site!r} needs a reference set of 2 or more, got {held}"
        )
    values = reference.at(site)
    if by == "mean":
        mean = values.double().mean(0, keepdim=True).to(values.dtype)
        return Edit(site=site, value=mean, where=where, label=label)

    def draw(rows: range) -> Tensor:
        # One generator an example: the draw hangs on its position alone, not on batches or on use.
        drawn = [int(np.random.default_rng((seed, row)).integers(len(values))) for row in rows]
        return values[drawn]

    return Edit(site=site, draw=draw, where=where, label=label)


def resample(site: str, reference: Reference, rows: Tensor, *, where: Tensor | None = None) -> Edit:
    """Replace by the reference examples `rows`, `[image]`, which the caller has drawn."""
    return Edit(site=site, value=reference.at(site)[rows], where=where, label=f"resample {site}")


def steer(
    site: str, direction: Tensor, strength: float, *, model: Model, where: Tensor | None = None
) -> Edit:
    """Add `strength` times a channel direction (or a number, at a site without channels)."""
    declared = model.site(site)
    if "channel" in declared.axes:
        push = along_channel(direction, declared) * strength
    elif direction.ndim == 0:
        push = direction * strength
    else:
        raise ShapeMismatch(
            f"site {site!r} has no channel axis: steer it by a number, "
            f"got a direction of shape {tuple(direction.shape)}"
        )
    return Edit(
        site=site,
        write=lambda old: old + push.to(old.dtype).to(old.device),
        where=where,
        label=f"steer {site} by {strength:+g}",
    )


def shift(site: str, amount: float | Tensor, *, where: Tensor | None = None) -> Edit:
    """Add an amount; a tensor has the image as leading axis and broadcasts from there."""

    def write(old: Tensor) -> Tensor:
        if not isinstance(amount, Tensor):
            return old + amount
        extra = amount.reshape(amount.shape + (1,) * (old.ndim - amount.ndim))
        return old + extra.to(old.dtype)

    if isinstance(amount, Tensor) and amount.ndim and amount.shape[0] > 1:
        raise UsageError(
            "an amount per image must be given as `value` of an Edit, which is sliced by image"
        )
    return Edit(site=site, write=write, where=where, label=f"shift {site}")


def clamp(
    site: str,
    *,
    low: float | None = None,
    high: float | None = None,
    where: Tensor | None = None,
) -> Edit:
    """Keep an activation inside [low, high]; equal ends set it to a constant."""
    if low is None and high is None:
        raise UsageError(f"clamp of {site!r} needs low, high or both")
    if low is not None and high is not None and low > high:
        raise UsageError(f"clamp of {site!r}: low {low} lies above high {high}")
    return Edit(
        site=site,
        write=lambda old: old.clamp(min=low, max=high),
        where=where,
        label=f"clamp {site}",
    )
