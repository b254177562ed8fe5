"""What training asks of its fellow workers; alone, every answer is its own.

Each worker holds every `size`-th sample of a batch. What is a mean over samples is averaged, and
what is chosen over the whole batch is chosen over all workers' samples, so that one worker and
several train the same dictionary up to rounding.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Place among the processes that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def present(cls) -> "Workers":
        """Return this process's place, alone where no process group was set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(rank=dist.get_rank(), size=dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that captures, writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every worker is here."""
        if self.size > 1:
            dist.barrier()

    def part(self, batch: Tensor) -> Tensor:
        """Return this worker's samples of a batch."""
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over workers.

        Its gradient is that of the worker's own value: averaged over workers it is the gradient of
        the mean, also inside functions that are not linear in it.
        """
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return value + (total / self.size - value.detach())

    def any(self, value: Tensor) -> Tensor:
        """Return where any worker has True."""
        if self.size == 1:
            return value
        total = value.to(torch.int32)
        dist.all_reduce(total)
        return total > 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over workers; nothing is differentiated."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def gathered(self, value: Tensor, axis: int) -> Tensor:
        """Return every worker's tensors of one shape, side by side along an axis."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts, axis)

    def given(self, value: Tensor, rank: int) -> Tensor:
        """Return what the worker of a rank holds, of the shape of one's own."""
        if self.size == 1:
            return value
        held = value.detach().clone().contiguous()
        dist.broadcast(held, rank)
        return held

    def average_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over workers."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def same_(self, tensors: list[Tensor]) -> None:
        """Give every worker the first one's tensors."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def cut(self, values: Tensor, keep: int) -> Tensor:
        """Return the `keep`-th largest of all workers' values (of fewer the least)."""
        own = values.flatten().topk(min(keep, values.numel())).values
        if self.size > 1:
            padded = torch.full((keep,), -torch.inf, dtype=own.dtype, device=own.device)
            padded[: own.numel()] = own
            own = self.gathered(padded, 0)
            own = own.topk(min(keep, own.numel())).values
        return own[torch.isfinite(own)].min()


@contextmanager
def joined(device: str = "cpu") -> Iterator[tuple[Workers, str]]:
    """Join the processes that torchrun started, if it did; yields the place and the own device.

    Args:
        device: where it trains; `cuda` becomes each process's own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Workers.present(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Workers.present(), device
    finally:
        dist.destroy_process_group()
