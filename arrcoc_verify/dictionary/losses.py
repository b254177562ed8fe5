"""What a dictionary is trained on: reconstruction, sparsity, and a use for dead latents.

Errors are sums of squares over channels, means over samples, divided by the variance of the
training data, so that 1 is the error of the mean. The sources of the terms stand in `architecture`;
AuxK is that of Gao et al., arXiv 2406.04093, on dead latents only: the residual is not
differentiated, the auxiliary latents' encoder and decoder are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import (
    BATCHWISE,
    Dictionary,
    keep_batch_topk,
    keep_topk,
)
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.report.atomic import sha256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Samples to train on or to measure.

    Attributes:
        x: what is encoded, `[sample, d_in]`.
        query: `[sample, query]`, of conditional dictionaries.
        target: what is decoded, `[sample, d_out]`, of transcoders; None for `x`.
    """

    x: Tensor
    query: Tensor | None = None
    target: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """What the decoder should return."""
        return self.x if self.target is None else self.target

    def digest(self) -> str:
        """Return the SHA-256 of the values, by which the same data are known again."""
        held = [v for v in (self.x, self.query, self.target) if v is not None]
        return sha256(b"".join(value.cpu().contiguous().numpy().tobytes() for value in held))

    def part(self, workers: Workers) -> "Samples":
        """Return one worker's samples."""
        query = None if self.query is None else workers.part(self.query)
        target = None if self.target is None else workers.part(self.target)
        return Samples(x=workers.part(self.x), query=query, target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Weights of the terms, fixed or adapted while training goes on.

    Attributes:
        variance: mean square of the target about its mean; what errors are divided by.
        penalty: of standard and gated: weight of the sum of codes.
        l0: of jumprelu: weight of the squared relative distance of L0 from its target.
        bandwidth: of jumprelu: width of the kernel that gives thresholds a gradient.
        aux: weight of the auxiliary error.
        aux_latents: dead latents that a sample may use for it.
    """

    variance: float
    penalty: float = 0.0
    l0: float = 1.0
    bandwidth: float = 0.1
    aux: float = 1 / 32
    aux_latents: int = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """One batch's loss and what training watches.

    Attributes:
        total: to be differentiated.
        error: reconstruction error over variance, mean over all workers: 1 - FVE.
        l0: active latents of a sample.
        fired: `[latent]`, True where a sample of any worker used it.
        least: smallest weighted code that a batch-wise selection kept; None of others.
    """

    total: Tensor
    error: Tensor
    l0: Tensor
    fired: Tensor
    least: Tensor | None = None


def loss(
    dictionary: Dictionary,
    samples: Samples,
    terms: Terms,
    dead: Tensor | None = None,
    workers: Workers | None = None,
) -> Loss:
    """Return the loss of this worker's samples.

    Args:
        dictionary: what is trained.
        samples: of this worker.
        terms: weights.
        dead: `[latent]`, True where a latent counts as dead; None for no auxiliary term.
        workers: who else holds samples of the batch.
    """
    workers = workers or Workers()
    kind = dictionary.config.architecture
    evidence = dictionary.evidence(samples.x, samples.query)
    shift = dictionary.shift(samples.query, evidence.ndim)
    # The kernels of jumprelu move thresholds and offsets, never the evidence itself.
    shifted = (evidence.detach() if kind == "jumprelu" else evidence) + shift
    codes, least = _selected(dictionary, evidence, shifted, terms, workers)
    decoded = dictionary.decode(codes, query=samples.query, x=samples.x)
    wanted = samples.wanted
    error = square(wanted - decoded) / terms.variance
    l0 = workers.mean((codes.detach() > 0).sum(-1).float().mean())
    total = error
    if kind == "matryoshka":
        total = _nested(dictionary, codes, samples) / terms.variance
    elif kind == "standard":
        total = total + terms.penalty * (codes * dictionary.weights()).sum(-1).mean()
    elif kind == "gated":
        total = total + _gate_terms(dictionary, shifted, samples, terms)
    elif kind == "jumprelu":
        steps = _Step.apply(  # type: ignore[no-untyped-call]
            shifted, dictionary.threshold, terms.bandwidth
        )
        reached = workers.mean(steps.sum(-1).mean()) / dictionary.config.k
        total = total + terms.l0 * (reached - 1) ** 2
    if dead is not None and bool(dead.any()):
        residual = (wanted - decoded).detach()
        total = total + terms.aux * _auxiliary(
            dictionary, evidence + shift, residual, dead, terms, workers
        )
    fired = workers.any((codes.detach() > 0).flatten(0, -2).any(0))
    return Loss(total=total, error=workers.mean(error.detach()), l0=l0, fired=fired, least=least)


def square(error: Tensor) -> Tensor:
    """Return the sum of squares over channels, mean over samples."""
    return error.float().square().sum(-1).mean()


def _selected(
    dictionary: Dictionary, evidence: Tensor, shifted: Tensor, terms: Terms, workers: Workers
) -> tuple[Tensor, Tensor | None]:
    kind, config = dictionary.config.architecture, dictionary.config
    if kind == "gated":
        return dictionary.magnitude(evidence) * (shifted > 0), None
    if kind == "jumprelu":
        codes = _Jump.apply(  # type: ignore[no-untyped-call]
            evidence.relu(), shifted, dictionary.threshold, terms.bandwidth
        )
        return codes, None
    codes = shifted.relu()
    if kind == "topk":
        return keep_topk(codes, int(config.k), dictionary.weights()), None
    if kind in BATCHWISE:
        if workers.size == 1:
            return keep_batch_topk(codes, config.k, dictionary.weights())
        return _keep_over_workers(codes, config.k, dictionary.weights(), workers)
    return codes, None


def _keep_over_workers(
    codes: Tensor, k: float, weights: Tensor | float, workers: Workers
) -> tuple[Tensor, Tensor]:
    weighted = codes.detach() * weights
    samples = math.prod(codes.shape[:-1]) * workers.size
    least = workers.cut(weighted, round(k * samples))
    return codes * ((weighted >= least) & (weighted > 0)), least


def _nested(dictionary: Dictionary, codes: Tensor, samples: Samples) -> Tensor:
    """Return the mean over prefixes of their errors, decoding each latent once."""
    errors = []
    decoded: Tensor | float = 0.0
    start: Tensor = dictionary.b_dec
    if dictionary.config.skip:
        start = start + samples.x @ dictionary.W_skip.T
    for first, last in _spans(dictionary.config.prefixes):
        decoded = decoded + codes[..., first:last] @ dictionary.W_dec[first:last]
        if dictionary.config.turns:
            turn = dictionary.turned(samples.query, codes.ndim)
            for at in range(dictionary.config.turns):
                part = codes[..., first:last] @ dictionary.dec_turn[at, first:last]
                decoded = decoded + turn[..., at, None] * part
        errors.append(square(samples.wanted - start - decoded))
    return torch.stack(errors).mean()


def _spans(prefixes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return zip((0, *prefixes[:-1]), prefixes, strict=True)


def _gate_terms(dictionary: Dictionary, gate: Tensor, samples: Samples, terms: Terms) -> Tensor:
    """L1 on the gate, and the gate's own reconstruction through a decoder that stays as it is."""
    open_gate = gate.relu()
    decoded = open_gate @ dictionary.W_dec.detach() + dictionary.b_dec.detach()
    if dictionary.config.skip:
        decoded = decoded + samples.x @ dictionary.W_skip.detach().T
    sparsity = (open_gate * dictionary.weights()).sum(-1).mean()
    return terms.penalty * sparsity + square(samples.wanted - decoded) / terms.variance


def _auxiliary(
    dictionary: Dictionary,
    shifted: Tensor,
    residual: Tensor,
    dead: Tensor,
    terms: Terms,
    workers: Workers,
) -> Tensor:
    """Return how badly dead latents explain the residual, over its variance."""
    columns = dead.nonzero().flatten()
    count = min(terms.aux_latents, len(columns))
    codes = keep_topk(shifted[..., columns].relu(), count)
    explained = codes @ dictionary.W_dec[columns]
    centre = workers.mean(residual.flatten(0, -2).mean(0))
    spread = workers.mean(square(residual - centre)).clamp(min=1e-12)
    share = min(len(columns) / terms.aux_latents, 1.0)
    return share * square(residual - explained) / spread


class _Jump(torch.autograd.Function):
    """Codes above a threshold, with a rectangular kernel's gradient for threshold and offset.

    The kernel is two-sided: samples just below the threshold move it as well as those just above.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        height: Tensor,
        shifted: Tensor,
        threshold: Tensor,
        bandwidth: float,
    ) -> Tensor:
        ctx.save_for_backward(height, shifted, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return height * (shifted > threshold)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        height, shifted, threshold = ctx.saved_tensors
        near = ((shifted - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        jump = height * near * gradient
        to_threshold = -jump.flatten(0, -2).sum(0)
        return gradient * (shifted > threshold), jump, to_threshold, None


class _Step(torch.autograd.Function):
    """1 above a threshold, else 0; moves threshold and offset, never the evidence."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        shifted: Tensor,
        threshold: Tensor,
        bandwidth: float,
    ) -> Tensor:
        ctx.save_for_backward(shifted, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return (shifted > threshold).to(shifted.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        shifted, threshold = ctx.saved_tensors
        near = ((shifted - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        moved = near * gradient
        return moved, -moved.flatten(0, -2).sum(0), None
