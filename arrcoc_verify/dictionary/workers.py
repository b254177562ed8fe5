"""What training asks of its fellow workers; alone, every answer is its own.

Each worker holds every `size`-th sample of a batch. What is a mean over samples is averaged, and
what is chosen over the whole batch is chosen over all workers' samples, so that one worker and
several train the same dictionary up to rounding.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from arrcoc_verify.errors import ArrcocError, UsageError

PATIENCE = timedelta(days=2)
LOST = ("Connection closed", "Connection reset", "Broken pipe", "timed out", "Timed out")
"""Words of the message of a collective operation whose partner has gone."""


class WorkerLost(ArrcocError):
    """Another process of the same training stopped."""


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
        """Return this worker's samples of a batch, as many as every other's: a rest is left out.

        Raises:
            UsageError: there are fewer samples than workers.
        """
        if self.size == 1:
            return batch
        each = len(batch) // self.size
        if each == 0:
            raise UsageError(f"{self.size} workers cannot share a batch of {len(batch)} samples")
        return batch[: each * self.size][self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over workers.

        Its gradient is that of the worker's own value: averaged over workers it is the gradient of
        the mean, also inside functions that are not linear in it.
        """
        if self.size == 1:
            return value
        return value + (self.sum(value) / self.size - value.detach())

    def any(self, value: Tensor) -> Tensor:
        """Return where any worker has True."""
        return value if self.size == 1 else self.sum(value.to(torch.int32)) > 0

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


def _require_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"cannot use device {device!r}: {error}; try --device cpu") from error


@contextmanager
def joined(device: str = "cpu") -> Iterator[tuple[Workers, str]]:
    """Join the processes that torchrun started, if it did; yields the place and the own device.

    Args:
        device: where it trains; `cuda` becomes each process's own.

    Raises:
        UsageError: nothing can be computed there.
        WorkerLost: another process stopped.
    """
    _require_device(device)
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield Workers.present(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    # Its defaults hold the group for ever if it is first imported, as optimisers do, while there is
    # one: then threads of gloo outlive the interpreter, which aborts them, and the process.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    # The first one captures while the others wait, however long that takes.
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Workers.present(), device
        dist.barrier()  # whoever leaves while another still reads from it takes that one along
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise WorkerLost(
            f"one of the {dist.get_world_size()} processes stopped, so this one cannot go on; "
            f"the other says why ({str(error).splitlines()[0]})"
        ) from error
    finally:
        dist.destroy_process_group()
