"""What the reference model is trained on: scores that are taught, tokens that a task wants."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.reference import allocator
from arrcoc_verify.reference.trained import realising, teaching
from arrcoc_verify.reference.trained.assembly import HIGH, LOW, TOTAL, Reference
from arrcoc_verify.reference.trained.studio import BOX, Batch


def losses(model: Reference, batch: Batch, ids: Tensor, *, tower: bool) -> dict[str, Tensor]:
    """Return the parts of the loss on a batch of scenes.

    Args:
        model: what is trained.
        batch: scenes with their truth.
        ids: word pieces of the queries.
        tower: whether the image tower learns.
    """
    glance = realising.glance(batch.pixels)
    with _mixed(batch):
        with torch.set_grad_enabled(tower):
            patches = model.patches(glance)
        logits = model.classifier(patches)
        context = model.context(patches)
        met = model.met(patches)
        with torch.no_grad():
            query = model.query(ids)
    met, logits, query = met.float(), logits.float(), query.float()
    seen = model.seen(context.float(), glance)
    features = (
        model.information.features(glance), model.salience.features(glance),
        model.query_relevance.features(seen, met, model.evidence(logits, query), query),
    )  # fmt: skip
    reads = (model.information.read, model.salience.read, model.query_relevance.read)
    scores = torch.stack([r(f) for r, f in zip(reads, features, strict=True)], 2)
    tension = model.balancer.tensions(
        model.balancer.context(query, seen[..., : context.shape[2]], scores)
    )
    weight = model.balancer.weights(tension)
    mix = (scores * weight[:, None]).sum(2)
    relevance = mix / (mix + mix.mean(1, keepdim=True))
    demand = relevance.clamp(min=1e-6) ** model.curve.power + 1e-6
    lod = model.lod(demand, model.multiplier(demand))
    return {
        **_scores(batch, glance, scores, tension),
        **_allocated(batch, lod),
        "task": _task(model, batch, lod),
    }


def _scores(batch: Batch, glance: Tensor, scores: Tensor, tension: Tensor) -> dict[str, Tensor]:
    info, salient = teaching.entropy(glance), teaching.contrast(glance)
    asked = batch.asked
    coupling = F.binary_cross_entropy(
        scores[..., 2].clamp(1e-5, 1 - 1e-5), asked, weight=1 + 3 * (asked > 0)
    )
    present = batch.box.any(1)
    wanted = teaching.tensions(batch.kind, present, info, salient)
    return {
        "coupling": 4 * coupling,
        "information": 20 * F.mse_loss(scores[..., 0], info),
        "salience": 20 * F.mse_loss(scores[..., 1], salient),
        "tension": 2 * F.mse_loss(tension, wanted),
    }


def _allocated(batch: Batch, lod: Tensor) -> dict[str, Tensor]:
    """Most tokens where the object is; without one, no region above its share."""
    on = (batch.asked > 0.9).float()
    present = batch.box.any(1)
    mean = (lod * on).sum(1) / on.sum(1).clamp(min=1)
    short = (F.relu(350 - mean) / (HIGH - LOW) * present).sum() / present.sum().clamp(min=1)
    plane = lod.reshape(-1, 1, realising.GRID, realising.GRID)
    region = F.avg_pool2d(plane, BOX, stride=1).flatten(1).amax(1)
    share = TOTAL / realising.GRID**2
    over = F.relu(region / share - 1.35) * ~present
    return {"short": short, "spread": 0.5 * over.sum() / (~present).sum().clamp(min=1)}


def _task(model: Reference, batch: Batch, lod: Tensor) -> Tensor:
    rows = torch.nonzero(batch.digit >= 0).flatten()[:24]
    if not len(rows):
        return torch.zeros((), device=lod.device)
    lod, pixels = lod[rows], batch.pixels[rows]
    even = torch.rand(len(rows), 1, device=lod.device) < 0.12
    lod = torch.where(even, torch.full_like(lod, TOTAL / lod.shape[1]), lod)
    bought = allocator.whole_tokens(lod.detach().double()).float()
    soft = realising.soft(pixels, lod)
    seen = soft + (realising.realise(pixels, bought) - soft).detach()
    with _mixed(batch):
        answer = model.head(seen, lod)
    return F.cross_entropy(answer.float(), batch.digit[rows])


def _mixed(batch: Batch) -> torch.autocast:
    """Return bfloat16 for what is multiplied, on an accelerator only."""
    kind = batch.pixels.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu")
