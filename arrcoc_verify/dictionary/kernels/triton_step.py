"""A whole training step in a few Triton kernels, for squared error.

What the separate operations read and write between each other stays in registers: decoding, error
and gathered products are one kernel per sample, and both weight gradients, the projection, Adam and
the unit norm are one kernel per latent, so no gradient of a matrix ever lies in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from arrcoc_verify.dictionary.kernels import triton_kernels
from arrcoc_verify.dictionary.kernels.codes import Codes


@triton.jit
def _centre(x, centre, out, channels, BLOCK: tl.constexpr):
    """Take the centre from a row, in the type of the output."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    value = tl.load(x + row * channels + channel, mask=inside, other=0.0)
    value -= tl.load(centre + channel, mask=inside, other=0.0)
    tl.store(out + row * channels + channel, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _decode_pull(
    x, values, indices, offsets, w_dec, b_dec, grad, pulls, loss, scale, channels,
    BLOCK: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Decode a sample, keep its error and squared error, and pull each of its latents.

    The second reading of the decoder's rows finds them in the cache of the first.
    """
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    begin, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    error = tl.load(b_dec + channel, mask=inside, other=0.0)
    error -= tl.load(x + row * channels + channel, mask=inside, other=0.0)
    for start in range(begin, end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        live = entry < end
        weight = tl.load(values + entry, mask=live, other=0.0).to(tl.float32)
        latent = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
        where = w_dec + latent[:, None] * channels + channel[None, :]
        rows = tl.load(where, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        error += tl.sum(weight[:, None] * rows, 0)
    tl.store(loss + row, tl.sum(error * error, 0))
    error *= scale
    tl.store(grad + row * channels + channel, error.to(grad.dtype.element_ty), mask=inside)
    for start in range(begin, end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        live = entry < end
        weight = tl.load(values + entry, mask=live, other=0.0).to(tl.float32)
        latent = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
        where = w_dec + latent[:, None] * channels + channel[None, :]
        rows = tl.load(where, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        pull = tl.sum(rows * error[None, :], 1)
        tl.store(pulls + entry, tl.where(weight > 0, pull, 0.0), mask=live)


@triton.jit
def _adam(weight, grad, mean, square, rate, correction, beta1, beta2, epsilon):
    """Return weight, mean and square after a step of Adam."""
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad * grad
    step = mean / (tl.sqrt(square) * correction + epsilon)
    return weight - rate * step, mean, square


@triton.jit
def _move(
    weights, means, squares, halves, grad, at, inside, schedule, beta1, beta2, epsilon,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Move a row of weights by its gradient; of unit rows only what turns them, and keep norm 1."""
    weight = tl.load(weights + at, mask=inside, other=0.0)
    if UNIT:
        grad -= tl.sum(grad * weight, 0) * weight
    mean = tl.load(means + at, mask=inside, other=0.0)
    square = tl.load(squares + at, mask=inside, other=0.0)
    rate, correction = tl.load(schedule), tl.load(schedule + 1)
    weight, mean, square = _adam(
        weight, grad, mean, square, rate, correction, beta1, beta2, epsilon
    )
    if UNIT:
        weight = weight / tl.maximum(tl.sqrt(tl.sum(weight * weight, 0)), 1e-12)
    tl.store(means + at, mean, mask=inside)
    tl.store(squares + at, square, mask=inside)
    tl.store(weights + at, weight, mask=inside)
    tl.store(halves + at, weight.to(halves.dtype.element_ty), mask=inside)


@triton.jit
def _update(
    order, rows, offsets, values, pulls, grad, read,
    w_enc, mean_enc, square_enc, half_enc, w_dec, mean_dec, square_dec, half_dec,
    schedule, beta1, beta2, epsilon, channels, BLOCK: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Gather the gradients of one latent's rows over its samples and move the rows.

    `schedule` holds the rate over Adam's first correction, and the root of one over the second.
    """
    latent = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    begin, end = tl.load(offsets + latent), tl.load(offsets + latent + 1)
    to_enc = tl.zeros([BLOCK], tl.float32)
    to_dec = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, ENTRIES):
        place = start + tl.arange(0, ENTRIES)
        live = place < end
        mask = live[:, None] & inside[None, :]
        entry = tl.load(order + place, mask=live, other=0).to(tl.int64)
        sample = tl.load(rows + place, mask=live, other=0).to(tl.int64)
        value = tl.load(values + entry, mask=live, other=0.0).to(tl.float32)
        pull = tl.load(pulls + entry, mask=live, other=0.0)
        where = sample[:, None] * channels + channel[None, :]
        error = tl.load(grad + where, mask=mask, other=0.0).to(tl.float32)
        seen = tl.load(read + where, mask=mask, other=0.0).to(tl.float32)
        to_dec += tl.sum(value[:, None] * error, 0)
        to_enc += tl.sum(pull[:, None] * seen, 0)
    at = latent * channels + channel
    _move(
        w_dec, mean_dec, square_dec, half_dec, to_dec, at, inside, schedule, beta1, beta2, epsilon,
        UNIT=True,
    )  # fmt: skip
    _move(
        w_enc, mean_enc, square_enc, half_enc, to_enc, at, inside, schedule, beta1, beta2, epsilon,
        UNIT=False,
    )  # fmt: skip


def centre(x: Tensor, middle: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x - middle` in a type, `[sample, channel]`."""
    out = torch.empty_like(x, dtype=dtype)
    block = triton.next_power_of_2(x.shape[1])
    _centre[(x.shape[0],)](x, middle, out, x.shape[1], BLOCK=block, num_warps=4)
    return out


def decode_pull(
    x: Tensor, codes: Codes, w_dec: Tensor, b_dec: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradient of the reconstruction, gradient of each entry, and squared errors.

    Args:
        x: what is to be reconstructed, `[sample, channel]`, float32.
        codes: of the encoder.
        w_dec: `[latent, channel]`; the gradient comes in its type.
        b_dec: `[channel]`.
        scale: gradient of the loss for an error of 1.
    """
    grad = torch.empty_like(x, dtype=w_dec.dtype)
    pulls = codes.values.new_empty(codes.values.shape[0], dtype=torch.float32)
    loss = x.new_empty(x.shape[0])
    _decode_pull[(x.shape[0],)](
        x, codes.values, codes.indices, codes.offsets, w_dec, b_dec, grad, pulls, loss, scale,
        x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), ENTRIES=triton_kernels.ENTRIES,
        num_warps=4,
    )  # fmt: skip
    return grad, pulls, loss


def by_latent(codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entries' order by latent, their samples in it, and each latent's offset."""
    found, order = codes.indices.int().sort(stable=True)
    edges = torch.arange(codes.latents + 1, device=found.device, dtype=torch.int32)
    return order, codes.rows[order], torch.searchsorted(found, edges)


def update(
    codes: Codes, sorted_by: tuple[Tensor, Tensor, Tensor], found: tuple[Tensor, Tensor, Tensor],
    state: dict[str, Tensor], schedule: Tensor, betas: tuple[float, float, float],
) -> None:  # fmt: skip
    """Move the rows of encoder and decoder by one step of Adam.

    Args:
        codes: of the batch.
        sorted_by: of `by_latent`.
        found: gradient of the reconstruction, of each entry, and what the encoder read.
        state: `w_enc`, `w_dec`, and `mean_`, `square_` and `half_` of both.
        schedule: rate over the first correction, root of one over the second.
        betas: of Adam, and its epsilon.
    """
    grad, pulls, read = found
    channels = grad.shape[1]
    names = ("", "mean_", "square_", "half_")
    enc, dec = ([state[name + key] for name in names] for key in ("w_enc", "w_dec"))
    _update[(codes.latents,)](
        *sorted_by, codes.values, pulls, grad, read, *enc, *dec, schedule, *betas, channels,
        BLOCK=triton.next_power_of_2(channels), ENTRIES=triton_kernels.ENTRIES, num_warps=4,
    )  # fmt: skip
