"""The built-in gates: runtime first, then inputs, then what must be flat."""

import numpy as np
import torch
from PIL import Image

from arrcoc_verify.errors import NonFinite
from arrcoc_verify.gate import Gate, Reading
from arrcoc_verify.graph import Run, resume, run
from arrcoc_verify.intervention import patch
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import relevance_change
from arrcoc_verify.model import Allocation, Output, all_finite
from arrcoc_verify.scenes.queries import pad
from arrcoc_verify.stats.description import position_r2

LIVE = 1e-6
"""Root mean square change of relevance, relative to its spread, that counts as an answer."""
PRIOR = 0.10
"""Share of relevance's variance that place alone may explain."""
FLAT = 1e-3
"""Spread of relevance on a blank picture, relative to its spread on photographs."""


def _first(lab: Lab, count: int = 8) -> Lab:
    return lab.subset(range(min(count, len(lab))))


def _scale(lab: Lab) -> float:
    spread = float(lab.clean.allocation.relevance.std(1, unbiased=False).median())
    return max(spread, float(torch.finfo(torch.float32).tiny))


def finite(lab: Lab) -> Reading:
    """Every stage is finite on photographs, blank and noisy pictures, and unknown words."""
    bad = ""
    try:
        size = lab.model.declaration.image_size
        noise = np.random.default_rng(lab.seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        odd = [
            Image.new("RGB", size[::-1], c) for c in ((0, 0, 0), (255, 255, 255), (128, 128, 128))
        ]
        queries = [lab.scenes[0].query, "?", "qxz vbn", "describe everything"]
        odd_run = run(lab.model, [*odd, Image.fromarray(noise)], queries, read=lab.inner_sites)
        for result in (lab.clean, odd_run):
            for name, site in lab.model.sites.items():
                chunk = result.chunks[0]
                cached = isinstance(site.at, Output) and site.at.step in chunk.outputs
                if (cached or name in chunk.read) and not all_finite(result[name]):
                    bad = f"site {name!r} holds NaN or infinity"
    except NonFinite as error:
        bad = str(error)
    return Reading(passed=not bad, reason=bad)


def _apart(lab: Lab, one: Allocation, two: Allocation) -> tuple[float, float]:
    """Return how far two allocations lie apart: relevance in its spread, and tokens beyond a cut.

    Whole tokens may differ by one where a remainder falls the other way; on a ladder or under a
    mask one patch in two hundred may lie at a cut.
    """
    off = float((one.relevance - two.relevance).abs().max()) / _scale(lab)
    moved = (one.tokens - two.tokens).abs()
    declared = lab.model.declaration
    if declared.ladder is not None or lab.model.role("tokens") is None:
        tokens = 0.0 if float((moved > 1e-6).double().mean()) <= 0.005 else float(moved.max())
    else:
        tokens = float(moved.max()) - (1.0 if declared.integer else 1e-3)
    tokens = max(tokens, 0.0) if np.isfinite(tokens) else float("inf")
    return off if np.isfinite(off) else float("inf"), tokens


def _rounding(lab: Lab) -> float:
    """Return the relevance, in its spread, by which sums in another order may differ."""
    site = lab.model.role("relevance") or lab.model.role("tokens") or lab.need("membership")[0]
    value = lab.clean[site.name]
    step = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    size = float(lab.clean.allocation.relevance.abs().max())
    return max(lab.model.declaration.tolerance * 10, 1e-5, 16 * step * size / _scale(lab))


def determinism(lab: Lab) -> Reading:
    """The same input gives the same bits, also after other inputs went through."""
    few = _first(lab)
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    one, two = run(lab.model, images, queries), run(lab.model, images, queries)
    back = run(lab.model, images[::-1], queries[::-1])
    a, b, c = (x.allocation for x in (one, two, back))
    same = torch.equal(a.relevance, b.relevance) and torch.equal(a.tokens, b.tokens)
    off = float((a.tokens - b.tokens).abs().max())
    order, turned = _apart(lab, a, _reversed(c))
    limit = _rounding(lab)
    if not same:
        reason = f"two runs of the same input differ by up to {off:g} tokens"
    else:
        reason = (
            f"the order of the inputs matters: relevance moves by {order:.2g} of its spread, "
            f"tokens by up to {turned:g} beyond rounding"
        )
    return Reading(
        passed=same and order <= limit and turned == 0.0,
        measured=order, limit=limit, unit="spreads of relevance", reason=reason,
    )  # fmt: skip


def _reversed(allocation: Allocation) -> Allocation:
    return Allocation(
        relevance=allocation.relevance.flip(0),
        tokens=allocation.tokens.flip(0),
        membership=allocation.membership.flip(0),
    )


def batch_invariance(lab: Lab) -> Reading:
    """An image's result does not depend on its neighbours in the batch."""
    if not lab.model.declaration.batch_invariant:
        raise NotApplicable(
            "the adapter declares that the batch couples its images; runs are single"
        )
    size = min(8, len(lab), lab.model.declaration.batch_size)
    if size < 2:
        raise NotApplicable("the adapter declares one picture a run: there are no neighbours")
    few = _first(lab, size)
    images, queries = [s.image for s in few.scenes], [s.query for s in few.scenes]
    alone = run(lab.model, images, queries, batch_size=1).allocation
    together = run(lab.model, images, queries, batch_size=size).allocation
    noise = np.random.default_rng(lab.seed).integers(0, 256, (*images[0].size[::-1], 3))
    loud = Image.fromarray(noise.astype(np.uint8))
    half = (size + 1) // 2
    mates = [loud if i % 2 else Image.new("RGB", images[0].size) for i in range(size - half)]
    strangers = [*images[:half], *mates], [*queries[:half], *queries[::-1][: size - half]]
    mixed = run(lab.model, *strangers, batch_size=size).allocation
    pairs = [(together, alone), (_rows(mixed, slice(half)), _rows(alone, slice(half)))]
    last = min(len(lab), lab.model.declaration.batch_size)
    if last > size:  # a full batch may do to its later pictures what it does not to the first
        late = slice(max(size, last - 4), last)
        scenes = lab.scenes[late]
        single = run(lab.model, [s.image for s in scenes], [s.query for s in scenes], batch_size=1)
        pairs.append((_rows(lab.clean.allocation, late), single.allocation))
    off, tokens = (max(found) for found in zip(*(_apart(lab, *p) for p in pairs), strict=True))
    limit = _rounding(lab)
    if off > 1e-2:
        cause = (
            "images are not independent: a normaliser runs over the batch, something is kept from "
            "one picture to the next, or an index slips"
        )
    elif tokens > 0:
        cause = f"tokens move by {tokens:g} beyond rounding: the allocator looks at other images"
    else:
        cause = "sums in another order; if this is rounding, declare a larger `tolerance`"
    return Reading(
        passed=off <= limit and tokens == 0.0, measured=off, limit=limit,
        unit="spreads of relevance",
        reason=f"relevance moves by {off:.2g} of its spread when the neighbours in the batch "
        f"change: {cause}",
    )  # fmt: skip


def _rows(allocation: Allocation, rows: slice) -> Allocation:
    return Allocation(
        relevance=allocation.relevance[rows],
        tokens=allocation.tokens[rows],
        membership=allocation.membership[rows],
    )


def identity_patch(lab: Lab) -> Reading:
    """Writing back what a site holds changes nothing, bit for bit."""
    few = _first(lab, 4)
    base, off, where = few.clean, 0.0, ""
    for site in lab.model.sites.values():
        if not site.role or site.name not in _readable(base):
            continue
        again = resume(base, edits=[patch(site.name, base)])
        moved = float((again.allocation.tokens - base.allocation.tokens).abs().max())
        moved = max(
            moved, float((again.allocation.relevance - base.allocation.relevance).abs().max())
        )
        moved = moved if np.isfinite(moved) else float("inf")
        if moved > off:
            off, where = moved, site.name
    return Reading(
        passed=off == 0.0, measured=off, limit=0.0,
        reason=f"writing {where!r} back unchanged moves the allocation by {off:g}",
    )  # fmt: skip


def _readable(base: Run) -> set[str]:
    names = set()
    for name in base.model.sites:
        try:
            base[name]
        except Exception:  # noqa: BLE001 - a site that was not read is simply not readable here
            continue
        names.add(name)
    return names


def site_liveness(lab: Lab) -> Reading:
    """Every declared score, weight and relevance differs between inputs."""
    dead = []
    for role in (
        "information",
        "salience",
        "query_relevance",
        "relevance",
        "weights",
        "tensions",
        "tokens",
    ):
        site = lab.model.role(role)
        if site is None:
            continue
        value = lab.clean[site.name].double()
        if float((value - value[:1]).abs().max()) == 0.0 and len(lab) > 1:
            other = lab.asked("describe everything")[site.name].double()
            if float((value - other).abs().max()) == 0.0:
                dead.append(site.name)
    return Reading(
        passed=not dead, measured=float(len(dead)), limit=0.0, unit="dead sites",
        reason=f"{', '.join(dead)}: the same for every image and query",
    )  # fmt: skip


def image_live(lab: Lab) -> Reading:
    """The picture changes the allocation."""
    few = _first(lab)
    images = [s.image for s in few.scenes]
    other = run(lab.model, images[1:] + images[:1], [s.query for s in few.scenes])
    moved = float(relevance_change(few.clean.allocation, other.allocation).mean()) / _scale(lab)
    return Reading(
        passed=moved > LIVE, measured=moved, limit=LIVE, unit="spreads of relevance",
        reason="another picture leaves relevance as it was",
    )  # fmt: skip


def every_part_live(lab: Lab) -> Reading:
    """Each ninth of a picture counts: noise there changes relevance there."""
    few = _first(lab, 2)
    rows, columns = lab.grid
    bands = [np.array_split(np.arange(count), min(3, count)) for count in (rows, columns)]
    parts = [(down, across) for down in bands[0] for across in bands[1]]
    noise = np.random.default_rng(lab.seed)
    images, cells = [], []
    for scene in few.scenes:
        height, width = scene.image.height, scene.image.width
        for down, across in parts:
            pixels = scene.pixels.copy()
            top, bottom = down[0] * height // rows, (down[-1] + 1) * height // rows
            left, right = across[0] * width // columns, (across[-1] + 1) * width // columns
            size = (bottom - top, right - left, 3)
            pixels[top:bottom, left:right] = noise.integers(0, 256, size)
            images.append(Image.fromarray(pixels))
            mask = torch.zeros(rows, columns, dtype=torch.bool)
            mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1] = True
            cells.append(mask.flatten())
    queries = [scene.query for scene in few.scenes for _ in parts]
    after = run(lab.model, images, queries).allocation.relevance
    before = few.clean.allocation.relevance.repeat_interleave(len(parts), 0)
    inside = torch.stack(cells)
    moved = ((after - before).square() * inside).sum(1) / inside.sum(1)
    least = float(moved.sqrt().min()) / _scale(lab)
    return Reading(
        passed=least > LIVE, measured=least, limit=LIVE, unit="spreads of relevance",
        reason="noise in one ninth of the picture leaves relevance there as it was: that part is "
        "not seen",
    )  # fmt: skip


def query_live(lab: Lab) -> Reading:
    """The query changes the allocation."""
    if lab.model.declaration.query_path == "none":
        raise NotApplicable("the adapter declares that the model takes no query")
    moved = float(
        relevance_change(lab.clean.allocation, lab.asked("other").allocation).mean()
    ) / _scale(lab)
    return Reading(
        passed=moved > LIVE, measured=moved, limit=LIVE, unit="spreads of relevance",
        reason="asking for the other object leaves relevance as it was: the query does not get in",
    )  # fmt: skip


def query_padding(lab: Lab) -> Reading:
    """White space around a query, or a longer query beside it, does nothing."""
    if lab.model.declaration.query_path == "none":
        raise NotApplicable("the adapter declares that the model takes no query")
    few = _first(lab)
    spaced = run(lab.model, [s.image for s in few.scenes], [f"  {s.query}  \n" for s in few.scenes])
    long = [s.query for s in few.scenes]
    mates = run(
        lab.model, [s.image for s in few.scenes] * 2, long + [pad(q, 60) for q in long],
        batch_size=None if lab.model.declaration.batch_invariant else 1,
    )  # fmt: skip
    scale = _scale(lab)
    off = float((few.clean.allocation.relevance - spaced.allocation.relevance).abs().max()) / scale
    kept = mates.allocation.relevance[: len(few)]
    off = max(off, float((few.clean.allocation.relevance - kept).abs().max()) / scale)
    limit = _rounding(lab)
    return Reading(
        passed=off <= limit, measured=off, limit=limit, unit="spreads of relevance",
        reason=f"padding around the query, or a longer query beside it, moves relevance by "
        f"{off:.2g}",
    )  # fmt: skip


def position_prior(lab: Lab) -> Reading:
    """Place alone does not explain relevance, over pictures moved and mirrored at random."""
    if lab.model.declaration.spatial_prior:
        raise NotApplicable("the adapter declares a spatial prior")
    generator = np.random.default_rng(lab.seed)
    rows, columns = lab.grid
    maps = []
    for scene in lab.scenes:
        for _ in range(2):
            step = (
                int(generator.integers(rows)) * scene.image.height // rows,
                int(generator.integers(columns)) * scene.image.width // columns,
            )
            moved = np.roll(scene.pixels, step, (0, 1))
            maps.append(moved[::-1, ::-1] if generator.integers(2) else moved)
    queries = [scene.query for scene in lab.scenes for _ in range(2)]
    result = run(lab.model, [Image.fromarray(np.ascontiguousarray(m)) for m in maps], queries)
    relevance = result.allocation.relevance.reshape(len(maps), rows, columns).numpy()
    explained = position_r2(list(relevance))
    return Reading(
        passed=explained <= PRIOR, measured=explained, limit=PRIOR, unit="share of variance",
        reason=f"place alone explains {explained:.0%} of relevance, whatever is there; "
        "if this is meant, declare spatial_prior"
        if np.isfinite(explained)
        else "relevance has no variance that anything could explain",
    )  # fmt: skip


def blank_image(lab: Lab) -> Reading:
    """A blank picture has no preferred place."""
    if lab.model.declaration.spatial_prior:
        raise NotApplicable("the adapter declares a spatial prior")
    size = lab.model.declaration.image_size[::-1]
    shades = [Image.new("RGB", size, (g, g, g)) for g in (40, 128, 215)]
    queries = [lab.scenes[i % len(lab)].query for i in range(3)]
    allocation = run(lab.model, shades, queries).allocation
    spread = float((allocation.relevance.amax(1) - allocation.relevance.amin(1)).max()) / _scale(
        lab
    )
    ends = lab.model.declaration.lod
    tokens = float((allocation.tokens.amax(1) - allocation.tokens.amin(1)).max())
    uneven = tokens > 1.0 and ends is not None and lab.model.declaration.ladder is None
    return Reading(
        passed=spread <= FLAT and not uneven, measured=spread, limit=FLAT,
        unit="spreads of relevance",
        reason=f"on blank pictures relevance differs by {spread:.2g} of its spread "
        f"and tokens by {tokens:g}; if this is meant, declare spatial_prior",
    )  # fmt: skip


RUNTIME = (
    "runtime.finite", "runtime.determinism", "runtime.batch-invariance", "runtime.identity-patch",
)  # fmt: skip
"""Gates without which no reading means anything."""
QUERY = ("query.live", "query.padding")
"""Gates without which a query's effect means nothing."""

GATES = (
    Gate(id="runtime.finite", stage="runtime", read=finite,
         sentence="every stage is finite, on odd pictures and words too"),
    Gate(id="runtime.determinism", stage="runtime", read=determinism,
         sentence="the same input gives the same bits, in any order"),
    Gate(id="runtime.batch-invariance", stage="runtime", read=batch_invariance,
         sentence="an image's result does not depend on its neighbours in the batch"),
    Gate(id="runtime.identity-patch", stage="runtime", read=identity_patch,
         sentence="writing back what a site holds changes nothing"),
    Gate(id="runtime.site-liveness", stage="runtime", read=site_liveness,
         sentence="no declared score, weight or relevance is constant"),
    Gate(id="input.live", stage="input", read=image_live,
    sentence="the picture changes the allocation"),
    Gate(id="input.every-part-live", stage="input", read=every_part_live,
         sentence="every part of the picture changes the allocation there"),
    Gate(id="query.live", stage="query", read=query_live,
    sentence="the query changes the allocation"),
    Gate(id="query.padding", stage="query", read=query_padding,
         sentence="padding around and beside a query does nothing"),
    Gate(id="input.position-prior", stage="input", read=position_prior,
         sentence="place alone does not explain relevance"),
    Gate(id="input.blank-image", stage="input", read=blank_image,
         sentence="a blank picture has no preferred place"),
)  # fmt: skip
"""All built-in gates in the order in which they are read."""
