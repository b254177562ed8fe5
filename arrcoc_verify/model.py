"""What can be verified: a model as a graph of steps, with sites that can be read and written.

A model under test maps images and queries to an allocation of visual tokens in the stages knowing,
balancing and attending. An adapter describes it as `Step`s (callables whose inputs are named), and
declares `Site`s in them. Everything else here (capture, interventions, effects) works on that graph
and therefore on any model that can be described so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.verdict import STAGES

ROOTS = ("images", "queries")
"""Inputs of the graph: a list of RGB pictures and a list of texts, of the same length."""

ROLES = (
    "query", "information_features", "salience_features", "query_relevance_features",
    "information", "salience", "query_relevance",
    "tensions", "weights", "mix", "normaliser", "relevance", "balancing_features",
    "reported_weights", "reported_tensions",
    "attending_features", "demand", "multiplier", "lod", "tokens", "membership",
)  # fmt: skip
"""What a site can be to the built-in suite; without it, its claims are not applicable."""

SCORERS = ("information", "salience", "query_relevance")
"""The three scorers of knowing, in the order of the channels of `weights`."""

TENSIONS = ("compress", "exploit", "focus")
"""The three tensions, 1 = compress, exploit, focus and 0 = particularize, explore, diversify."""

BudgetKind = Literal["patch_lod", "tile_lod", "keep_mask", "keep_ratio", "merge_count"]
AXES = ("image", "patch", "row", "column", "channel", "token", "head", "height", "width")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The result of a step, or one entry of it when the step returns a mapping or a sequence."""

    step: str
    key: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleOutput:
    """What a torch module returns while its step runs."""

    step: str
    module: nn.Module
    key: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInput:
    """A positional (int) or keyword (str) argument of a torch module while its step runs."""

    step: str
    module: nn.Module
    key: str | int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionResult:
    """What a plain function returns; it is found in every namespace that imported it by name."""

    step: str
    function: Callable[..., Any]
    key: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tapped:
    """A value that the model's own code passes through `arrcoc_verify.tap.tap(name, value)`."""

    step: str
    name: str


Location = Output | ModuleOutput | ModuleInput | FunctionResult | Tapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A named place where an activation can be read and written.

    Attributes:
        name: `<stage>.<word>`, such as `knowing.information`.
        stage: one of `STAGES`.
        axes: what each axis is, such as `("image", "row", "column")`; `image` comes first.
        at: where the activation is found.
        role: what the built-in suite may take it for, one of `ROLES`.
        channels: names of the channels, if they have names.
        writable: False when replacing it is not meant to reach the output (self-reports).
    """

    name: str
    stage: str
    axes: tuple[str, ...]
    at: Location
    role: str | None = None
    channels: tuple[str, ...] = ()
    writable: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be addressed later."""
        if self.stage not in STAGES:
            raise UnknownName("stage", self.stage, STAGES)
        if self.role is not None and self.role not in ROLES:
            raise UnknownName("role", self.role, ROLES)
        for axis in self.axes:
            if axis not in AXES:
                raise UnknownName("axis", axis, AXES)
        if not self.axes or self.axes[0] != "image":
            raise BadModel(
                f"site {self.name!r}: the first axis must be 'image', got {self.axes}; "
                "move the batch axis to the front in the step that returns it"
            )

    @property
    def per_patch(self) -> bool:
        """Whether the activation has one entry (or vector) per patch."""
        return "patch" in self.axes or {"row", "column"} <= set(self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One callable of the graph.

    Attributes:
        name: unique; also how other steps refer to its result.
        run: called with the inputs in order; returns a tensor, or a mapping or sequence of tensors.
        inputs: names of roots, of steps, or `step.key` for one entry of a step's result.
        transient: its result is large and cheap, so it is not kept in a run's cache.
        pure: it never writes into its inputs; others are given copies.
        lazy: it comes after the allocation and runs only when a site in it is read or written.
    """

    name: str
    run: Callable[..., Any]
    inputs: tuple[str, ...]
    transient: bool = False
    pure: bool = False
    lazy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What an adapter says of its model; conformance tests that it is true.

    Attributes:
        grid: rows and columns of patches.
        image_size: height and width in pixels at which scenes are made for this model.
        budget_kind: what is allocated.
        lod: fewest and most tokens of a patch, or None where there is no level of detail.
        ladder: the only values tokens may take, or None for a curve.
        integer: tokens are whole numbers.
        conserved_total: the sum of tokens is the same for every input.
        total: that sum, if declared.
        deterministic: the same input gives the same bits.
        batch_invariant: an image's result does not depend on its neighbours in the batch.
        query_path: how the query gets in.
        spatial_prior: some places are preferred whatever is there.
        tolerance: largest relative difference that counts as none on continuous readings.
        batch_size: how many images one run may hold; 1 where the batch couples its images.
        relevance_range: ends of the scale of relevance; None when it has none or is not known.
        tension_range: ends of the scale of the tensions.
        lacks: what models of this style have and this one has not, in plain words.
    """

    grid: tuple[int, int]
    image_size: tuple[int, int]
    budget_kind: BudgetKind = "patch_lod"
    lod: tuple[float, float] | None = (64.0, 400.0)
    ladder: tuple[float, ...] | None = None
    integer: bool = True
    conserved_total: bool = False
    total: float | None = None
    deterministic: bool = True
    batch_invariant: bool = True
    query_path: Literal["none", "global", "per_token"] = "global"
    spatial_prior: bool = False
    tolerance: float = 1e-5
    batch_size: int = 16
    relevance_range: tuple[float, float] | None = None
    tension_range: tuple[float, float] = (0.0, 1.0)
    lacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a grid or range that cannot be."""
        if min(self.grid) < 1 or min(self.image_size) < 1 or self.batch_size < 1:
            raise BadModel(
                f"grid, image_size and batch_size must be positive, got {self.grid}, "
                f"{self.image_size}, {self.batch_size}"
            )
        if self.lod is not None and not self.lod[0] <= self.lod[1]:
            raise BadModel(f"lod must be (fewest, most) tokens, got {self.lod}")

    @property
    def patches(self) -> int:
        """Number of patches, N = rows x columns."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimProfile:
    """Which claims this model's author makes, where designs contradict each other.

    Attributes:
        name: shown in the report.
        excluded: claim id -> why its author does not make it; the verdict is `not_applicable`.
        margins: claim id -> margin to use in place of the default, in the claim's unit.
        favours: tension -> scorer whose weight it raises when it goes to 1.
        salience_query_free: the salience scorer must ignore the query.
    """

    name: str = "default"
    excluded: Mapping[str, str] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    favours: Mapping[str, str] = field(default_factory=dict)
    salience_query_free: bool = True

    def __post_init__(self) -> None:
        """Fill in what each tension favours; refuse names that do not exist."""
        default = dict(zip(TENSIONS, SCORERS, strict=True))
        for tension, scorer in self.favours.items():
            if tension not in default:
                raise UnknownName("tension of the profile", tension, default)
            if scorer not in SCORERS:
                raise UnknownName(f"scorer that {tension!r} favours", scorer, SCORERS)
        object.__setattr__(self, "favours", default | dict(self.favours))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a model decided for a batch of images.

    Attributes:
        relevance: `[image, patch]`, continuous, before any discrete step.
        tokens: `[image, patch]`, level of detail; membership as 0 or 1 where there is none.
        membership: `[image, patch]`, True where a patch is kept; all True where every patch is.
    """

    relevance: Tensor
    tokens: Tensor
    membership: Tensor


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model under test: steps, sites, what is declared, and which claims are made for it.

    Attributes:
        name: shown everywhere.
        steps: in an order in which each step comes after those it reads.
        sites: by name.
        declaration: what the adapter says of it.
        profile: which claims are made.
        modules: torch modules behind the steps (training mode, compilation, digest).
        adapter: name of the adapter that made it.
        digest: sha256 over weights and code, or "" when unknown.
        spec: what the user named to load it.
    """

    name: str
    steps: tuple[Step, ...]
    sites: Mapping[str, Site]
    declaration: Declaration
    profile: ClaimProfile = ClaimProfile()
    modules: tuple[nn.Module, ...] = ()
    adapter: str = "callables"
    digest: str = ""
    spec: str = ""

    def __post_init__(self) -> None:
        """Check that the graph is one: known inputs, topological order, sites inside it."""
        seen = self._checked_steps()
        roles = self._checked_sites(seen)
        if "tokens" not in roles and "membership" not in roles:
            raise BadModel(
                f"model {self.name!r} needs a site with role 'tokens' or 'membership': "
                "what it allocates is what is verified"
            )

    def _checked_steps(self) -> set[str]:
        seen: set[str] = set()
        for step in self.steps:
            for source in step.inputs:
                if source.split(".")[0] not in seen | set(ROOTS):
                    raise BadModel(
                        f"step {step.name!r} reads {source!r}, which no earlier step makes; "
                        f"earlier: {', '.join(sorted(seen | set(ROOTS)))}"
                    )
            if step.name in seen or step.name in ROOTS or "." in step.name:
                raise BadModel(f"step name {step.name!r} is taken, a root, or contains a dot")
            seen.add(step.name)
        return seen

    def _checked_sites(self, steps: set[str]) -> dict[str, str]:
        roles: dict[str, str] = {}
        for name, site in self.sites.items():
            if site.at.step not in steps:
                raise UnknownName(f"step of site {name!r}", site.at.step, steps)
            if site.name != name:
                raise BadModel(f"site {site.name!r} is filed under {name!r}")
            if site.role and site.role != "normaliser" and site.role in roles:
                raise BadModel(
                    f"sites {roles[site.role]!r} and {name!r} both have role {site.role!r}"
                )
            if site.role:
                roles[site.role] = name
        return roles

    def site(self, name: str) -> Site:
        """Return the site called `name`.

        Raises:
            UnknownName: there is none; the nearest is suggested.
        """
        try:
            return self.sites[name]
        except KeyError:
            raise UnknownName("site", name, self.sites) from None

    def role(self, role: str) -> Site | None:
        """Return the site that has `role`, or None."""
        return next((site for site in self.sites.values() if site.role == role), None)

    def roles(self, role: str) -> list[Site]:
        """Return every site that has `role` (there may be several normalisers)."""
        return [site for site in self.sites.values() if site.role == role]

    def downstream(self, step: str) -> list[str]:
        """Return the steps that read the result of `step`, directly or not, in order."""
        reached = {step}
        for candidate in self.steps:
            if any(source.split(".")[0] in reached for source in candidate.inputs):
                reached.add(candidate.name)
        return [s.name for s in self.steps if s.name in reached and s.name != step]

    def patch_boxes(self, size: tuple[int, int] | None = None) -> list[tuple[int, int, int, int]]:
        """Return each patch's pixel box (x, y, width, height); `size` is (height, width)."""
        height, width = size or self.declaration.image_size
        rows, columns = self.declaration.grid
        boxes = []
        for row in range(rows):
            top, bottom = round(row * height / rows), round((row + 1) * height / rows)
            for column in range(columns):
                left, right = round(column * width / columns), round((column + 1) * width / columns)
                boxes.append((left, top, right - left, bottom - top))
        return boxes


def patches_last(value: Tensor, site: Site, grid: tuple[int, int]) -> Tensor:
    """Return a per-patch activation as `[image, patch]` or `[image, patch, channel]`.

    Raises:
        BadModel: the site has no patch axis, or its size is not the declared grid.
    """
    axes = list(site.axes)
    if not site.per_patch:
        raise BadModel(f"site {site.name!r} has axes {site.axes}, none of them counts patches")
    if value.ndim != len(axes):
        raise BadModel(
            f"site {site.name!r} declares axes {site.axes}, got shape {tuple(value.shape)}"
        )
    if "patch" not in axes:
        order = [axes.index(a) for a in ("image", "row", "column")]
        rest = [i for i in range(len(axes)) if i not in order]
        value = value.permute(*order, *rest).flatten(1, 2)
    else:
        order = [axes.index(a) for a in ("image", "patch")]
        rest = [i for i in range(len(axes)) if i not in order]
        value = value.permute(*order, *rest)
    if value.shape[1] != math.prod(grid):
        raise BadModel(
            f"site {site.name!r} has {value.shape[1]} patches, the declared grid {grid} has "
            f"{math.prod(grid)}"
        )
    return value.flatten(2) if value.ndim > 3 else value


def spread(where: Tensor, site: Site, grid: tuple[int, int]) -> Tensor:
    """Return a mask `[image, patch]` in a shape that broadcasts against the site's activation."""
    if not site.per_patch:
        raise BadModel(
            f"site {site.name!r} has axes {site.axes}: it has no patches to select; "
            "leave `where` out to write all of it"
        )
    if where.ndim == 1:
        where = where[None]
    if "patch" in site.axes:
        shape = {"image": where.shape[0], "patch": where.shape[1]}
    else:
        where = where.reshape(where.shape[0], *grid)
        shape = {"image": where.shape[0], "row": grid[0], "column": grid[1]}
    return _aligned(where, list(shape), site.axes)


def _aligned(value: Tensor, have: Sequence[str], want: Sequence[str]) -> Tensor:
    order = [have.index(axis) for axis in want if axis in have]
    value = value.permute(*order)
    for position, axis in enumerate(want):
        if axis not in have:
            value = value.unsqueeze(position)
    return value


def along_channel(vector: Tensor, site: Site) -> Tensor:
    """Return a `[channel]` vector in a shape that broadcasts against the site's activation."""
    if "channel" not in site.axes:
        raise BadModel(
            f"site {site.name!r} has axes {site.axes}: it has no channel axis to steer along"
        )
    shape = [1] * len(site.axes)
    shape[site.axes.index("channel")] = vector.shape[0]
    return vector.reshape(shape)


def all_finite(value: Any) -> bool:
    """Return whether every floating tensor inside `value` is finite."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return True
        # One that is not finite shows in the sum, which is several times faster to look at.
        return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(all_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(item) for item in value)
    return True
