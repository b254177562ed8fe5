"""The primitives as Triton kernels: selecting, sparse times dense, and gathered products.

Sums are in float32 whatever the type of the inputs. No kernel uses atomics, so results are the same
in each run. Without a GPU they run through Triton's interpreter (`TRITON_INTERPRET=1`, set before
this module is imported).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ENTRIES = tl.constexpr(8)
"""Entries whose rows are loaded at once: enough reads under way to hide their latency."""


@triton.jit
def _key(value):
    """Return an int32 that is ordered as the float32 is."""
    bits = value.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _kth(keys, k, LOW: tl.constexpr):
    """Return the k-th largest of some keys, its bits below LOW cleared, by asking bit for bit."""
    enough = tl.sum((keys >= 0).to(tl.int32), 0) >= k
    least = tl.where(enough, 0, -2147483648).to(tl.int32)
    for step in range(31 - LOW):
        trial = least + (1 << (30 - step))
        enough = tl.sum((keys >= trial).to(tl.int32), 0) >= k
        least = tl.where(enough, trial, least).to(tl.int32)
    return least


@triton.jit
def _count(pre, columns, least, lanes, LANES: tl.constexpr):
    """Return how many keys of a row are at least some key."""
    counts = tl.zeros([LANES], tl.int32)
    for start in range(0, columns, LANES):
        at = start + lanes
        value = tl.load(pre + at, mask=at < columns, other=float("-inf")).to(tl.float32)
        counts += ((_key(value) >= least) & (at < columns)).to(tl.int32)
    return tl.sum(counts, 0)


@triton.jit
def _write(
    pre, values, places, columns, least, ties, lanes, CAPACITY: tl.constexpr, LANES: tl.constexpr
):
    """Write the values above a key and the first `ties` equal to it, by column; return how many.

    What finds no room is counted, not written.
    """
    count = tl.sum(tl.zeros([LANES], tl.int32), 0)
    equal = tl.sum(tl.zeros([LANES], tl.int32), 0)
    for start in range(0, columns, LANES):
        at = start + lanes
        value = tl.load(pre + at, mask=at < columns, other=float("-inf")).to(tl.float32)
        key = _key(value)
        keep = (key >= least) & (at < columns)
        if tl.max(keep.to(tl.int32), 0) > 0:
            tied = keep & (key == least)
            keep = keep & (~tied | (equal + tl.cumsum(tied.to(tl.int32), 0) <= ties))
            slot = count + tl.cumsum(keep.to(tl.int32), 0) - 1
            room = keep & (slot < CAPACITY)
            tl.store(values + slot, value, mask=room)
            tl.store(places + slot, at, mask=room)
            count += tl.sum(keep.to(tl.int32), 0)
            equal += tl.sum(tied.to(tl.int32), 0)
    return count


@triton.jit
def _propose(
    pre, values, places, counts, columns, k,
    CAPACITY: tl.constexpr, LANES: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    """Keep the values of a row that can be among its k largest, at most CAPACITY, by column.

    The k-th largest of LANES strided maxima is at most the k-th largest value, and close to it. A
    row with more values above it than there is room for (ties, mostly) finds its k-th value bit by
    bit and takes of those equal to it the first ones.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * columns
    values += row * CAPACITY
    places += row * CAPACITY
    lanes = tl.arange(0, LANES)
    best = tl.full([LANES], float("-inf"), tl.float32)
    for start in range(0, columns, LANES):
        at = start + lanes
        value = tl.load(pre + at, mask=at < columns, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, value)
    least = _kth(_key(best), k, LOW)
    count = _write(pre, values, places, columns, least, columns, lanes, CAPACITY, LANES)
    if count > CAPACITY:
        enough = _count(pre, columns, 0, lanes, LANES) >= k
        least = tl.where(enough, 0, -2147483648).to(tl.int32)
        for step in range(31):
            trial = least + (1 << (30 - step))
            enough = _count(pre, columns, trial, lanes, LANES) >= k
            least = tl.where(enough, trial, least).to(tl.int32)
        ties = k - _count(pre, columns, least + 1, lanes, LANES)
        count = _write(pre, values, places, columns, least, ties, lanes, CAPACITY, LANES)
    tl.store(counts + row, count)


@triton.jit
def _settle(
    proposed, proposed_at, counts, values, indices, k, CAPACITY: tl.constexpr, PART: tl.constexpr
):
    """Write the k largest of a row's proposals in falling order, ties by column."""
    row = tl.program_id(0).to(tl.int64)
    proposed += row * CAPACITY
    proposed_at += row * CAPACITY
    count = tl.load(counts + row)
    slot = tl.arange(0, CAPACITY)
    mine = tl.load(proposed + slot, mask=slot < count, other=float("-inf"))
    column = tl.load(proposed_at + slot, mask=slot < count, other=0)
    rank = tl.zeros([CAPACITY], tl.int32)
    for start in range(0, CAPACITY, PART):
        other = start + tl.arange(0, PART)
        value = tl.load(proposed + other, mask=other < count, other=float("-inf"))
        before = (value[None, :] > mine[:, None]) | (
            (value[None, :] == mine[:, None]) & (other[None, :] < slot[:, None])
        )
        rank += tl.sum((before & (other < count)[None, :]).to(tl.int32), 1)
    keep = (slot < count) & (rank < k)
    tl.store(values + row * k + rank, mine.to(values.dtype.element_ty), mask=keep)
    tl.store(indices + row * k + rank, column.to(tl.int64), mask=keep)


@triton.jit
def _bag_sum(
    values, indices, offsets, table, out, channels, BLOCK: tl.constexpr, ENTRIES: tl.constexpr
):
    """Add up one bag's rows of the table, each times its weight, for a block of channels."""
    bag = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    begin, end = tl.load(offsets + bag), tl.load(offsets + bag + 1)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        live = entry < end
        weight = tl.load(values + entry, mask=live, other=0.0).to(tl.float32)
        row = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
        where = table + row[:, None] * channels + channel[None, :]
        rows = tl.load(where, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * rows, 0)
    tl.store(out + bag * channels + channel, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _bag_dot(
    left, rows, right, indices, out, entries, channels, BLOCK: tl.constexpr, ENTRIES: tl.constexpr
):
    """Multiply the two rows that each of some entries names."""
    entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    live = entry < entries
    one = tl.load(rows + entry, mask=live, other=0).to(tl.int64)
    other = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
    total = tl.zeros([ENTRIES], tl.float32)
    for start in range(0, channels, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        mask = live[:, None] & (channel < channels)[None, :]
        at_one = left + one[:, None] * channels + channel[None, :]
        at_other = right + other[:, None] * channels + channel[None, :]
        first = tl.load(at_one, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(at_other, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(first * second, 1)
    tl.store(out + entry, total.to(out.dtype.element_ty), mask=live)


def row_largest(pre: Tensor, k: int, *, lanes: int = 1024, warps: int = 4) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row in falling order, and their columns; ties by column.

    Args:
        pre: `[row, column]`, float32 or bfloat16.
        k: at most the number of columns.
        lanes: values read at a time, a power of 2; raised where k needs more.
        warps: of a program that searches one row.
    """
    pre = pre.contiguous()
    rows, columns = pre.shape
    capacity = max(64, triton.next_power_of_2(2 * k))
    lanes = max(lanes, triton.next_power_of_2(8 * k))
    proposed = pre.new_empty(rows, capacity, dtype=torch.float32)
    places = pre.new_empty(rows, capacity, dtype=torch.int32)
    counts = pre.new_empty(rows, dtype=torch.int32)
    values = pre.new_empty(rows, k)
    indices = pre.new_empty(rows, k, dtype=torch.int64)
    low = 16 if pre.dtype == torch.bfloat16 else 0
    _propose[(rows,)](
        pre, proposed, places, counts, columns, k, CAPACITY=capacity, LANES=lanes, LOW=low,
        num_warps=warps,
    )  # fmt: skip
    _settle[(rows,)](
        proposed, places, counts, values, indices, k, CAPACITY=capacity, PART=min(capacity, 64),
        num_warps=4,
    )  # fmt: skip
    return values, indices


def bag_sum(values: Tensor, indices: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """Return weighted sums of a table's rows, `[bag, channel]`; see `primitives.bag_sum`."""
    bags, table = offsets.shape[0] - 1, table.contiguous()
    channels = table.shape[1]
    out = table.new_empty(bags, channels)
    block = min(1024, triton.next_power_of_2(channels))
    grid = (bags, triton.cdiv(channels, block))
    _bag_sum[grid](
        values, indices, offsets, table, out, channels, BLOCK=block, ENTRIES=ENTRIES, num_warps=4
    )
    return out


def bag_dot(left: Tensor, rows: Tensor, right: Tensor, indices: Tensor) -> Tensor:
    """Return products of named rows, `[entry]`; see `primitives.bag_dot`."""
    left, right = left.contiguous(), right.contiguous()
    entries, channels = rows.shape[0], left.shape[1]
    out = left.new_empty(entries)
    block = min(256, triton.next_power_of_2(channels))
    _bag_dot[(triton.cdiv(entries, 16),)](
        left, rows, right, indices, out, entries, channels, BLOCK=block, ENTRIES=16, num_warps=4
    )
    return out
