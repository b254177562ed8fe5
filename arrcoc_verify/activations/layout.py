"""What lies in an activation store, and how each part says that it is whole.

    store.json                    model, sites, plan, status; sealed by its own checksum
    index.jsonl                   one sealed line for each finished shard, with its checksum
    shards/00000.safetensors      site -> activations of the shard's examples, image first

A shard counts once its line stands in the index, and the line is written after the file, so
whatever was cut short is found and made again. Shards are cut by the order of examples, never by
batches. Format: safetensors, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from arrcoc_verify.errors import StoreError
from arrcoc_verify.provenance import json_digest

FORMAT, SCHEMA = "arrcoc-activations", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSite:
    """A site as it lies in a store: `shape` and `bytes` are those of one example."""

    name: str
    stage: str
    role: str | None
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of one example's activation."""
        itemsize: int = getattr(torch, self.dtype).itemsize
        return math.prod(self.shape) * itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What a row of a store was made from; `image` is the digest of the picture's pixels."""

    name: str
    unit: str
    role: str
    query: str
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a store is: two captures may share a folder only when all of it is equal.

    Attributes:
        model: name, digest, spec and adapter of the model.
        sites: what is stored of each example.
        plan: digest over all examples in order.
        examples: number of rows when complete.
        shard_examples: rows of a shard; the last may be shorter.
        seed: of a model that draws.
    """

    model: Mapping[str, str]
    sites: tuple[StoredSite, ...]
    plan: str
    examples: int
    shard_examples: int
    seed: int

    @property
    def shards(self) -> int:
        """Number of shards when complete."""
        return math.ceil(self.examples / self.shard_examples)

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        start = shard * self.shard_examples
        return range(start, min(start + self.shard_examples, self.examples))

    def differences(self, other: "Header") -> list[str]:
        """Return in words what `other` has differently, this one being what the folder holds."""
        mine, theirs = _plain(self), _plain(other)
        told = []
        for key in ("name", "digest", "spec", "adapter"):
            a, b = self.model.get(key, ""), other.model.get(key, "")
            told += [f"model {key}: {a!r} there, {b!r} now"] if a != b else []
        for key in ("examples", "shard_examples", "seed"):
            told += (
                [f"{key}: {mine[key]} there, {theirs[key]} now"] if mine[key] != theirs[key] else []
            )
        a_sites, b_sites = ({site.name: site for site in one.sites} for one in (self, other))
        for name in sorted({*a_sites, *b_sites}):
            told += _site_difference(name, a_sites.get(name), b_sites.get(name))
        if self.plan != other.plan and self.examples == other.examples:
            told.append("examples: other pictures, queries, names, roles or another order")
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A finished shard as its index line tells it."""

    number: int
    bytes: int
    sha256: str
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is wrong with a store, where, and which rows it costs."""

    file: str
    what: str
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f" (rows {self.rows[0]} to {self.rows[1] - 1})"
        return f"{self.file}{rows}: {self.what}"


def shard_path(folder: Path, number: int) -> Path:
    """Return where a shard lies; made from its number alone, so no name can lead elsewhere."""
    return folder / shard_file(number)


def shard_file(number: int) -> str:
    """Return how a shard's file is called in messages."""
    return f"shards/{number:05d}.safetensors"


def shard_damage(folder: Path, shard: Shard) -> str:
    """Return what is wrong with a shard's file, "" when its bytes are those that were written."""
    path = shard_path(folder, shard.number)
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"{size} bytes, {shard.bytes} were written"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error.strerror or str(error)
    if digest != shard.sha256:
        return f"checksum {digest[:12]} is not that of what was written, {shard.sha256[:12]}"
    return ""


def sealed(data: Mapping[str, Any]) -> bytes:
    """Return data as one line of JSON that carries its own checksum."""
    whole = {**data, "seal": json_digest(data)}
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _unsealed(line: bytes) -> dict[str, Any]:
    """Return the data of a sealed line; ValueError when a byte of it is not as it was written."""
    data = json.loads(line)
    if not isinstance(data, dict) or data.pop("seal", None) != json_digest(data):
        raise ValueError("checksum does not fit")
    return data


def header_line(header: Header, status: str) -> bytes:
    """Return what stands in store.json."""
    return sealed({"format": FORMAT, "schema": SCHEMA, "status": status, **_plain(header)})


def read_header(folder: Path) -> tuple[Header, str]:
    """Return header and status of a store.

    Raises:
        StoreError: none is there, it is damaged, or it is of a newer schema.
    """
    path = folder / "store.json"
    try:
        data = _unsealed(path.read_bytes())
        if (data.pop("format"), data.pop("schema")) != (FORMAT, SCHEMA):
            raise StoreError(f"{path} is of another format or schema; this version reads {SCHEMA}")
        status = data.pop("status")
        sites = [
            StoredSite(**site | {"axes": tuple(site["axes"]), "shape": tuple(site["shape"])})
            for site in data.pop("sites")
        ]
        return Header(sites=tuple(sites), **data), status
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged ({error}): move the folder away and capture again"
        ) from error
    except OSError as error:
        raise StoreError(f"no activation store at {folder}: {error.strerror or error}") from error


def shard_line(shard: Shard) -> bytes:
    """Return a finished shard's line of the index."""
    return sealed(asdict(shard))


def read_index(folder: Path, header: Header) -> tuple[dict[int, Shard], list[Damage]]:
    """Return the finished shards, and what in the index cannot be used."""
    path = folder / "index.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    shards, damage = {}, []
    if lines[-1]:
        damage.append(Damage(file="index.jsonl", what=f"line {len(lines)} is torn"))
    for number, line in enumerate(lines[:-1], start=1):
        try:
            data = _unsealed(line)
            examples = tuple(Example(**one) for one in data.pop("examples"))
            shard = Shard(examples=examples, **data)
            if not 0 <= shard.number < header.shards:
                raise ValueError(f"there is no shard {shard.number}")
            if len(examples) != len(header.rows(shard.number)):
                raise ValueError(f"{len(examples)} examples in shard {shard.number}")
            shards[shard.number] = shard
        except (ValueError, KeyError, TypeError) as error:
            damage.append(Damage(file="index.jsonl", what=f"line {number} is damaged: {error}"))
    return shards, damage


def _plain(header: Header) -> dict[str, Any]:
    return {**asdict(header), "model": dict(header.model)}


def _site_difference(name: str, there: StoredSite | None, now: StoredSite | None) -> list[str]:
    if there is None or now is None:
        return [f"site {name!r}: only {'now' if there is None else 'there'}"]
    keys = ("shape", "dtype", "axes", "role", "stage")
    pairs = [(key, getattr(there, key), getattr(now, key)) for key in keys]
    return [f"site {name!r}: {key} {a} there, {b} now" for key, a, b in pairs if a != b]
