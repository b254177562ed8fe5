"""A backbone and the allocator together, as a model under test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify import provenance
from arrcoc_verify.adapters.locate import inside
from arrcoc_verify.adapters.modules import digest_of
from arrcoc_verify.adapters.weights import fill, load_weights
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.model import ClaimProfile, Location, Model, ModuleInput
from arrcoc_verify.reference.backbones import open_clip_towers, timm_tower, transformers_vlm
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.trained import assembly, graph
from arrcoc_verify.reference.trained.assembly import Allocator
from arrcoc_verify.reference.trained.realising import GLANCE

SHARED = ("information.", "salience.", "superposition.", "curve.", "head.")
"""Parts of the allocator that see pixels or scores only, whatever the backbone is."""
NEARNESS = 20.0
"""Scale of the similarity of patch and query, which seldom reaches 0.3."""

_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "timm": (("name", "weights"), ("text", "size", "arguments")),
    "open_clip": (("name", "weights"), ()),
    "transformers": (("folder",), ("size",)),
}
"""Kind of backbone -> keys it needs, keys it may have."""


class Fitted(Allocator):
    """Scorers, balancer, curve and task head, sized for one backbone; `seed` starts the rest."""

    def __init__(self, backbone: Backbone, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(backbone.channels, backbone.embed)
            self.meeting = (
                nn.Linear(backbone.channels, backbone.embed) if backbone.met is None else None
            )
        self._given = (backbone.met,)  # in a tuple: its weights are the backbone's, not ours
        shipped = load_weights(assembly.shipped())
        self.load_state_dict(
            {k: v.float() for k, v in shipped.items() if k.startswith(SHARED)}, strict=False
        )
        self._start_from_similarity()

    @torch.no_grad()
    def _start_from_similarity(self) -> None:
        """Make query relevance the nearness of patch and query until it is trained."""
        part = self.query_relevance
        for layer in (part.meeting, part.couple):
            layer.weight.zero_()
        part.couple.bias.zero_()

    def met(self, patches: Tensor) -> Tensor:
        """Return patches in the space of queries, unit length, `[image, patch, embed]`."""
        made: Any = self.meeting or self._given[0]
        return F.normalize(made(patches), dim=2)

    def evidence(self, met: Tensor, query: Tensor) -> Tensor:
        """Return `[image, patch]`: how near a patch is to the query, 0 where they turn away."""
        return NEARNESS * torch.einsum("bne,be->bn", met, query).clamp(min=0)


def model(
    backbone: Backbone, *, name: str = "backbone", allocator: Path | None = None, seed: int = 0
) -> Model:
    """Return a model under test: the backbone, and the reference model's way of allocating.

    Args:
        backbone: from `timm`, `open_clip` or `transformers`, or made by hand.
        name: shown everywhere.
        allocator: weights of `Fitted`; None leaves what is not shipped as it starts.
        seed: of what starts at random.

    Raises:
        BadModel: the weights do not fit, or the backbone gives other shapes than it says.
    """
    net = Fitted(backbone, seed)
    if allocator is not None:
        fill(net, allocator)
    net.eval().requires_grad_(False)
    backbone.module.eval().requires_grad_(False)

    def query(queries: list[str]) -> Tensor:
        return F.normalize(backbone.query(queries), dim=1)

    meeting: Any = (
        ("met", net.met, ("patches",), {}),
        ("query", query, ("queries",), {}),
        ("evidence", net.evidence, ("met", "query"), {}),
    )
    seen = _axes(backbone)
    held = (net, backbone.module)
    parts = [provenance.folder_digest(Path(__file__).parent.parent), digest_of(held, [])]
    return Model(
        name=name,
        steps=graph.steps(net, backbone.patches, meeting),
        sites=graph.sites({**seen, **graph.inner(net)}),
        declaration=graph.declaration(),
        profile=ClaimProfile(name=name),
        modules=held,
        adapter="backbone",
        digest=provenance.json_digest(parts),
    )


def _axes(backbone: Backbone) -> dict[str, tuple[tuple[str, ...], Location]]:
    """Return the backbone's sites with what each axis is, as a run of it tells."""
    shapes: dict[str, torch.Size] = {}
    handles = [_watch(name, at, shapes) for name, at in backbone.sites.items()]
    try:
        with torch.no_grad():
            patches = backbone.patches(torch.rand(2, 3, GLANCE, GLANCE))
            query = backbone.query(["one", "two"])
    finally:
        for handle in handles:
            handle.remove()
    for what, found, wanted in (
        ("patches", patches.shape, (2, 256, backbone.channels)),
        ("query", query.shape, (2, backbone.embed)),
    ):
        if tuple(found) != wanted:
            raise BadModel(f"the backbone's {what} are {tuple(found)}, wanted {wanted}")
    if lost := backbone.sites.keys() - shapes.keys():
        raise BadModel(f"the backbone never runs what these sites name: {', '.join(sorted(lost))}")
    return {name: (_names(shapes[name]), at) for name, at in backbone.sites.items()}


def _watch(name: str, at: Location, shapes: dict[str, torch.Size]) -> Any:
    place: Any = at

    def entered(_: nn.Module, args: tuple[Any, ...]) -> None:
        shapes[name] = args[0].shape

    def left(_: nn.Module, __: Any, out: Any) -> None:
        shapes[name] = (out[0] if isinstance(out, tuple) else out).shape

    if isinstance(at, ModuleInput):
        return place.module.register_forward_pre_hook(entered)
    return place.module.register_forward_hook(left)


def _names(shape: torch.Size) -> tuple[str, ...]:
    if len(shape) == 3:
        return ("image", "token", "channel")
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return ("image", "height", "width", "channel")
    if len(shape) == 4:
        return ("image", "channel", "height", "width")
    raise BadModel(f"wanted 3 or 4 axes at a site of the backbone, got {tuple(shape)}")


def read(table: Mapping[str, Any], folder: Path, name: str = "backbone") -> Model:
    """Return the model of a `[backbone]` table; files lie in `folder`.

    Raises:
        BadModel: a key is missing or of the wrong kind, a file is missing or does not fit.
        UnknownName: no such key or kind.
    """
    kind = table.get("kind")
    if kind not in _KEYS:
        raise UnknownName("kind of backbone", str(kind), _KEYS)
    needed, may = _KEYS[kind]
    known = ("kind", *needed, *may, "allocator", "seed")
    for key in table:
        if key not in known:
            raise UnknownName(f"key of [backbone] for {kind}", key, known)
    for key in needed:
        if not isinstance(table.get(key), str):
            raise BadModel(f"[backbone] of kind {kind!r} needs `{key}` as text")
    paths = {
        key: inside(table[key], folder, is_folder=key in ("text", "folder"))
        for key in ("weights", "text", "folder", "allocator")
        if key in table
    }
    more = {key: table[key] for key in ("size", "arguments") if key in table}
    if kind == "timm":
        made = timm_tower.build(table["name"], paths["weights"], text=paths.get("text"), **more)
    elif kind == "open_clip":
        made = open_clip_towers.build(table["name"], paths["weights"], folder=folder)
    else:
        made = transformers_vlm.build(paths["folder"], **more)
    return model(made, name=name, allocator=paths.get("allocator"), seed=int(table.get("seed", 0)))
