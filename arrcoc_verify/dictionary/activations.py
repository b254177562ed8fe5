"""Samples for training from an activation store: bounded memory, a real shuffle, any step at once.

An epoch takes the examples in random order, a pool of them at a time; batches are drawn from all
patches of the pool in random order. What a step sees depends on the seed and its number alone, so
a resumed run sees what an unbroken one would have seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from arrcoc_verify.activations import ActivationStore
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.errors import ShapeMismatch, UsageError

POOL_BYTES = 512 * 2**20
"""Memory that a pool may take."""
HELD = 16_384
"""Held-out samples at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """What is read of each example.

    Attributes:
        inputs: sites that are encoded, side by side (several of a crosscoder).
        target: site that is decoded, of a transcoder.
        query: site that holds the query, of a conditional dictionary.
    """

    inputs: tuple[str, ...]
    target: str | None = None
    query: str | None = None


@dataclass(kw_only=True, eq=False)
class StoreSource:
    """A source of samples; each is one patch of one example.

    Attributes:
        store: where activations lie.
        places: what is read.
        rows: examples to train on.
        held_rows: examples that no batch holds.
        size: samples of a batch.
        seed: of the order.
        pool_bytes: memory that a pool may take.
        scale, target_scale: what activations are multiplied by; set by `fit_scale`.
    """

    store: ActivationStore
    places: Places
    rows: Sequence[int]
    held_rows: Sequence[int]
    size: int = 1024
    seed: int = 0
    pool_bytes: int = POOL_BYTES
    scale: float = 1.0
    target_scale: float = 1.0
    _pool: tuple[tuple[int, int], Samples] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if self.size < 1 or not len(self.rows) or not len(self.held_rows):
            raise UsageError(
                "wanted at least one example to train on, one that is held out and a batch of 1, "
                f"got {len(self.rows)}, {len(self.held_rows)} and {self.size}"
            )

    @cached_property
    def each(self) -> int:
        """Samples of an example."""
        return len(self.read([self.rows[0]]).x)

    @cached_property
    def pool_examples(self) -> int:
        """Examples of a pool: as many as memory allows, at least enough for a batch."""
        one = self.read([self.rows[0]])
        held = sum(v.numel() * 4 for v in (one.x, one.query, one.target) if v is not None)
        least = -(-self.size // self.each)
        return min(len(self.rows), max(least, self.pool_bytes // max(held, 1)))

    def read(self, rows: Sequence[int]) -> Samples:
        """Return the samples of examples, patch after patch, scaled, float32."""
        x = torch.cat([self._site(name, rows) for name in self.places.inputs], dim=-1)
        target = query = None
        if self.places.target is not None:
            target = self._site(self.places.target, rows).flatten(0, 1) * self.target_scale
        if self.places.query is not None:
            asked = self.store.read(self.places.query, rows).float().flatten(1)
            query = asked[:, None, :].expand(-1, x.shape[1], -1).flatten(0, 1)
        return Samples(x=x.flatten(0, 1) * self.scale, query=query, target=target)

    def _site(self, name: str, rows: Sequence[int]) -> Tensor:
        return each_vector(self.store.read(name, rows), self.store.sites[name].axes, name)

    def batch(self, step: int) -> Samples:
        """Return the batch of a step."""
        pools = max(1, len(self.rows) // self.pool_examples)
        each = max(1, self.pool_examples * self.each // self.size)
        epoch, rest = divmod(step, pools * each)
        number, at = divmod(rest, each)
        pool = self._filled(epoch, number)
        part = slice(at * self.size, (at + 1) * self.size)
        return taken(pool, part)

    def _filled(self, epoch: int, number: int) -> Samples:
        if self._pool is None or self._pool[0] != (epoch, number):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**62)
            order = torch.randperm(len(self.rows), generator=generator).tolist()
            first = number * self.pool_examples
            chosen = sorted(self.rows[at] for at in order[first : first + self.pool_examples])
            pool = self.read(chosen)
            generator.manual_seed((self.seed * 1_000_003 + epoch * 8_191 + number) % 2**62)
            shuffle = torch.randperm(len(pool.x), generator=generator)
            self._pool = ((epoch, number), taken(pool, shuffle))
        return self._pool[1]

    def held_out(self) -> Samples:
        """Return held-out samples, drawn from all patches of held-out examples."""
        rows = list(self.held_rows)[: max(1, HELD // self.each) * 4]
        samples = self.read(rows)
        return taken(samples, some_of(len(samples.x)))

    def fit_scale(self, k: float) -> None:
        """Scale activations so that the mean square about the mean is `k`: codes are about 1."""
        first = self.batch(0)
        self.scale *= _size(first.x, k)
        if first.target is not None:
            self.target_scale *= _size(first.target, k)
        self._pool = None


def each_vector(value: Tensor, axes: Sequence[str], name: str) -> Tensor:
    """Return a site's activation as `[image, vector, channel]`, float32: one sample a vector.

    Raises:
        ShapeMismatch: it has no channels.
    """
    if "channel" not in axes:
        raise ShapeMismatch(f"site {name!r} holds one number a patch: there is nothing to code")
    moved = value.float().movedim(axes.index("channel"), -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def some_of(count: int, most: int = HELD) -> Tensor:
    """Return the places of at most so many of `count` samples, drawn, in order.

    A regular step would meet the same columns of every picture.
    """
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


def split(
    store: ActivationStore, every: int = 5, roles: Mapping[str, str] | None = None
) -> tuple[list[int], list[int]]:
    """Return the rows to train on and those to hold out, never with a photograph in both.

    Args:
        store: whose rows.
        every: where roles do not tell, every such photograph is held out.
        roles: role -> "train" or "held"; default train and select. Other rows are left alone.
    """
    told = roles or {"train": "train", "select": "held"}
    rows = store.rows
    found = {kind: [row for row, one in rows.items() if told.get(one.role) == kind]
             for kind in ("train", "held")}  # fmt: skip
    if found["train"] and found["held"]:
        return found["train"], found["held"]
    units = list(dict.fromkeys(one.unit for one in rows.values()))
    if len(units) < 2:
        raise UsageError(
            f"wanted two photographs or more, to hold one out of training; got {len(units)}"
        )
    held = set(units[1 :: min(every, len(units))])
    return (
        [row for row, one in rows.items() if one.unit not in held],
        [row for row, one in rows.items() if one.unit in held],
    )


def _size(x: Tensor, k: float) -> float:
    spread = float((x.double() - x.double().mean(0)).square().sum(1).mean())
    return (k / spread) ** 0.5 if spread > 0 else 1.0


def taken(samples: Samples, at: Tensor | slice) -> Samples:
    """Return some of the samples."""
    return Samples(
        x=samples.x[at],
        query=None if samples.query is None else samples.query[at],
        target=None if samples.target is None else samples.target[at],
    )
