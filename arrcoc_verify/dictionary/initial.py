"""Where training starts: centre, scale and thresholds that fit the data.

One scalar on a tied encoder decides how fast a wide dictionary learns: with unit rows it
over-reconstructs many times over, and Adam's second moments remember those first gradients for a
thousand steps. The scalar is the least-squares scale of the first reconstruction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import (
    BATCHWISE,
    Dictionary,
    keep_batch_topk,
    keep_topk,
)
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.errors import NonFinite, UsageError

FROM_DATA = 0.8
"""Share of a decoder row that is a sample's direction, the rest is random (as in saev)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the first samples say.

    Attributes:
        variance: mean square of the target about its mean.
        bandwidth: for the kernel of jumprelu: half the spread of the evidence.
    """

    variance: float
    bandwidth: float


@torch.no_grad()
def start(dictionary: Dictionary, samples: Samples, *, seed: int, blend: float = 0.0) -> Start:
    """Fit a fresh dictionary's biases, encoder scale and thresholds to samples, in place.

    Args:
        dictionary: with unit decoder rows.
        samples: a few thousand.
        seed: of the choice of samples that rows are blended with.
        blend: share of a sample's direction in each decoder row, 0 for none.

    Raises:
        NonFinite: a sample holds NaN or infinity.
        UsageError: the target is constant, so there is nothing to learn.
    """
    x, wanted = samples.x, samples.wanted
    if not (bool(torch.isfinite(x).all()) and bool(torch.isfinite(wanted).all())):
        raise NonFinite("the activations to train on hold NaN or infinity; look at `sites` first")
    dictionary.b_dec.copy_(geometric_median(wanted))
    variance = float((wanted.double() - wanted.double().mean(0)).square().sum(1).mean())
    if variance <= 1e-12 * max(float(wanted.double().square().sum(1).mean()), 1e-30):
        raise UsageError("all samples are the same: this site holds nothing that varies to learn")
    if blend:
        _blend(dictionary, wanted, blend, seed)
    _scale_encoder(dictionary, samples)
    spread = _set_threshold(dictionary, samples)
    return Start(variance=variance, bandwidth=max(spread / 2, 1e-6))


def geometric_median(x: Tensor, steps: int = 20) -> Tensor:
    """Return the point with the least mean distance to rows, by Weiszfeld's iteration."""
    centre = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - centre).norm(dim=1).clamp(min=1e-8)
        centre = (x * weight[:, None]).sum(0) / weight.sum()
    return centre


def _blend(dictionary: Dictionary, wanted: Tensor, blend: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(wanted), (dictionary.config.latents,), generator=generator)
    data = wanted[rows] - dictionary.b_dec
    data = data / data.norm(dim=1, keepdim=True).clamp(min=1e-8)
    dictionary.W_dec.copy_(blend * data + (1 - blend) * dictionary.W_dec)
    dictionary.normalise_()
    if not dictionary.config.transcoder:
        dictionary.W_enc.copy_(dictionary.W_dec)


def _first_codes(dictionary: Dictionary, x: Tensor) -> Tensor:
    codes = (dictionary.centred(x) @ dictionary.W_enc.T).relu()
    config = dictionary.config
    if config.architecture == "topk":
        return keep_topk(codes, int(config.k), dictionary.weights())
    return keep_batch_topk(codes, config.k, dictionary.weights())[0]


def _scale_encoder(dictionary: Dictionary, samples: Samples) -> None:
    first = _first_codes(dictionary, samples.x) @ dictionary.W_dec
    wanted = samples.wanted - dictionary.b_dec
    if dictionary.config.transcoder:  # directions fit only by chance: match the size, not the sign
        scale = (wanted.square().sum() / first.square().sum().clamp(min=1e-12)).sqrt()
    else:
        scale = (wanted * first).sum() / first.square().sum().clamp(min=1e-12)
    dictionary.W_enc.mul_(scale.clamp(min=1e-3))


def _set_threshold(dictionary: Dictionary, samples: Samples) -> float:
    evidence = dictionary.centred(samples.x) @ dictionary.W_enc.T
    config = dictionary.config
    codes = evidence.relu()
    _, least = keep_batch_topk(codes, config.k, dictionary.weights())
    if config.architecture in (*BATCHWISE, "jumprelu") and bool(torch.isfinite(least)):
        dictionary.threshold.fill_(float(least))
    return float(evidence.std())
