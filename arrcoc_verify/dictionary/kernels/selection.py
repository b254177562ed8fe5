"""Encoding and selecting at once, so that the pre-activations never exist in full.

At 16 x 768 latents and 4,096 samples the pre-activations are 201 MB, of which top-k keeps 0.3 %.
They are made some hundred samples at a time, stay in the cache and are gone after the selection.

With `proposals`, the matrix product runs in bfloat16 and proposes somewhat more latents than are
wanted; those are scored again in float32, which also measures what rounding does to this sample.
Where the k-th score lies above all that was not proposed by more than twice the largest error seen
among some fifty latents (relative to their norms), nothing can have been missed; the other samples
are done again in float32. The selection is that of float32 but for latents that tie within it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from arrcoc_verify.dictionary.kernels.codes import Codes, regular
from arrcoc_verify.dictionary.kernels.primitives import bag_dot, row_topk

CAUTION = 2.0
"""How much larger than all that were seen an unseen rounding error is allowed to be."""

LARGE = 1 << 19
"""Weights of an encoder from which on a second look costs less than bfloat16 saves."""

Entries = tuple[Tensor, Tensor, Tensor]
"""Values, rows and latents of entries, flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """How latents are selected.

    Attributes:
        scope: `row` keeps k of each sample (TopK), `batch` k times the samples of the whole batch
            (BatchTopK).
        proposals: let bfloat16 propose and float32 decide; pays where the processor multiplies
            bfloat16 faster (`fast_bfloat16`) and the encoder is `LARGE`. None: where it pays.
        latents: only these may be selected, `[latent]`; what dead latents need for AuxK.
        chunk: samples whose pre-activations exist at a time.
    """

    scope: Literal["row", "batch"] = "row"
    proposals: bool | None = None
    latents: Tensor | None = None
    chunk: int = 512


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cpu":
        able = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
        info = torch.cpu
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return "AVX512" in able and any(getattr(info, name, lambda: False)() for name in tests)
    return False  # tf32 needs no second look at candidates


@torch.no_grad()
def encode_select(
    x: Tensor,
    w_enc: Tensor,
    b_enc: Tensor,
    k: float,
    *,
    shift: tuple[Tensor, Tensor] | None = None,
    how: Select | None = None,
) -> Codes:
    """Return the selected, rectified pre-activations `x @ w_enc.T + b_enc + query @ w_query`.

    Args:
        x: `[sample, channel]`, centred by the caller if the dictionary centres.
        w_enc: a row for each latent, `[latent, channel]`.
        b_enc: `[latent]`.
        k: active latents of a sample, on average over the batch for scope `batch`, where it may be
            fractional.
        shift: of a query-conditional dictionary `(query [sample, query], w_query [query, latent])`.
        how: default: row by row in whatever way is fastest here.

    Raises:
        ValueError: k is out of range, or a fraction that rows cannot have.
    """
    how = how or Select()
    latents = w_enc.shape[0]
    if shift is not None:
        x, w_enc = torch.cat([x, shift[0]], dim=1), torch.cat([w_enc, shift[1].T], dim=1)
    if how.latents is not None:
        w_enc, b_enc = w_enc[how.latents], b_enc[how.latents]
    if not 0 < k <= w_enc.shape[0]:
        raise ValueError(f"k must lie in (0, {w_enc.shape[0]}], the latents on offer, got {k}")
    if how.scope == "batch":
        codes = _batch_topk(x, w_enc, b_enc, k, how)
    elif k != int(k):
        raise ValueError(f"a row keeps a whole number of latents, got k={k}; select by batch")
    else:
        codes = regular(*_row_topk(x, w_enc, b_enc, int(k), how), latents)
    indices = codes.indices if how.latents is None else how.latents[codes.indices]
    return Codes(
        values=codes.values.relu(), indices=indices, offsets=codes.offsets, latents=latents
    )


def _row_topk(
    x: Tensor, weight: Tensor, bias: Tensor, k: int, how: Select
) -> tuple[Tensor, Tensor]:
    wanted = candidates(k)
    able = x.dtype == torch.float32 and 4 * wanted <= weight.shape[0]
    pays = weight.numel() >= LARGE and fast_bfloat16(x.device)
    asked = pays if how.proposals is None else how.proposals
    if able and asked:
        return _proposed(x, weight, bias, k, how.chunk)
    return row_topk(x, weight, bias, k, how.chunk)


def candidates(k: int) -> int:
    """Return how many latents are proposed when k are wanted: half as many again, 16 at least."""
    return k + max(16, k // 2)


def _proposed(x: Tensor, weight: Tensor, bias: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the top k of each row: bfloat16 proposes, float32 decides."""
    wanted = candidates(k)
    proposed, latents = row_topk(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), wanted, chunk)
    rows = torch.arange(x.shape[0], device=x.device).repeat_interleave(wanted)
    offsets = torch.arange(x.shape[0] + 1, device=x.device) * wanted
    scores = bag_dot(x, rows, weight, latents.flatten(), offsets).view_as(proposed) + bias[latents]
    values, at = scores.topk(k, dim=1, sorted=False)
    indices = latents.gather(1, at)
    norms = torch.linalg.vector_norm(weight, dim=1)
    error = (proposed - scores).abs().div_(norms[latents]).amax(1) * norms.amax()
    doubtful = (values.amin(1) < proposed.amin(1) + CAUTION * error).nonzero().flatten()
    if doubtful.numel():
        again = row_topk(x[doubtful], weight, bias, k, chunk)
        values[doubtful], indices[doubtful] = again
    return values, indices


def _batch_topk(x: Tensor, weight: Tensor, bias: Tensor, k: float, how: Select) -> Codes:
    """Return the `k * samples` largest of the batch.

    Each row offers its top 2 k. A row whose whole offer was taken may have more that belong, so it
    offers twice as many, until something of every offer is left over; then no row hides any.
    """
    samples, latents = x.shape[0], weight.shape[0]
    width = min(latents, max(1, round(2 * k)))
    keep = max(1, round(k * samples))
    rows = torch.arange(samples, device=x.device)
    settled = (x.new_zeros(0), rows[:0], rows[:0])
    while True:
        offer, indices = _row_topk(x if len(rows) == samples else x[rows], weight, bias, width, how)
        of = rows.repeat_interleave(width)
        offered = _joined(settled, (offer.flatten(), of, indices.flatten()))
        taken, place = offered[0].topk(keep, sorted=False)
        least = offer.amin(1)
        full = (least >= taken.amin()) & (least > 0)
        if width == latents or not full.any():
            break
        rest = ~full
        settled = _joined(
            settled,
            (offer[rest].flatten(), of[rest.repeat_interleave(width)], indices[rest].flatten()),
        )
        rows, width = rows[full], min(latents, 2 * width)
    values, of, indices = (part[place] for part in offered)
    order = (of * latents + indices).sort().indices
    counts = torch.bincount(of, minlength=samples)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(values=values[order], indices=indices[order], offsets=offsets, latents=latents)


def _joined(first: Entries, second: Entries) -> Entries:
    values, rows, indices = (torch.cat(pair) for pair in zip(first, second, strict=True))
    return values, rows, indices
