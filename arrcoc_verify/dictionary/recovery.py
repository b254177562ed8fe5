"""How well a dictionary recovers features that are known: directions and firing.

MCC is the mean absolute cosine of a one-to-one matching of latents and true features (Hungarian
method) over the smaller of the two numbers (SAELens, `synthetic/evals.py`; arXiv 2505.20254). F1
scores the encoder: each matched latent's firing against its feature's.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Scores against planted truth, all 0..1.

    Attributes:
        mcc: mean absolute cosine of the one-to-one matching.
        f1: mean over matched latents of F1 of firing.
        precision, recall: likewise.
        unique: distinct best-matching features over latents that can have one of their own.
        above: share of true features that some latent points along with a cosine above 0.9.
    """

    mcc: float
    f1: float
    precision: float
    recall: float
    unique: float
    above: float


def mean_correlation(found: Tensor, true: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return MCC and the matched (latents, features) of two sets of directions, `[n, channel]`."""
    cosine = _cosine(found, true)
    latents, features = linear_sum_assignment(-cosine.numpy())
    chosen = cosine[latents, features]
    return float(chosen.mean()), torch.as_tensor(latents), torch.as_tensor(features)


def recovery(found: Tensor, true: Tensor, codes: Tensor, truth: Tensor) -> Recovery:
    """Return the scores of a dictionary on samples whose features are known.

    Args:
        found: decoder rows `[latent, channel]`.
        true: planted directions `[feature, channel]`.
        codes: of the samples, `[sample, latent]`.
        truth: planted codes of the samples, `[sample, feature]`.
    """
    mcc, latents, features = mean_correlation(found, true)
    fires, should = codes[:, latents] > 0, truth[:, features] > 0
    hit = (fires & should).sum(0).double()
    precision = hit / fires.sum(0).clamp(min=1)
    recall = hit / should.sum(0).clamp(min=1)
    f1 = 2 * hit / (fires.sum(0) + should.sum(0)).clamp(min=1)
    met = should.any(0)  # a feature that never fires here says nothing of its latent
    cosine = _cosine(found, true)
    best = cosine.argmax(1)
    return Recovery(
        mcc=mcc, f1=float(f1[met].mean()), precision=float(precision[met].mean()),
        recall=float(recall[met].mean()),
        unique=len(best.unique()) / min(len(found), len(true)),
        above=float((cosine.max(0).values > 0.9).double().mean()),
    )  # fmt: skip


def _cosine(found: Tensor, true: Tensor) -> Tensor:
    a, b = (d.detach().double().cpu() for d in (found, true))
    a = a / a.norm(dim=1, keepdim=True).clamp(min=1e-12)
    b = b / b.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cosine: Tensor = a @ b.T
    return cosine.abs()
