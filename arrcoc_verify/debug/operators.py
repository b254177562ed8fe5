"""Ways to plant a failure into any model, by what its sites are to the suite, with known cause.

Each operator takes a sound model and a case and returns a broken model, or None where the model has
no such part. `here` means the region's own patches: the fault lies there in every picture, and
regions elsewhere are served as before. Strengths are stated, not tuned to a case.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.debug.bench import flat_map, native
from arrcoc_verify.debug.case import Case
from arrcoc_verify.debug.parts import channels, favoured
from arrcoc_verify.debug.pictures import OPERATIONS
from arrcoc_verify.debug.rewrite import with_pictures, with_queries, with_write
from arrcoc_verify.debug.upstream import NOTHING
from arrcoc_verify.model import SCORERS, Model, Site, spread

Make = Callable[[Model, Case], Model | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One way to plant a failure.

    Attributes:
        name: unique.
        code: its cause.
        make: sound model and case to broken model; None where it does not apply.
        picture: changes the case's picture in place of the model, or None.
    """

    name: str
    code: str
    make: Make
    picture: Callable[[Case, tuple[int, int]], Image.Image] | None = None


def _at(role: str, change: Callable[[Tensor, Site, Case, Model], Tensor]) -> Make:
    def make(model: Model, case: Case) -> Model | None:
        site = model.role(role)
        if site is None or not site.writable:
            return None
        return with_write(model, site.name, lambda value: change(value, site, case, model))

    return make


def _here(site: Site, case: Case, model: Model) -> Tensor:
    return spread(case.cells[None], site, model.declaration.grid)


def scaled_here(role: str, factor: float) -> Make:
    """The map is scaled in the region's patches."""
    return _at(
        role,
        lambda value, site, case, model: torch.where(
            _here(site, case, model), value * factor, value
        ),
    )


def scaled(role: str, factor: float) -> Make:
    """The map is scaled everywhere."""
    return _at(role, lambda value, site, case, model: value * factor)


def levelled(role: str) -> Make:
    """The map is its mean over each picture, everywhere."""

    def change(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        axes = tuple(range(1, value.ndim))
        return value.mean(axes, keepdim=True).expand_as(value).clone()

    return _at(role, change)


def turned(role: str) -> Make:
    """The map has its sign turned, inside its range."""

    def change(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        axes = tuple(range(1, value.ndim))
        return value.amin(axes, keepdim=True) + value.amax(axes, keepdim=True) - value

    return _at(role, change)


def _on_patches(role: str, change: Callable[[Tensor, Case, tuple[int, int]], Tensor]) -> Make:
    """Change a map `[image, patch]` in whatever layout its site has."""

    def inner(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        grid = model.declaration.grid
        return native(change(flat_map(value, site, grid), case, grid), site, value, grid)

    return _at(role, inner)


def rolled(role: str) -> Make:
    """The map is moved by half the picture, down and across."""

    def change(flat: Tensor, case: Case, grid: tuple[int, int]) -> Tensor:
        plane = flat.reshape(-1, *grid)
        return plane.roll((grid[0] // 2, grid[1] // 2), (1, 2)).flatten(1)

    return _on_patches(role, change)


def _elsewhere(case: Case, grid: tuple[int, int]) -> Tensor:
    """Return a frame of patches along the border that the region does not touch, `[patch]`."""
    frame = torch.zeros(grid, dtype=torch.bool)
    wide = max(1, min(grid) // 8)
    frame[:wide], frame[-wide:], frame[:, :wide], frame[:, -wide:] = True, True, True, True
    return frame.flatten() & ~case.cells


def framed(role: str, amount: float) -> Make:
    """The border of every picture scores, whatever is there: `amount` of the map's maximum more."""

    def change(flat: Tensor, case: Case, grid: tuple[int, int]) -> Tensor:
        top = flat.amax(1, keepdim=True).clamp(min=0.1)
        return flat + amount * top * _elsewhere(case, grid)

    return _on_patches(role, change)


def blurred(role: str, size: int) -> Make:
    """The map is averaged over neighbouring patches."""

    def change(flat: Tensor, case: Case, grid: tuple[int, int]) -> Tensor:
        plane, half = flat.reshape(-1, 1, *grid), size // 2
        padded = torch.nn.functional.pad(plane, (half,) * 4, mode="replicate")
        return torch.nn.functional.avg_pool2d(padded, size, stride=1).flatten(1)

    return _on_patches(role, change)


def power(role: str, exponent: float) -> Make:
    """The map is raised to a power, everywhere."""
    return _at(
        role,
        lambda value, site, case, model: (value.double().clamp(min=0) ** exponent).to(value.dtype),
    )


def capped(role: str, share: float) -> Make:
    """Tokens end at so large a share of the way from the fewest to the most."""

    def change(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        low, high = model.declaration.lod or (0.0, 1.0)
        return value.clamp(max=low + share * (high - low))

    return _at(role, change)


def weight_of_asked(factor: float) -> Make:
    """The weight of query relevance is scaled; the others take what it loses."""

    def change(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        axis = site.axes.index("channel")
        columns = channels(model, "weights", SCORERS, value.shape[axis])
        if columns is None:
            return value
        place, total = columns["query_relevance"], value.sum(axis, keepdim=True)
        kept = torch.ones(value.shape[axis], dtype=value.dtype)
        kept[place] = factor
        shape = [1] * value.ndim
        shape[axis] = -1
        made = value * kept.reshape(shape)
        return made / made.sum(axis, keepdim=True) * total

    return _at("weights", change)


def weights_rolled(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
    """The weights are wired to the wrong scorers."""
    return value.roll(1, site.axes.index("channel"))


def weights_even(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
    """All weights are the same, always."""
    return value.mean(site.axes.index("channel"), keepdim=True).expand_as(value).clone()


def tension_down(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
    """The tension that favours query relevance lies at its lower end."""
    axis = site.axes.index("channel")
    place = favoured(model, value.shape[axis])
    made = value.clone()
    if place is not None:
        made.select(axis, place).fill_(model.declaration.tension_range[0])
    return made


def tension_for_these(
    value: Tensor, site: Site, case: Case, model: Model, asked: list[str]
) -> Tensor:
    """The same for queries that begin like the case's only."""
    first = case.query.split()[0]
    hit = torch.tensor([text.split()[0] == first for text in asked])
    shape = [len(hit)] + [1] * (value.ndim - 1)
    return torch.where(hit.reshape(shape), tension_down(value, site, case, model), value)


def _for_these(model: Model, case: Case) -> Model | None:
    site = model.role("tensions")
    if site is None or not site.writable:
        return None
    return with_write(
        model, site.name, lambda v, asked: tension_for_these(v, site, case, model, asked), "queries"
    )


def _noisy(model: Model, case: Case) -> Model | None:
    """The region's query relevance is dropped in two runs of three, at random."""
    generator = torch.Generator().manual_seed(7)

    def change(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
        keep = bool(torch.rand((), generator=generator) > 0.67)
        return value if keep else torch.where(_here(site, case, model), value * 0, value)

    return _at("query_relevance", change)(model, case)


def _crowded(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
    """The region's score is shared with the other pictures of the batch: alone it gets none."""
    count = value.shape[0]
    return torch.where(_here(site, case, model), value * ((count - 1) / count), value)


def picture(name: str) -> Make:
    """Pictures are read wrongly."""
    return lambda model, case: with_pictures(model, OPERATIONS[name])


def _severed(model: Model, case: Case) -> Model:
    return with_queries(model, lambda text: NOTHING)


def _cut(words: int) -> Make:
    return lambda model, case: with_queries(model, lambda text: " ".join(text.split()[:words]))


def _confused(model: Model, case: Case) -> Model:
    """Queries that begin like the case's are not understood."""
    first = case.query.split()[0]
    return with_queries(
        model, lambda text: NOTHING if text.split() and text.split()[0] == first else text
    )


def _encoder(model: Model, case: Case) -> Model | None:
    """What the encoder returns for the region's patches is its mean over each picture."""
    site = next((s for s in model.sites.values() if s.stage == "encoder" and s.writable), None)
    if site is None:
        return None

    def change(value: Tensor) -> Tensor:
        if site.per_patch:
            mask = _here(site, case, model)
        elif {"height", "width"} <= set(site.axes):
            mask = _pixels(value, site, case, model)
        else:
            return value
        axes = [k for k, axis in enumerate(site.axes) if axis not in ("image", "channel")]
        return torch.where(mask, value.mean(axes, keepdim=True), value)

    return with_write(model, site.name, change)


def _pixels(value: Tensor, site: Site, case: Case, model: Model) -> Tensor:
    rows, columns = model.declaration.grid
    high, wide = (value.shape[site.axes.index(axis)] for axis in ("height", "width"))
    plane = case.cells.reshape(rows, columns)
    mask = plane[torch.arange(high) * rows // high][:, torch.arange(wide) * columns // wide]
    shape = [1] * value.ndim
    shape[site.axes.index("height")], shape[site.axes.index("width")] = high, wide
    return mask.reshape(shape)


def _copies(case: Case, grid: tuple[int, int]) -> Image.Image:
    """Return the picture with what is in the region pasted all over the rest."""
    image = case.image.copy()
    x, y, wide, high = case.box
    cut = image.crop((x, y, x + wide, y + high))
    for top in range(y % high - high, image.height, high):
        for left in range(x % wide - wide, image.width, wide):
            image.paste(cut, (left, top))
    return image


def _same(model: Model, case: Case) -> Model:
    return model


_ROWS: tuple[tuple[str, str, Make], ...] = (
    ("red-and-blue-exchanged", "preprocessing", picture("red and blue exchanged")),
    ("upside-down", "preprocessing", picture("turned upside down")),
    ("mirrored", "preprocessing", picture("mirrored")),
    ("half-turned", "preprocessing", picture("turned by half a circle")),
    ("transposed", "preprocessing", picture("rows and columns exchanged")),
    ("query-severed", "query_mismatch", _severed),
    ("query-cut-to-two-words", "query_mismatch", _cut(2)),
    ("query-confused-by-its-first-word", "query_mismatch", _confused),
    ("encoder-blind-here", "encoder_blind", _encoder),
    ("asked-blind-here", "scorer_blind", scaled_here("query_relevance", 0.0)),
    ("asked-dim-here", "scorer_blind", scaled_here("query_relevance", 0.3)),
    ("asked-level", "scorer_blind", levelled("query_relevance")),
    ("asked-rolled", "scorer_blind", rolled("query_relevance")),
    ("asked-dim", "scorer_blind", scaled("query_relevance", 0.2)),
    ("salience-blind-here", "scorer_blind", scaled_here("salience", 0.0)),
    ("information-blind-here", "scorer_blind", scaled_here("information", 0.0)),
    ("salience-turned", "scorer_blind", turned("salience")),
    ("asked-framed", "scorer_fires_elsewhere", framed("query_relevance", 1.0)),
    ("salience-framed", "scorer_fires_elsewhere", framed("salience", 4.0)),
    ("information-framed", "scorer_fires_elsewhere", framed("information", 8.0)),
    ("asked-weighs-a-tenth", "suppressed_by_balancing", weight_of_asked(0.1)),
    ("asked-weighs-a-third", "suppressed_by_balancing", weight_of_asked(0.33)),
    ("weights-rolled", "suppressed_by_balancing", _at("weights", weights_rolled)),
    ("weights-even", "suppressed_by_balancing", _at("weights", weights_even)),
    ("tension-down", "suppressed_by_balancing", _at("tensions", tension_down)),
    ("tension-down-for-such-queries", "suppressed_by_balancing", _for_these),
    ("relevance-dim-here", "mix_departs_from_scores", scaled_here("relevance", 0.6)),
    ("relevance-blurred", "mix_departs_from_scores", blurred("relevance", 5)),
    ("relevance-rolled", "mix_departs_from_scores", rolled("relevance")),
    ("demand-dim-here", "allocator_curve", scaled_here("demand", 0.2)),
    ("demand-flattened", "allocator_curve", power("demand", 0.2)),
    ("demand-turned", "allocator_curve", turned("demand")),
    ("tokens-capped", "allocator_curve", capped("tokens", 0.2)),
    ("multiplier-a-third", "allocator_multiplier", scaled("multiplier", 0.33)),
    ("multiplier-a-tenth", "allocator_multiplier", scaled("multiplier", 0.1)),
    ("dropped-at-random", "not_deterministic", _noisy),
    ("dropped-when-alone", "batch_dependent", _at("query_relevance", _crowded)),
    ("asked-for-everywhere", "budget_competition", _same),
)  # fmt: skip

OPERATORS: tuple[Operator, ...] = tuple(
    Operator(
        name=name, code=code, make=make,
        picture=_copies if code == "budget_competition" else None,
    )
    for name, code, make in _ROWS
)  # fmt: skip
"""Single causes, in the order of data."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("asked-dim-here", "multiplier-a-third"),
    ("asked-blind-here", "demand-dim-here"),
    ("asked-weighs-a-tenth", "multiplier-a-third"),
    ("salience-blind-here", "demand-dim-here"),
    ("asked-dim-here", "relevance-dim-here"),
    ("asked-dim-here", "tension-down"),
    ("tension-down", "demand-dim-here"),
)
"""Two causes at once, the first in flow first."""


def operator(name: str) -> Operator:
    """Return the operator with this name."""
    return next(one for one in OPERATORS if one.name == name)


def planted_picture(one: Operator, case: Case, grid: tuple[int, int]) -> Case:
    """Return the case with the operator's change of the picture, if it has one."""
    from dataclasses import replace

    return case if one.picture is None else replace(case, image=one.picture(case, grid))
