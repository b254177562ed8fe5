"""Claims that no step is lost: each dose of a factor counts, and counts where it is given.

A threshold, a ceiling, a floor or a few levels leave the order of doses right and swallow steps.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from arrcoc_verify.claim import Claim, Distances, Effects
from arrcoc_verify.effect import frozen_for
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Site, patches_last, spread
from arrcoc_verify.scenes.colour import luma
from arrcoc_verify.scenes.edits import cell_edges, cell_map
from arrcoc_verify.suite.gates import RUNTIME
from arrcoc_verify.suite.knowing import DOSES
from arrcoc_verify.suite.reading import COUPLING, seen_through

LEAST_STEP = 0.02
"""Least step, as a share of an even one, that counts as an answer."""
MOST = 0.9
"""Share of the steps that must be answered."""
STEPS = "share of steps"
TEXTURED = 4.0
"""Standard deviation of a patch's luminance, in grey levels, from which on it has some texture."""
LEAST_GRID = 6
"""Rows and columns from which on every patch has some that are three or more away."""


def _answered(reads: Tensor, before: Tensor | None = None) -> Tensor:
    """Return the share of steps that are answered, `[scene]`.

    Args:
        reads: `[scene, dose]`, doses rising evenly.
        before: `[scene]`, a reading below the least dose, however far: its step counts, too.
    """
    steps = reads[:, 1:] - reads[:, :-1]
    even = (reads[:, -1] - reads[:, 0]).abs() / steps.shape[1]
    if before is not None:
        steps = torch.cat([(reads[:, 0] - before)[:, None], steps], 1)
    return (steps > LEAST_STEP * even[:, None].clamp(min=1e-12)).double().mean(1)


def information_answers_every_step(lab: Lab) -> Effects:
    """Read information where the target is one colour, and at four doses of entropy."""
    role = "information"
    reads = [lab.over(lab.edited(role, dose), role, lab.target) for dose in DOSES]
    plain = lab.over(_plain(lab), role, lab.target)
    return Effects(values=_answered(torch.stack(reads, 1), plain))


def information_tells_patches_apart(lab: Lab) -> Effects:
    """Share of a picture's patches with some texture whose information is not its least."""
    values = lab.map(lab.clean, "information")
    shares, seen = [], 0
    for scene, row in zip(lab.scenes, values, strict=True):
        cells, grey = cell_map(lab.grid, scene.image.size), luma(scene.pixels).astype(np.float64)
        count = np.bincount(cells.ravel())
        mean = np.bincount(cells.ravel(), grey.ravel()) / count
        variance = np.bincount(cells.ravel(), grey.ravel() ** 2) / count - mean**2
        textured = torch.as_tensor(variance >= TEXTURED**2)
        above = (row > row.min()) & textured
        seen += int(textured.sum())
        shares.append(float(above.sum()) / max(int(textured.sum()), 1) if textured.any() else 1.0)
    return Effects(
        values=torch.tensor(shares, dtype=torch.float64), exercise={"textured patches": seen}
    )


def _plain(lab: Lab) -> Run:
    """Each picture with every cell of its target in the cell's mean colour: no entropy at all."""

    def make() -> Run:
        images = []
        for index, scene in enumerate(lab.scenes):
            pixels = scene.pixels.copy()
            (rows, columns), sizes = lab.grid, pixels.shape
            down, across = cell_edges(sizes[0], rows), cell_edges(sizes[1], columns)
            for row, column in np.argwhere(lab.target[index].numpy().reshape(lab.grid)):
                part = pixels[down[row] : down[row + 1], across[column] : across[column + 1]]
                part[:] = np.rint(part.mean((0, 1)))
            images.append(Image.fromarray(pixels))
        return lab.run_on(images)

    return lab.kept("plain target", make)


def every_score_counts(lab: Lab) -> Effects:
    """Write four levels of a score on the target, the rest held: steps that are answered."""
    role = COUPLING if lab.model.role(COUPLING) is not None else "information"
    (site,) = lab.need(role)
    lab.need("relevance")
    native, scores = lab.clean[site.name], lab.map(lab.clean, role)
    low, high = scores.amin(1), scores.amax(1)
    region = spread(lab.target, site, lab.grid)
    held = "unrepaired" if frozen_for(lab.model, "unrepaired") else "total"
    reads = []
    for dose in DOSES:
        level = (low + dose * (high - low)).reshape(-1, *(1,) * (native.ndim - 1))
        value = torch.where(region, level.to(native).expand(native.shape), native)
        result = lab.resumed([Edit(site=site.name, value=value)], held)
        reads.append(mean_over(result.allocation.relevance, lab.target))
    return Effects(values=_answered(torch.stack(reads, 1)))


def _beside(lab: Lab) -> Tensor:
    """Return the patches next to the target that belong to no object, `[scene, patch]`."""
    cells = lab.target.unflatten(1, lab.grid).double()[:, None]
    near = functional.max_pool2d(cells, 3, stride=1, padding=1)[:, 0].flatten(1) > 0
    objects = lab.target
    if all(scene.distractor is not None for scene in lab.scenes):
        objects = objects | lab.distractor
    beside = near & ~objects
    if not bool(beside.any(1).all()):
        raise NotApplicable("some targets fill their picture: nothing lies beside them")
    return beside


def scores_belong_to_their_patch(lab: Lab) -> Distances:
    """Change the target only: what its neighbours' scores do, over what its own do."""
    beside, off = _beside(lab), {}
    for role in ("information", COUPLING):
        if lab.model.role(role) is None:
            continue
        if role == COUPLING:
            low, high = seen_through(lab, 0.0), lab.clean
        else:
            low, high = lab.edited(role, 0.0), lab.edited(role, 1.0)
        moved = (lab.map(high, role) - lab.map(low, role)).square()
        inside = mean_over(moved, lab.target).sqrt()
        outside = mean_over(moved, beside).sqrt()
        off[role] = outside / inside.clamp(min=0.05 * lab.spread(role)).clamp(min=1e-30)
    if not off:
        raise NotApplicable(f"{lab.model.name} declares no score that is about a patch alone")
    return Distances(
        values=torch.stack(list(off.values())).amax(0),
        numbers={role: float(value.mean()) for role, value in off.items()},
    )


def scores_stay_in_their_patch(lab: Lab) -> Distances:
    """Put another patch's features into one patch: what neighbours' scores do, over its own.

    What happens far away is taken off: a map that is normalised over its picture moves everywhere.
    Salience is left out: it is about the surround.
    """
    if min(lab.grid) < LEAST_GRID:
        raise NotApplicable(f"in a grid of {lab.grid} no patch is far from another")
    off, answered = {}, 0
    for role in ("information", COUPLING):
        site = lab.model.role(f"{role}_features")
        if site is None or lab.model.role(role) is None or not (site.per_patch and site.writable):
            continue
        scores = lab.map(lab.clean, role)
        cells = _middle(lab)
        donors = (scores - scores.gather(1, cells[:, None])).abs().argmax(1)
        result = lab.resumed([Edit(site=site.name, value=_transplanted(lab, site, cells, donors))])
        moved = (lab.map(result, role) - scores).abs()
        own = moved.gather(1, cells[:, None])[:, 0]
        away = _away_from(cells, lab.grid)
        near = mean_over(moved.square(), away == 1).sqrt()
        least = max(0.05 * lab.spread(role), 1e-30)
        off[role] = (near - mean_over(moved, away > 2)).clamp(min=0) / own.clamp(min=least)
        answered += int((torch.maximum(own, near) > least).sum())
    if not off:
        raise NotApplicable(f"{lab.model.name} declares no score with feature vectors before it")
    return Distances(
        values=torch.stack(list(off.values())).amax(0),
        exercise={"scores that answer": answered},
        numbers={role: float(value.mean()) for role, value in off.items()},
    )


def _middle(lab: Lab) -> Tensor:
    """Return the patch of each target that lies nearest to its centre, `[scene]`."""
    place = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in lab.grid), indexing="ij"), -1
    ).flatten(0, 1)
    inside = lab.target.double()
    centre = (inside @ place) / inside.sum(1, keepdim=True)
    distance = (place[None] - centre[:, None]).square().sum(2)
    return distance.masked_fill(~lab.target, torch.inf).argmin(1)


def _away_from(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return how many patches away each patch is, corners counting as sides, `[scene, patch]`."""
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    down = (rows.flatten()[None] - (cells // grid[1])[:, None]).abs()
    across = (columns.flatten()[None] - (cells % grid[1])[:, None]).abs()
    return torch.maximum(down, across)


def _transplanted(lab: Lab, site: Site, cells: Tensor, donors: Tensor) -> Tensor:
    """Return the clean activation with the donors' vectors in the cells, in the site's layout."""
    axes = list(site.axes)
    places = [axes.index(a) for a in (("patch",) if "patch" in axes else ("row", "column"))]
    first = axes.index("image")
    order = [first, *(i for i in range(len(axes)) if i not in (first, *places)), *places]
    laid = lab.clean[site.name].permute(order)
    flat = laid.flatten(-len(places)).clone()
    rows = torch.arange(len(flat))
    flat[rows, ..., cells] = flat[rows, ..., donors]
    back = sorted(range(len(order)), key=order.__getitem__)
    return flat.reshape(laid.shape).permute(back).contiguous()


def relevance_has_a_value_of_its_own(lab: Lab) -> Effects:
    """Share of the patches of a picture whose relevance no other patch has exactly."""
    (site,) = lab.need("relevance")
    values = patches_last(lab.clean[site.name], site, lab.grid)
    shares = []
    for row in values:
        counts = row.unique(return_counts=True)[1]
        shares.append(float((counts == 1).sum()) / len(row))
    return Effects(values=torch.tensor(shares, dtype=torch.float64))


CLAIMS = (
    Claim(
        id="knowing.information-answers-every-step", stage="knowing", kind="monotone",
        sentence="no step of entropy is lost on information, from one colour to the most",
        operation="the target in plain colours, then four doses of entropy; share of steps that "
        "information answers",
        source="thresholds, ceilings and floors keep the order and lose steps",
        measure=information_answers_every_step, margin=MOST, unit=STEPS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.information-tells-patches-apart", stage="knowing", kind="sensitive_to",
        sentence="patches with texture do not all share the least information of their picture",
        operation=f"share of the patches with a spread of {TEXTURED:g} grey levels or more whose "
        "information is above the picture's least",
        source="what is cut off cannot be weighed", measure=information_tells_patches_apart,
        margin=0.9, unit="share of patches", gates=RUNTIME,
    ),
    Claim(
        id="knowing.scores-belong-to-their-patch", stage="knowing", kind="independent",
        sentence="information and query relevance change where the picture does, not beside it",
        operation="change the target only; change of its neighbours' scores over its own",
        source="a score is about its patch", measure=scores_belong_to_their_patch, margin=0.5,
        unit="share of the change inside", gates=RUNTIME,
    ),
    Claim(
        id="knowing.scores-stay-in-their-patch", stage="knowing", kind="independent",
        sentence="information and query relevance are read from their patch, not its neighbours",
        operation="patch another patch's features into one patch; change of its neighbours' scores "
        "beyond that of distant ones, over its own",
        source="a smoothed map looks right and blurs what is small",
        measure=scores_stay_in_their_patch, margin=0.75, unit="share of its own change",
        gates=RUNTIME,
    ),
    Claim(
        id="balancing.relevance-answers-every-step", stage="balancing", kind="monotone",
        sentence="no step of a score is lost on relevance",
        operation="four levels of query relevance on the target, weights and normalisers held",
        source="thresholds, ceilings and floors keep the order and lose steps",
        measure=every_score_counts, margin=MOST, unit=STEPS, gates=RUNTIME,
    ),
    Claim(
        id="balancing.relevance-tells-patches-apart", stage="balancing", kind="sensitive_to",
        sentence="most patches of a photograph have a relevance of their own",
        operation="share of patches whose relevance no other patch has exactly",
        source="what is cut off or rounded away cannot be weighed",
        measure=relevance_has_a_value_of_its_own, margin=0.6, unit="share of patches",
        gates=RUNTIME,
    ),
)  # fmt: skip
