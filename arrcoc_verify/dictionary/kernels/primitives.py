"""The three operations that training spends its time on, and where each of them runs.

Everything else in this package is plain torch on top of these, so a device has a fast path as soon
as it has these three. On the CPU they are torch's embedding-bag kernels, which multiply and add
rows in place instead of gathering `[entry, channel]` first; on CUDA they are Triton kernels when
Triton is installed, else the same torch operations.
"""

import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

SUM = 0
"""What embedding bags do with their rows: mode `sum` in torch's numbering."""
GROUP = 8
"""Values of which the largest stands for all in one round of `largest`."""
SAMPLED = (torch.float32, torch.float64)
"""Types that torch takes only the wanted entries of a product in."""
DIRECT = 800
"""A row this short is searched without grouping; larger or smaller measured slower on AVX-512."""


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest values of each row and their columns, unordered.

    The k largest lie in the k groups with the largest maxima, so a long row costs one pass for the
    maxima and a search among `k * GROUP` values instead of one among all.

    Args:
        values: `[row, column]`.
        k: at most the number of columns.
    """
    rows, columns = values.shape
    groups = columns // GROUP
    if columns <= DIRECT or columns % GROUP or groups <= k or k * GROUP >= columns:
        return values.topk(k, dim=1, sorted=False)
    chosen = largest(values.view(rows, GROUP, groups).amax(1), k)[1]
    starts = torch.arange(0, columns, groups, device=values.device)
    places = (chosen[:, None, :] + starts[:, None]).view(rows, GROUP * k)
    found, at = largest(values.gather(1, places), k)
    return found, places.gather(1, at)


def row_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of `x @ weight.T + bias` in each row, without keeping the rest.

    Args:
        x: `[sample, channel]`.
        weight: `[latent, channel]`, in the type of `x`.
        bias: `[latent]`, in the type of `x`.
        k: how many.
        chunk: samples whose pre-activations exist at a time.

    Returns:
        Values `[sample, k]` and latents `[sample, k]`, unordered.
    """
    kernels = triton_kernels(x)
    values = x.new_empty(x.shape[0], k)
    indices = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
    scratch = x.new_empty(min(chunk, x.shape[0]), weight.shape[0])
    for start in range(0, x.shape[0], chunk):
        part = x[start : start + chunk]
        pre = torch.addmm(bias, part, weight.T, out=scratch[: part.shape[0]])
        found = kernels.row_largest(pre, k) if kernels else largest(pre, k)
        values[start : start + chunk], indices[start : start + chunk] = found
    return values, indices


def bag_sum(values: Tensor, indices: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """Return weighted sums of a table's rows, `[bag, channel]`: a sparse matrix times a dense one.

    Args:
        values: weight of each entry, `[entry]`.
        indices: row of the table of each entry, `[entry]`.
        offsets: where each bag starts, and the number of entries last, `[bag + 1]`.
        table: `[row, channel]`.
    """
    kernels = triton_kernels(table)
    if kernels:
        summed: Tensor = kernels.bag_sum(values, indices, offsets, table)
        return summed
    if not values.numel():  # torch's kernel wants a row to look at
        return table.new_zeros(offsets.shape[0] - 1, table.shape[1])
    bags: Tensor = torch.embedding_bag(
        table, indices, offsets, False, SUM, False, values.to(table.dtype), True
    )[0]
    return bags


def bag_dot(
    left: Tensor, rows: Tensor, right: Tensor, indices: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Return `left[rows[n]] . right[indices[n]]` of each entry n, `[entry]`.

    Args:
        left: `[row, channel]`.
        rows: `[entry]`.
        right: `[latent, channel]`.
        indices: `[entry]`.
        offsets: where each row's entries start, and their number last, `[row + 1]`, if they come
            row by row; the CPU is faster where it knows.
    """
    kernels = triton_kernels(left)
    if kernels:
        dots: Tensor = kernels.bag_dot(left, rows, right, indices)
        return dots
    if not rows.numel():
        return left.new_zeros(0)
    if offsets is not None and left.dtype in SAMPLED:
        _warned()
        shape = (left.shape[0], right.shape[0])
        wanted = torch.sparse_csr_tensor(
            offsets, indices, left.new_zeros(len(indices)), shape, check_invariants=False
        )
        sampled: Tensor = torch.sparse.sampled_addmm(wanted, left, right.T, beta=0.0)
        return sampled.values()
    none = rows.new_zeros(1)  # of no use where the bag of each entry is given
    found: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
        left, right, indices, none, rows, SUM, -1
    )
    return found


@cache
def _warned() -> None:
    """Let torch say once, unheard, that its compressed rows are young; results are tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(none, none[:0], torch.zeros(0), (0, 1), check_invariants=False)


def triton_kernels(where: Tensor) -> ModuleType | None:
    """Return the Triton kernels where they can run on a tensor's device, else None."""
    if not where.is_cuda:
        return None
    try:
        from arrcoc_verify.dictionary.kernels import triton_kernels as kernels
    except ImportError:
        return None
    return kernels
