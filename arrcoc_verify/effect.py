"""Paired effects of an intervention: total, local, unrepaired and mediated.

Under a shared budget, ablating a patch that causes nothing still frees tokens for all others. The
*local* effect holds the allocator's budget multiplier at its clean value, so that only what the
edit itself does to a patch is counted. The *unrepaired* effect holds the balancer's weights and the
normalisers too: softmax and normalisation let the other scorers take over when one is ablated (the
Hydra effect, McGrath et al., arXiv 2307.15771). The mediated part is total minus local.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.errors import ShapeMismatch
from arrcoc_verify.graph import Edit, Run, resume
from arrcoc_verify.intervention import freeze
from arrcoc_verify.metric import Metric
from arrcoc_verify.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Effects of one intervention on one metric, `[image]` each, in the metric's unit.

    Attributes:
        total: everything downstream answers.
        local: the budget multiplier is frozen; None where the model has none to write.
        unrepaired: weights and normalisers are frozen as well; None likewise.
        mediated: total minus local: what the shared budget did.
    """

    total: Tensor
    local: Tensor | None
    unrepaired: Tensor | None

    @property
    def mediated(self) -> Tensor | None:
        """What went through the shared budget."""
        return None if self.local is None else self.total - self.local


def frozen_for(model: Model, kind: str) -> list[str] | None:
    """Return the sites to hold for `local` or `unrepaired`, or None where the model has none."""
    multiplier = model.role("multiplier")
    if multiplier is not None and not multiplier.writable:
        multiplier = None  # a report: to hold it would hold nothing
    if multiplier is None and model.declaration.conserved_total:
        return None
    held = [] if multiplier is None else [multiplier.name]
    if kind == "local":
        return held
    weights = model.role("weights")
    repairs = [*([weights] if weights is not None else []), *model.roles("normaliser")]
    repairs = [site for site in repairs if site.writable]
    return [*held, *(site.name for site in repairs)] if repairs else None


def effects(base: Run, edits: Sequence[Edit], metric: Metric, region: Tensor) -> Effects:
    """Return the effects of `edits` on `metric` over `region`, each image paired with itself.

    Args:
        base: finished run without the edits; sites inside steps that are held must be read in it.
        edits: the intervention.
        metric: what is read.
        region: `[image, patch]` mask of the patches that it is read from.
    """
    before = metric(base.allocation, region)

    def moved(held: list[str] | None) -> Tensor | None:
        if held is None:
            return None
        written = {edit.site for edit in edits}  # to freeze these would undo the edit itself
        usable = [name for name in held if name not in written]
        after = resume(base, edits=[*edits, *(freeze(name, base) for name in usable)])
        return metric(after.allocation, region) - before

    total = metric(resume(base, edits=edits).allocation, region) - before
    return Effects(
        total=total,
        local=moved(frozen_for(base.model, "local")),
        unrepaired=moved(frozen_for(base.model, "unrepaired")),
    )


def reallocated(base: Run, edits: Sequence[Edit], metric: Metric, region: Tensor) -> Tensor | None:
    """Return what the budget alone did, by writing the edited run's multiplier into the clean one.

    The second order of the mediated effect; it differs from total minus local where clipping or
    quantisation makes the two orders differ. None where the model has no multiplier to write.
    """
    site = base.model.role("multiplier")
    if site is None:
        return None
    edited = resume(base, edits=edits, read=[site.name])
    budget_only = resume(base, edits=[Edit(site=site.name, value=edited[site.name])])
    return metric(budget_only.allocation, region) - metric(base.allocation, region)


def matched_elsewhere(region: Tensor, avoid: Tensor, grid: tuple[int, int], seed: int) -> Tensor:
    """Return regions of the same shape at other places, for equal edits that should do nothing.

    Args:
        region: `[image, patch]` mask.
        avoid: `[image, patch]` mask that the new place must not touch: region and distractor, say.
        grid: rows and columns.
        seed: of the draw.

    Returns:
        Mask `[image, patch]`; where no place is free the least overlapping one.

    Raises:
        ShapeMismatch: a region holds no patch, so it has no shape to match.
    """
    if not bool(region.any(1).all()):
        raise ShapeMismatch("a region holds no patch: there is no shape to place elsewhere")
    generator = torch.Generator().manual_seed(seed)
    rows, columns = grid
    placed = torch.zeros_like(region)
    for index, (mask, taken) in enumerate(zip(region, avoid, strict=True)):
        cells = mask.reshape(rows, columns)
        at_row, at_column = (cells.any(axis).nonzero().flatten() for axis in (1, 0))
        height = int(at_row[-1] - at_row[0]) + 1
        width = int(at_column[-1] - at_column[0]) + 1
        shape = cells[at_row[0] : at_row[0] + height, at_column[0] : at_column[0] + width]
        spots = [(r, c) for r in range(rows - height + 1) for c in range(columns - width + 1)]
        order = torch.randperm(len(spots), generator=generator).tolist()
        best, least = placed[index], mask.sum() + 1
        for spot in order:
            row, column = spots[spot]
            trial = torch.zeros(rows, columns, dtype=torch.bool)
            trial[row : row + height, column : column + width] = shape
            overlap = (trial.flatten() & taken).sum()
            if overlap < least:
                best, least = trial.flatten(), overlap
            if least == 0:
                break
        placed[index] = best
    return placed
