"""Writing an activation store: one shard at a time, whole or not at all, going on where it stopped.

The layout is told in `arrcoc_verify.activations.layout`.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from safetensors.torch import save
from torch import Tensor

from arrcoc_verify.activations.layout import (
    Damage,
    Example,
    Header,
    Shard,
    header_line,
    read_header,
    read_index,
    shard_damage,
    shard_file,
    shard_line,
    shard_path,
)
from arrcoc_verify.errors import RecordError, StoreError
from arrcoc_verify.report.atomic import make_folder, write_bytes

PARTIAL = ".writing-"
"""How files that are not finished begin; what a killed capture left of them is cleared away."""


class StoreWriter:
    """A store held for writing, by one process at a time.

    Attributes:
        shards: finished shards, by number; found whole on entering or written since.
        dropped: what was found damaged or torn on entering and will be made again.
    """

    def __init__(self, folder: Path | str, header: Header) -> None:
        self.folder, self.header = Path(folder), header
        self.shards: dict[int, Shard] = {}
        self.dropped: list[Damage] = []
        self._lock = -1

    def __enter__(self) -> "StoreWriter":
        try:
            make_folder(self.folder)
        except RecordError as error:
            raise StoreError(str(error)) from error
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._prepare()
        except BlockingIOError as error:
            self._unlock()
            raise StoreError(
                f"another process writes to {self.folder}: wait for it or take another folder"
            ) from error
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unlock()

    @property
    def missing(self) -> list[int]:
        """Shards that are still to be written, in order."""
        return [number for number in range(self.header.shards) if number not in self.shards]

    def write(self, number: int, values: Mapping[str, Tensor], examples: Sequence[Example]) -> None:
        """Write one shard, then its line of the index.

        Raises:
            StoreError: the disk is full or cannot be written; no half of a shard is left.
        """
        data = save({name: value.contiguous() for name, value in values.items()})
        digest = hashlib.sha256(data).hexdigest()
        shard = Shard(number=number, bytes=len(data), sha256=digest, examples=tuple(examples))
        self._put(shard_path(self.folder, number), data, each=len(data))
        self._append(shard_line(shard), each=len(data))
        self.shards[number] = shard

    def finish(self) -> None:
        """Mark the store complete; its index is put in order if shards were made again."""
        whole = b"".join(shard_line(shard) for _, shard in sorted(self.shards.items()))
        index = self.folder / "index.jsonl"
        if index.read_bytes() != whole:
            self._put(index, whole)
        self._put(self.folder / "store.json", header_line(self.header, "complete"))

    def _prepare(self) -> None:
        store = self.folder / "store.json"
        if store.exists():
            self._resume()
        else:
            strangers = [p.name for p in self.folder.iterdir() if not p.name.startswith(PARTIAL)]
            if strangers:
                raise StoreError(
                    f"{self.folder} holds files that are no activation store "
                    f"({', '.join(sorted(strangers)[:3])}): choose an empty or a new folder"
                )
        for rest in (*self.folder.glob(f"{PARTIAL}*"), *self.folder.glob(f"shards/{PARTIAL}*")):
            rest.unlink()
        if self.missing or not store.exists():
            self._put(store, header_line(self.header, "writing"))
        make_folder(self.folder / "shards")
        whole = b"".join(shard_line(shard) for shard in self.shards.values())
        if self.dropped or not (self.folder / "index.jsonl").exists():
            self._put(self.folder / "index.jsonl", whole)

    def _resume(self) -> None:
        there, _ = read_header(self.folder)
        told = there.differences(self.header)
        if told:
            raise StoreError(
                f"{self.folder} was begun by another capture, so this one cannot go on with it: "
                f"{'; '.join(told)}. Choose another folder, or delete this one"
            )
        shards, self.dropped = read_index(self.folder, self.header)
        for number, shard in shards.items():
            what = shard_damage(self.folder, shard)
            if what:
                rows = self.header.rows(number)
                span = (rows.start, rows.stop)
                self.dropped.append(Damage(file=shard_file(number), what=what, rows=span))
            else:
                self.shards[number] = shard

    def _put(self, path: Path, data: bytes, *, each: int = 0) -> None:
        try:
            write_bytes(path, data)
        except RecordError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error))
            raise self._refused(path, cause, each or len(data)) from error

    def _append(self, line: bytes, *, each: int) -> None:
        path = self.folder / "index.jsonl"
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(before)
                raise self._refused(path, error, each) from error
            except BaseException:  # interrupted: half a line would only have to be dropped later
                file.truncate(before)
                raise

    def _refused(self, path: Path, error: OSError, each: int) -> StoreError:
        left, free = len(self.missing), shutil.disk_usage(self.folder).free
        return StoreError(
            f"cannot write {path}: {error.strerror or error}. This shard needs {_mib(each)}, the "
            f"{left} that are left about {_mib(left * each)}; {_mib(free)} are free there. "
            f"{len(self.shards)} of {self.header.shards} shards are finished and kept: free some "
            "space and run the same capture again"
        )

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)  # lets go of the lock too
            self._lock = -1


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
