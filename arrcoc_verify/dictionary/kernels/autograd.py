"""The sparse path as a node of autograd's graph: any loss of the reconstruction works on it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.dictionary.kernels.backward import Term, backward, decode
from arrcoc_verify.dictionary.kernels.codes import Codes
from arrcoc_verify.dictionary.kernels.primitives import bag_sum
from arrcoc_verify.dictionary.kernels.selection import Select, encode_select


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A dictionary's parameters.

    Attributes:
        w_enc: `[latent, channel]`.
        b_enc: `[latent]`.
        w_dec: `[latent, channel of the output]`.
        b_dec: `[channel of the output]`, or None where none is added (AuxK).
        w_query: of a conditional dictionary, `[query, latent]`.
        centre: taken from the input before it is encoded, `[channel]`; `b_dec` of an autoencoder.
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor | None = None
    w_query: Tensor | None = None
    centre: Tensor | None = None


def reconstruct(
    x: Tensor,
    weights: Weights,
    k: float,
    *,
    query: Tensor | None = None,
    how: Select | None = None,
    prefixes: tuple[int, ...] = (),
) -> tuple[Tensor, Codes]:
    """Return the reconstruction and the codes; gradients flow from both to everything given.

    Args:
        x: `[sample, channel]`.
        weights: the parameters.
        k: active latents of a sample.
        query: of a conditional dictionary, `[sample, query]`.
        how: how latents are selected.
        prefixes: sizes of nested dictionaries; then the result is `[prefix, sample, channel]`.
    """
    w = weights
    plan = (k, how or Select(), prefixes)
    decoded, values, indices, offsets = _Reconstruct.apply(  # type: ignore[no-untyped-call]
        x, w.w_enc, w.b_enc, w.w_dec, w.b_dec, query, w.w_query, w.centre, plan
    )
    codes = Codes(values=values, indices=indices, offsets=offsets, latents=w.w_enc.shape[0])
    return decoded, codes


class _Reconstruct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        x, w_enc, b_enc, w_dec, b_dec, query, w_query, centre, (k, how, prefixes) = given
        read = x if centre is None else x - centre
        shift = None if query is None else (query, w_query)
        codes = encode_select(read, w_enc, b_enc, k, shift=shift, how=how)
        ctx.save_for_backward(
            read, w_enc, w_dec, query, w_query, codes.values, codes.indices, codes.offsets
        )
        ctx.prefixes = prefixes
        ctx.mark_non_differentiable(codes.indices, codes.offsets)
        decoded = decode(codes, w_dec, b_dec, prefixes=prefixes)
        return decoded, codes.values, codes.indices, codes.offsets

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        read, w_enc, w_dec, query, w_query, values, indices, offsets = ctx.saved_tensors
        codes = Codes(values=values, indices=indices, offsets=offsets, latents=w_enc.shape[0])
        term = Term(codes=codes, grad=grads[0], prefixes=ctx.prefixes, grad_values=grads[1])
        found = backward([term], read, w_enc, w_dec, query=query, centred=False)
        needs = ctx.needs_input_grad
        return (
            bag_sum(found.pulls, indices, offsets, w_enc) if needs[0] else None,
            found.w_enc,
            found.b_enc,
            found.w_dec,
            found.b_dec if needs[4] else None,
            bag_sum(found.pulls, indices, offsets, w_query.T) if needs[5] else None,
            found.w_query,
            -(found.b_enc @ w_enc) if needs[7] else None,
            None,
        )
