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
from arrcoc_verify.model import ClaimProfile, Location, Model
from arrcoc_verify.reference.backbones import open_clip_towers, timm_tower, towers, transformers_vlm
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.trained import assembly, graph
from arrcoc_verify.reference.trained.assembly import Allocator
from arrcoc_verify.reference.trained.realising import GRID

SHARED = ("information.", "salience.", "superposition.", "curve.", "head.")
"""Parts of the allocator that see pixels or scores only, whatever the backbone is."""
NEARNESS = 20.0
"""Scale of the similarity of patch and query, which seldom reaches 0.3."""

_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "timm": (("name", "weights"), ("text", "size", "arguments")),
    "open_clip": (("name", "weights"), ("tokenizer",)),
    "transformers": (("folder",), ("size",)),
}
"""Kind of backbone -> keys it needs, keys it may have."""
_TEXT = (lambda v: isinstance(v, str) and bool(v), "text")
_COLOUR = (
    lambda v: isinstance(v, list) and len(v) == 3
    and all(isinstance(one, int | float) and not isinstance(one, bool) for one in v),
    "three numbers",
)  # fmt: skip
_WANTED: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("kind", "name", "weights", "text", "folder", "tokenizer", "allocator"), _TEXT),
    "size": (lambda v: type(v) is int and 32 <= v <= 4096, "a whole number of pixels, 32 to 4096"),
    "seed": (lambda v: type(v) is int and 0 <= v < 2**63, "a whole number"),
    "mean": _COLOUR,
    "std": _COLOUR,
    "arguments": (lambda v: isinstance(v, dict), "a table"),
}
"""Key of [backbone] -> whether a value fits, and what was wanted."""


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
    parts = [
        provenance.folder_digest(Path(__file__).parent.parent), digest_of(held, []),
        backbone.identity, provenance.packages(("timm", "open_clip_torch", "transformers")),
    ]  # fmt: skip
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
    given: dict[str, Tensor] = {}

    def ran() -> None:
        given["patches"] = backbone.patches(towers.two_glances())
        given["query"] = backbone.query(["one", "two"])

    met = towers.shapes(backbone.sites, ran)
    wanted = {"patches": (2, GRID**2, backbone.channels), "query": (2, backbone.embed)}
    for what, shape in wanted.items():
        if tuple(given[what].shape) != shape:
            raise BadModel(f"the backbone's {what} are {tuple(given[what].shape)}, wanted {shape}")
    for name, found in met.items():
        if len(found) != 1 or found[0] is None or found[0][0] != 2:
            raise BadModel(
                f"site {name!r} of the backbone must meet one tensor a run, its first axis the "
                f"image; it met {found}"
            )
    return {name: (_names(met[name][0]), at) for name, at in backbone.sites.items()}


def _names(shape: torch.Size) -> tuple[str, ...]:
    if len(shape) == 3:
        return ("image", "token", "channel")
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return ("image", "height", "width", "channel")
    if len(shape) == 4:
        return ("image", "channel", "height", "width")
    raise BadModel(f"wanted 3 or 4 axes at a site of the backbone, got {tuple(shape)}")


def _checked(table: Mapping[str, Any], kind: str) -> None:
    needed, may = _KEYS[kind]
    known = ("kind", *needed, *may, "mean", "std", "allocator", "seed")
    for key, value in table.items():
        if key not in known:
            raise UnknownName(f"key of [backbone] for {kind}", key, known)
        fits, wanted = _WANTED[key]
        if not fits(value):
            raise BadModel(f"`{key}` of [backbone] must be {wanted}, got {value!r}")
    for key in needed:
        if key not in table:
            raise BadModel(f"[backbone] of kind {kind!r} needs `{key}`")


def read(table: Mapping[str, Any], folder: Path, name: str = "backbone") -> Model:
    """Return the model of a `[backbone]` table; files lie in `folder`.

    Raises:
        BadModel: a key is missing or of the wrong kind, a file is missing or does not fit.
        UnknownName: no such key or kind.
    """
    kind = str(table.get("kind"))
    if kind not in _KEYS:
        raise UnknownName("kind of backbone", kind, _KEYS)
    _checked(table, kind)
    paths = {
        key: inside(table[key], folder, is_folder=key in ("text", "folder", "tokenizer"))
        for key in ("weights", "text", "folder", "tokenizer", "allocator")
        if key in table
    }
    more = {key: table[key] for key in ("size", "arguments", "mean", "std") if key in table}
    if kind == "timm":
        made = timm_tower.build(table["name"], paths["weights"], text=paths.get("text"), **more)
    elif kind == "open_clip":
        made = open_clip_towers.build(
            table["name"], paths["weights"], folder=folder, tokenizer=paths.get("tokenizer"), **more
        )
    else:
        made = transformers_vlm.build(paths["folder"], **more)
    return model(made, name=name, allocator=paths.get("allocator"), seed=table.get("seed", 0))
