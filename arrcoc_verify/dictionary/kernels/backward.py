"""Decoding and the whole backward pass from the selected latents alone.

A dense step multiplies six matrices of `samples x channels x latents`. Once the encoder's product
has selected k of the latents, the other five have k nonzero terms in a row, and their results are
the same: what was not selected has no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.dictionary.kernels.codes import Codes
from arrcoc_verify.dictionary.kernels.primitives import bag_dot, bag_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A reconstruction's part in the loss.

    Attributes:
        codes: what was decoded.
        grad: gradient of the loss with respect to the reconstruction, `[sample, channel]`; with
            `prefixes` one for each nested reconstruction, `[prefix, sample, channel]`.
        prefixes: sizes of nested dictionaries (Matryoshka), rising, the last all latents.
        biased: whether `b_dec` was added; not in AuxK, which predicts what is left over.
        grad_values: gradient of the loss with respect to `codes.values` by another way than the
            reconstruction, a penalty for instance, `[entry]`.
    """

    codes: Codes
    grad: Tensor
    prefixes: tuple[int, ...] = ()
    biased: bool = True
    grad_values: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Gradients of the loss with respect to the parameters, shaped as they are.

    `along` is how far each row of `w_dec`'s gradient points along the row, `[latent]`: what the
    projection to unit norm takes away. `pulls` is the gradient with respect to the selected
    pre-activations, `[entry]`, the terms' entries one after the other.
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    w_query: Tensor | None
    along: Tensor
    pulls: Tensor


@torch.no_grad()
def decode(
    codes: Codes, w_dec: Tensor, b_dec: Tensor | None = None, *, prefixes: Sequence[int] = ()
) -> Tensor:
    """Return what the codes stand for, `[sample, channel]`.

    Args:
        codes: of `encode_select`.
        w_dec: a row for each latent, `[latent, channel]`.
        b_dec: `[channel]`.
        prefixes: sizes of nested dictionaries, rising; then the result is `[prefix, sample,
            channel]`, what each of them reconstructs, at the price of one decoding.
    """
    if not prefixes:
        decoded = bag_sum(codes.values, codes.indices, codes.offsets, w_dec)
    else:
        bags = _group(codes.indices, prefixes) * codes.samples + codes.rows
        values, indices, offsets = _by_bag(
            bags, len(prefixes) * codes.samples, codes.values, codes.indices
        )
        parts = bag_sum(values, indices, offsets, w_dec)
        decoded = parts.view(len(prefixes), codes.samples, -1).cumsum(0)
    return decoded if b_dec is None else decoded.add_(b_dec)


@torch.no_grad()
def backward(
    terms: Sequence[Term],
    x: Tensor,
    w_enc: Tensor,
    w_dec: Tensor,
    *,
    query: Tensor | None = None,
    centred: bool = True,
) -> Gradients:
    """Return all gradients of a loss that is a sum of terms.

    Args:
        terms: one for each decoding; AuxK's codes are a second one.
        x: what the encoder read, `[sample, channel]`.
        w_enc: `[latent, channel]`.
        w_dec: `[latent, channel of the output]`.
        query: of a conditional dictionary, `[sample, query]`.
        centred: whether `x` was centred by `b_dec`, which then has a gradient by this way too.
    """
    values, indices, rows, sources, grads = _entries(terms)
    single = len(terms) == 1 and not terms[0].prefixes
    dots = bag_dot(grads, sources, w_dec, indices, terms[0].codes.offsets if single else None)
    pulls = dots if all(term.grad_values is None for term in terms) else dots + _penalties(terms)
    pulls = pulls * (values > 0)
    sorted_values, sorted_pulls, sorted_along, sources, rows, offsets = _by_bag(
        indices, w_dec.shape[0], values, pulls, values * dots, sources, rows
    )
    ones = x.new_ones(max(x.shape[0], grads.shape[0]), 1)
    read = x if query is None else torch.cat([x, query], dim=1)
    encoder = bag_sum(sorted_pulls, rows, offsets, read)
    b_enc = bag_sum(sorted_pulls, rows, offsets, ones).flatten()
    b_dec = w_dec.new_zeros(w_dec.shape[1])
    for term in terms:
        if term.biased:
            b_dec = b_dec + term.grad.flatten(0, -2).sum(0)
    return Gradients(
        w_enc=encoder if query is None else encoder[:, : x.shape[1]],
        b_enc=b_enc,
        w_dec=bag_sum(sorted_values, sources, offsets, grads),
        b_dec=b_dec - b_enc @ w_enc if centred else b_dec,
        w_query=None if query is None else encoder[:, x.shape[1] :].T,
        along=bag_sum(sorted_along, sources, offsets, ones).flatten(),
        pulls=pulls,
    )


def _entries(terms: Sequence[Term]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return values, latents, samples and gradient rows of all entries, and the gradient rows."""
    sources, grads, above = [], [], 0
    for term in terms:
        rows = term.codes.rows
        if term.prefixes:
            # A latent of group g is in the prefixes g and later, so their gradients reach it.
            reach = term.grad.flip(0).cumsum(0).flip(0)
            group = _group(term.codes.indices, term.prefixes)
            sources.append(above + group * term.codes.samples + rows)
        else:
            reach = term.grad[None]
            sources.append(above + rows)
        grads.append(reach.flatten(0, 1))
        above += grads[-1].shape[0]
    return (
        _cat([term.codes.values for term in terms]),
        _cat([term.codes.indices for term in terms]),
        _cat([term.codes.rows for term in terms]),
        _cat(sources),
        _cat(grads),
    )


def _penalties(terms: Sequence[Term]) -> Tensor:
    pulls = [term.grad_values for term in terms]
    given = zip(pulls, terms, strict=True)
    return _cat([torch.zeros_like(t.codes.values) if p is None else p for p, t in given])


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _group(indices: Tensor, prefixes: Sequence[int]) -> Tensor:
    """Return the first prefix that has each latent."""
    return torch.bucketize(indices, torch.tensor(prefixes, device=indices.device), right=True)


def _by_bag(bags: Tensor, number: int, *entries: Tensor) -> tuple[Tensor, ...]:
    """Return entries sorted by bag, and the offsets of the bags last.

    The order within a bag is that of the entries, so sums are the same in each run.
    """
    found, order = bags.int().sort(stable=True)
    edges = torch.arange(number + 1, device=bags.device, dtype=torch.int32)
    return (*(entry[order] for entry in entries), torch.searchsorted(found, edges))


@torch.no_grad()
def project_(grad: Tensor, w_dec: Tensor, along: Tensor) -> Tensor:
    """Take from the gradient of unit rows what points along them; it could only scale them.

    Args:
        grad: gradient of `w_dec`, changed in place.
        w_dec: rows of norm 1, `[latent, channel]`.
        along: their products with the gradient, of `Gradients`.
    """
    return grad.addcmul_(along[:, None], w_dec, value=-1)


@torch.no_grad()
def unit_norm_(w_dec: Tensor) -> Tensor:
    """Give each row norm 1, in place."""
    norm = torch.linalg.vector_norm(w_dec, dim=1, keepdim=True)
    return w_dec.div_(norm.clamp_(min=1e-12))
