"""A repair as data: small edits of a model, saved as safetensors, applied and taken back exactly.

An applied patch wraps the model's steps and touches no weight; to take it back is to use the model
that it was applied to. Edits of named weights are written in place and remember the old bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from arrcoc_verify.debug import derive, likeness
from arrcoc_verify.debug.bench import flat_map, native
from arrcoc_verify.debug.pictures import OPERATIONS
from arrcoc_verify.debug.places import moved
from arrcoc_verify.debug.rewrite import with_pictures, with_queries, with_write
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.model import Model, Site, Step, along_channel, spread
from arrcoc_verify.reference.allocator import whole_tokens
from arrcoc_verify.report.atomic import make_folder, write_bytes

FORMAT = "arrcoc-verify.repair.1"
ENTRY = "repair"
"""Of the file's metadata, that holds form, edits and record as JSON."""
KINDS = ("affine", "curve", "power", "tilt", "bias", "permute", "rank_one", "derive", "alike",
         "place", "picture", "query", "weight")  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchEdit:
    """One edit.

    Attributes:
        kind: one of `KINDS`.
        target: site's name; `images`, `queries` or a weight's name for the last three kinds.
        tensors: numbers of the edit, by name.
        words: texts of the edit, by name.
        said: in plain words.
    """

    kind: str
    target: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    said: str = ""

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist."""
        if self.kind not in KINDS:
            raise UnknownName("kind of edit", self.kind, KINDS)

    @property
    def numbers(self) -> int:
        """How many numbers the edit has: smaller is more surgical."""
        return sum(t.numel() for name, t in self.tensors.items() if name != "mask")


def applied(model: Model, edits: Sequence[PatchEdit]) -> Model:
    """Return the model with edits of sites, pictures, queries and weights.

    The given one is unchanged: a weight is edited while a step runs, and put back to the byte.

    Raises:
        UnknownName: an edit's target does not exist.
    """
    made = model
    for edit in edits:
        if edit.kind == "picture":
            made = with_pictures(made, OPERATIONS[edit.words["operation"]])
        elif edit.kind == "query":
            made = with_queries(made, _worded(edit.words))
        elif edit.kind in ("derive", "alike"):
            names = edit.words["inputs"].split("|")
            site = model.site(edit.target)
            writes = derive.writer if edit.kind == "derive" else likeness.writer
            write = _inside(writes(model, site, edit.words, edit.tensors), site, model, edit)
            made = with_write(made, edit.target, write, *derive.sources(model, names))
        elif edit.kind == "place":
            move = partial(
                moved, site=model.site(edit.target), grid=model.declaration.grid,
                name=edit.words["operation"],
            )  # fmt: skip
            made = with_write(made, edit.target, move)
        elif edit.kind == "weight":
            made = _with_weight(made, edit)
        else:
            site = model.site(edit.target)
            made = with_write(made, edit.target, _inside(writer(edit, site), site, model, edit))
    if made is model:
        return model
    digest = hashlib.sha256((model.digest + fingerprint(edits)).encode()).hexdigest()
    return replace(made, name=f"{model.name} repaired", digest=f"sha256:{digest}")


def _with_weight(model: Model, edit: PatchEdit) -> Model:
    """Return the model with a weight edited in the step that is named, or in every step."""
    named_weight(model, edit.target)
    only = edit.words.get("step")

    def edited(step: Step) -> Step:
        def run(*values: Any) -> Any:
            with weights_edited(model, [edit]):
                return step.run(*values)

        return replace(step, run=run)

    steps = [edited(one) if only in (None, one.name) else one for one in model.steps]
    return replace(model, steps=tuple(steps))


def _inside(
    write: Callable[..., Tensor], site: Site, model: Model, edit: PatchEdit
) -> Callable[..., Tensor]:
    """Keep an edit in its patches, and tokens what the model declares of them."""
    declared = model.declaration
    if "mask" in edit.tensors:
        where = spread(edit.tensors["mask"].bool()[None], site, declared.grid)
        everywhere = write
        write = lambda old, *values: torch.where(where, everywhere(old, *values), old)  # noqa: E731
    if site.role != "tokens" or declared.lod is None:
        return write
    low, high = declared.lod

    def kept(old: Tensor, *values: Any) -> Tensor:
        new = write(old, *values).clamp(low, high)
        if not declared.integer:
            return new
        return native(whole_tokens(flat_map(new, site, declared.grid)), site, new, declared.grid)

    return kept


def _worded(words: Mapping[str, str]) -> Callable[[str], str]:
    old, new = words["from"], words["to"]
    return lambda text: text.replace(old, new)


def writer(edit: PatchEdit, site: Site) -> Callable[[Tensor], Tensor]:
    """Return the function of an edit on a site's activation."""
    t = edit.tensors
    if edit.kind == "affine":
        return lambda x: (x.double() * t["gain"] + t["bias"]).to(x.dtype)
    if edit.kind == "power":
        return lambda x: (t["scale"] * x.double().clamp(min=0) ** t["exponent"]).to(x.dtype)
    if edit.kind == "curve":
        return lambda x: interpolated(x, t["x"], t["y"])
    if edit.kind == "permute":
        axis = site.axes.index("channel")
        return lambda x: x.index_select(axis, t["order"].to(x.device))
    if edit.kind == "bias":
        return lambda x: _clamped(x, along_channel(t["bias"], site), t)
    if edit.kind == "tilt":
        return lambda x: _tilted(x, t["log"], site)
    return lambda x: _rank_one(x, t, site)


def _clamped(x: Tensor, push: Tensor, t: Mapping[str, Tensor]) -> Tensor:
    return (x.double() + push).clamp(min=float(t["low"]), max=float(t["high"])).to(x.dtype)


def _tilted(x: Tensor, log: Tensor, site: Site) -> Tensor:
    """Weights times exp(log), brought back to the sum that they had."""
    axis = site.axes.index("channel")
    raised = x.double() * along_channel(log.exp(), site)
    total = raised.sum(axis, keepdim=True)
    return (raised / torch.where(total != 0, total, 1) * x.double().sum(axis, keepdim=True)).to(
        x.dtype
    )


def _rank_one(x: Tensor, t: Mapping[str, Tensor], site: Site) -> Tensor:
    """Return x + max(0, (x - centre) k / |k|^2 - least) / (1 - least) delta."""
    axis = site.axes.index("channel")
    moved = x.double().movedim(axis, -1)
    match = (moved - t["centre"]) @ t["key"] / t["key"].square().sum()
    gate = ((match - t["least"]) / (1 - t["least"])).clamp(min=0)
    return (moved + gate[..., None] * t["delta"]).movedim(-1, axis).to(x.dtype)


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Return a piecewise linear curve at `x`; beyond the knots the last piece goes on."""
    flat = x.double()
    place = torch.searchsorted(knots, flat.contiguous()).clamp(1, len(knots) - 1)
    left, right = knots[place - 1], knots[place]
    share = (flat - left) / (right - left)
    return (values[place - 1] + share * (values[place] - values[place - 1])).to(x.dtype)


@contextmanager
def weights_edited(model: Model, edits: Sequence[PatchEdit]) -> Iterator[None]:
    """Write edits of named weights in place, and put the old bytes back at the end."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for edit in edits:
                if edit.kind == "weight":
                    weight = named_weight(model, edit.target)
                    kept.append((weight, weight.detach().clone()))
                    change = torch.outer(edit.tensors["delta"], edit.tensors["key"])
                    weight += change.reshape(weight.shape).to(weight)
        yield
    finally:
        with torch.no_grad():
            for weight, old in reversed(kept):
                weight.copy_(old)


def named_weight(model: Model, name: str) -> Tensor:
    """Return the parameter called `<place of its module>.<name>` among the model's modules."""
    known = {
        f"{place}.{key}": value
        for place, module in enumerate(model.modules)
        for key, value in module.named_parameters()
    }
    if name not in known:
        raise UnknownName("weight", name, known)
    return known[name]


def fingerprint(edits: Sequence[PatchEdit]) -> str:
    """Return a digest over everything in the edits."""
    return hashlib.sha256(to_bytes(edits, {})).hexdigest()


def to_bytes(edits: Sequence[PatchEdit], record: Mapping[str, Any]) -> bytes:
    """Return edits and a record of what they were tried on as safetensors."""
    tensors = {
        f"{place}.{name}": value.contiguous()
        for place, edit in enumerate(edits)
        for name, value in edit.tensors.items()
    }
    listed = [
        {"kind": e.kind, "target": e.target, "words": dict(e.words), "said": e.said} for e in edits
    ]
    about = {"format": FORMAT, "edits": listed, "record": record}
    # One entry only: safetensors writes several in an order that changes from call to call.
    return save(tensors or {"none": torch.zeros(1)}, {ENTRY: json.dumps(about, sort_keys=True)})


def save_patch(path: Path, edits: Sequence[PatchEdit], record: Mapping[str, Any]) -> None:
    """Write a patch, whole or not at all."""
    make_folder(path.resolve().parent)
    write_bytes(path, to_bytes(edits, record))


def load_patch(path: Path) -> tuple[list[PatchEdit], dict[str, Any]]:
    """Return the edits and the record of a saved patch.

    Raises:
        BadModel: the file is no patch.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
        tensors = load(path.read_bytes())
        if about.get("format") != FORMAT:
            raise BadModel(f"wanted a repair of the form {FORMAT} in {path}, got another file")
        edits = [
            PatchEdit(
                kind=one["kind"], target=one["target"], words=one["words"], said=one["said"],
                tensors={
                    name.partition(".")[2]: value
                    for name, value in tensors.items()
                    if name.partition(".")[0] == str(place)
                },
            )
            for place, one in enumerate(about["edits"])
        ]  # fmt: skip
        return edits, about["record"]
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadModel(
            f"wanted a repair saved by arrcoc-verify repair in {path}: {error}"
        ) from error
