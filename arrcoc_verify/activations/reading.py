"""Reading an activation store: streamed, memory-mapped, in order or shuffled, and checked.

The layout is told in `arrcoc_verify.activations.layout`.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arrcoc_verify.activations.layout import (
    Damage,
    Example,
    Header,
    Shard,
    StoredSite,
    read_header,
    read_index,
    shard_damage,
    shard_file,
    shard_path,
)
from arrcoc_verify.errors import StoreError, UnknownName, UsageError

OPEN_SHARDS = 32
"""How many shards a reader keeps mapped at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Activations at one site, with the row each came from; `store.rows` tells what a row is."""

    rows: tuple[int, ...]
    values: Shaped[Tensor, "image ..."]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationStore:
    """A store opened for reading; activations stay on the disk until they are asked for.

    Attributes:
        folder: where it lies.
        header: model, sites and plan.
        complete: every planned shard is finished.
        shards: the finished ones, by number.
        torn: damage found in the index when it was opened.
    """

    folder: Path
    header: Header
    complete: bool
    shards: Mapping[int, Shard]
    torn: tuple[Damage, ...] = ()
    _mapped: OrderedDict[int, Any] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def open(cls, folder: Path | str, *, partial: bool = False) -> "ActivationStore":
        """Open a store.

        Args:
            folder: made by `capture`.
            partial: accept one whose capture was cut short; only finished shards are read.

        Raises:
            StoreError: there is none, it is damaged, or it is not complete.
        """
        folder = Path(folder)
        header, status = read_header(folder)
        shards, torn = read_index(folder, header)
        complete = status == "complete" and len(shards) == header.shards
        if not (complete or partial):
            why = f" ({'; '.join(map(str, torn))})" if torn else ""
            raise StoreError(
                f"store {folder} is not complete: {len(shards)} of {header.shards} shards are "
                f"finished{why}; run the same capture again to finish it, or open with partial=True"
            )
        return cls(folder=folder, header=header, complete=complete, shards=shards, torn=tuple(torn))

    @property
    def sites(self) -> dict[str, StoredSite]:
        """What is stored of each example, by name."""
        return {site.name: site for site in self.header.sites}

    @property
    def rows(self) -> dict[int, Example]:
        """What each row was made from, by number; rows of unfinished shards are left out."""
        return {
            row: example
            for number, shard in sorted(self.shards.items())
            for row, example in zip(self.header.rows(number), shard.examples, strict=True)
        }

    def __len__(self) -> int:
        """Number of rows that can be read."""
        return sum(len(shard.examples) for shard in self.shards.values())

    def select(self, roles: Iterable[str] | None = None) -> list[int]:
        """Return the rows of these roles (None: all), in order.

        Raises:
            UnknownName: no row has one of the roles.
        """
        rows = self.rows
        if roles is None:
            return list(rows)
        wanted, known = set(roles), {example.role for example in rows.values()}
        for role in sorted(wanted - known):
            raise UnknownName("role in this store", role, known)
        return [row for row, example in rows.items() if example.role in wanted]

    def iter(
        self,
        site: str,
        *,
        batch_size: int = 256,
        seed: int | None = None,
        roles: Iterable[str] | None = None,
    ) -> Iterator[Batch]:
        """Stream the activations at a site; memory is one batch, whatever the size of the store.

        Args:
            site: name of the site.
            batch_size: rows of a batch; the last may be shorter.
            seed: shuffles all rows; None keeps their order.
            roles: only examples of these roles.
        """
        self._site(site)
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        rows = self.select(roles)
        if seed is not None:
            rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        return (Batch(rows=tuple(part), values=self.read(site, part)) for part in parts)

    def read(self, site: str, rows: Sequence[int] | None = None) -> Shaped[Tensor, "image ..."]:
        """Return the activations of `rows` (None: all) at a site, in the order asked for."""
        stored = self._site(site)
        chosen = self.select() if rows is None else list(rows)
        values = torch.empty((len(chosen), *stored.shape), dtype=getattr(torch, stored.dtype))
        for start, stop in _runs(chosen, self.header.shard_examples):
            number, first = divmod(chosen[start], self.header.shard_examples)
            if number not in self.shards:
                raise StoreError(f"row {chosen[start]} is not in store {self.folder}")
            try:
                held = self._shard(number).get_slice(site)
                values[start:stop] = held[first : first + stop - start]
            except (SafetensorError, OSError) as error:
                raise StoreError(
                    f"cannot read {site!r} from {shard_file(number)} in {self.folder}: {error}; "
                    "verify() tells what is damaged, capturing again mends it"
                ) from error
        return values

    def verify(self) -> list[Damage]:
        """Return everything that is wrong with the store; empty when every checksum is right."""
        found = list(self.torn)
        for number in range(self.header.shards):
            rows = self.header.rows(number)
            span = (rows.start, rows.stop)
            if number in self.shards:
                what = shard_damage(self.folder, self.shards[number])
            else:
                what = "not finished" if not self.complete else "missing from the index"
            found += [Damage(file=shard_file(number), what=what, rows=span)] if what else []
        return found

    def describe(self) -> dict[str, Any]:
        """Return what is inside, as plain data: sites, shapes, examples by role, bytes."""
        rows = self.rows.values()
        return {
            "folder": str(self.folder),
            "complete": self.complete,
            "model": dict(self.header.model),
            "sites": [asdict(site) | {"bytes": site.bytes} for site in self.header.sites],
            "examples": len(self),
            "planned": self.header.examples,
            "roles": dict(sorted(Counter(example.role for example in rows).items())),
            "units": len({example.unit for example in rows}),
            "shards": len(self.shards),
            "shard_examples": self.header.shard_examples,
            "bytes": sum(shard.bytes for shard in self.shards.values()),
            "seed": self.header.seed,
        }

    def _site(self, name: str) -> StoredSite:
        try:
            return self.sites[name]
        except KeyError:
            raise UnknownName("site in this store", name, self.sites) from None

    def _shard(self, number: int) -> Any:
        if number not in self._mapped:
            handle = safe_open(shard_path(self.folder, number), framework="pt")
            while len(self._mapped) >= OPEN_SHARDS:
                self._mapped.popitem(last=False)
            self._mapped[number] = handle
        self._mapped.move_to_end(number)
        return self._mapped[number]


def _runs(rows: Sequence[int], shard_examples: int) -> Iterator[tuple[int, int]]:
    """Return spans of `rows` that follow each other inside one shard, to read at once."""
    cuts = [
        at
        for at, (a, b) in enumerate(pairwise(rows), start=1)
        if b != a + 1 or b % shard_examples == 0
    ]
    return pairwise([0, *cuts, len(rows)]) if rows else iter(())
