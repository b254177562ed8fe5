"""The loss of dictionaries that keep a number of latents, by way of those that are kept.

The same numbers as `losses.loss` up to rounding, without a matrix of samples x latents: encoding
and selection are one operation, and only what was kept is decoded and differentiated.
"""

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import BATCHWISE, Dictionary, keep_topk
from arrcoc_verify.dictionary.kernels import Codes, Select, Weights, reconstruct
from arrcoc_verify.dictionary.losses import Loss, Samples, Terms
from arrcoc_verify.dictionary.workers import Workers

FEW = 8
"""Latents for each one that is kept, below which whole matrices cost less."""


def applies(dictionary: Dictionary, workers: Workers) -> bool:
    """Return whether `sparse_loss` knows this dictionary and pays for it.

    Directions that turn and crosscoders have other forms; over several workers a batch-wise
    selection needs everyone's codes.
    """
    config = dictionary.config
    if config.turns or config.blocks or config.latents < FEW * config.k:
        return False
    return config.architecture == "topk" or (config.architecture in BATCHWISE and workers.size == 1)


def sparse_loss(
    dictionary: Dictionary,
    samples: Samples,
    terms: Terms,
    dead: Tensor | None = None,
    workers: Workers | None = None,
) -> Loss:
    """Return the loss of this worker's samples; see `losses.loss` for what is given.

    Matrix products are in bfloat16 only where float32 decides afterwards (`kernels.selection`), so
    there is nothing for autocast to do here: a `Trainer` that is asked for bfloat16 takes
    `losses.loss`.
    """
    workers = workers or Workers()
    with torch.autocast(samples.x.device.type, enabled=False):
        return _loss(dictionary, samples, terms, dead, workers)


def _loss(
    dictionary: Dictionary, samples: Samples, terms: Terms, dead: Tensor | None, workers: Workers
) -> Loss:
    config, query = dictionary.config, _query(dictionary, samples)
    batchwise = config.architecture in BATCHWISE
    nested = config.prefixes if config.architecture == "matryoshka" else ()
    decoded, codes = reconstruct(
        samples.x, _weights(dictionary), config.k, query=query, prefixes=nested,
        how=Select(scope="batch" if batchwise else "row"),
    )  # fmt: skip
    if config.skip:
        decoded = decoded + samples.x @ dictionary.W_skip.T
    errors = (samples.wanted - decoded).square().sum(-1).mean(-1) / terms.variance
    error = errors[-1] if nested else errors
    total = errors.mean()
    if dead is not None and bool(dead.any()):
        whole = decoded[-1] if nested else decoded
        residual = (samples.wanted - whole).detach()
        total = total + terms.aux * _auxiliary(dictionary, samples, residual, dead, terms, workers)
    kept = codes.values.detach() > 0
    positive = codes.values.detach()[kept]
    least = positive.min() if len(positive) else positive.new_tensor(torch.inf)
    return Loss(
        total=total,
        error=workers.mean(error.detach()),
        l0=workers.mean(kept.sum() / codes.samples),
        fired=workers.any(_fired(codes, kept)),
        least=least if batchwise else None,
    )


def _weights(dictionary: Dictionary) -> Weights:
    config = dictionary.config
    return Weights(
        w_enc=dictionary.W_enc, b_enc=dictionary.b_enc, w_dec=dictionary.W_dec,
        b_dec=dictionary.b_dec, w_query=dictionary.W_query if config.query else None,
        centre=None if config.transcoder else dictionary.b_dec,
    )  # fmt: skip


def _query(dictionary: Dictionary, samples: Samples) -> Tensor | None:
    if not dictionary.config.query:
        return None
    if samples.query is None:
        dictionary.shift(samples.query, samples.x.ndim)  # says what is wrong
    return samples.query


def _fired(codes: Codes, kept: Tensor) -> Tensor:
    fired = torch.zeros(codes.latents, dtype=torch.bool, device=kept.device)
    return fired.index_fill_(0, codes.indices[kept], True)


def _auxiliary(
    dictionary: Dictionary,
    samples: Samples,
    residual: Tensor,
    dead: Tensor,
    terms: Terms,
    workers: Workers,
) -> Tensor:
    """Return how badly dead latents explain the residual, over its variance."""
    columns = dead.nonzero().flatten()
    count = min(terms.aux_latents, len(columns))
    explained = _explained(dictionary, samples, columns, count)
    centre = workers.mean(residual.mean(0))
    spread = workers.mean((residual - centre).square().sum(-1).mean()).clamp(min=1e-12)
    share = min(len(columns) / terms.aux_latents, 1.0)
    return share * (residual - explained).square().sum(-1).mean() / spread


def _explained(dictionary: Dictionary, samples: Samples, columns: Tensor, count: int) -> Tensor:
    whole, query = _weights(dictionary), _query(dictionary, samples)
    weights = Weights(
        w_enc=whole.w_enc[columns], b_enc=whole.b_enc[columns], w_dec=whole.w_dec[columns],
        w_query=None if whole.w_query is None else whole.w_query[:, columns], centre=whole.centre,
    )  # fmt: skip
    if len(columns) >= FEW * count:
        explained: Tensor = reconstruct(samples.x, weights, count, query=query)[0]
        return explained
    evidence = dictionary.centred(samples.x) @ weights.w_enc.T + weights.b_enc
    if query is not None and weights.w_query is not None:
        evidence = evidence + query @ weights.w_query
    return keep_topk(evidence.relu(), count) @ weights.w_dec
