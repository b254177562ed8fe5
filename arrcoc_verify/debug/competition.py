"""Is it a fault at all, or do other regions have as good a claim on the shared budget?"""

import numpy as np
import torch
from PIL import Image

from arrcoc_verify.debug.bench import Bench, native
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.experiment import Evidence
from arrcoc_verify.graph import Edit, ask
from arrcoc_verify.metric import mean_over


def rivals_of(bench: Bench) -> torch.Tensor:
    """Return the patches outside the region that get as much as its lower quartile, `[patch]`."""
    tokens = bench.clean.allocation.tokens[0]
    least = tokens[bench.case.cells].quantile(0.25)
    return (tokens >= least) & (tokens > tokens.min()) & ~bench.case.cells


def covered(bench: Bench, rivals: torch.Tensor) -> Image.Image:
    """Return the picture with these patches covered by the mean colour of the rest."""
    image = bench.case.image
    pixels = np.array(image)
    boxes = bench.model.patch_boxes((image.height, image.width))
    rest = ~(rivals | bench.case.cells)
    keep = np.zeros(pixels.shape[:2], dtype=bool)
    for box, kept in zip(boxes, (rest if bool(rest.any()) else ~rivals).tolist(), strict=True):
        x, y, wide, high = box
        keep[y : y + high, x : x + wide] = kept
    colour = pixels[keep].mean(0)
    for box, taken in zip(boxes, rivals.tolist(), strict=True):
        if taken:
            x, y, wide, high = box
            pixels[y : y + high, x : x + wide] = colour.round()
    return Image.fromarray(pixels)


def of_competition(bench: Bench, goal: Goal) -> list[Evidence]:
    """Take competitors out: in relevance, and in the picture; and say what the budget alone did."""
    rivals = rivals_of(bench)
    if goal.sign < 0 or not bool(rivals.any()):
        return []
    found = []
    site = bench.writable("relevance", "mix", "query_relevance")
    if site is not None and site.per_patch:
        related = bench.map(bench.clean, site.role or "")
        if related is not None:
            rest = related[0][~rivals & ~bench.case.cells]
            level = float(rest.median()) if len(rest) else float(related.min())
            like = bench.clean[site.name]
            made = torch.where(rivals, torch.minimum(related[0], torch.tensor(level)), related[0])
            edit = Edit(site=site.name, value=native(made[None], site, like, bench.grid))
            tokens = float(bench.tokens(bench.after([edit], bench.clean))[0])
            found.append(_evidence(bench, goal, tokens, "ablated in " + site.name, "competitors"))
    tokens = float(bench.tokens(bench.run_on([covered(bench, rivals)], [bench.case.query]))[0])
    found.append(_evidence(bench, goal, tokens, "covered in the picture", "competitors covered"))
    return found


def _evidence(bench: Bench, goal: Goal, tokens: float, how: str, part: str) -> Evidence:
    effect = tokens - bench.before
    count = int(rivals_of(bench).sum())
    met = bool(goal.met(torch.tensor([tokens]))[0])
    return Evidence(
        experiment=f"the {count} patches that hold at least as many tokens {how}",
        code="budget_competition", effect=effect, interval=(effect, effect), tokens=tokens,
        restores="yes" if met else "no", basis="competition", part=part,
    )  # fmt: skip


def fires_without_reason(bench: Bench, role: str) -> tuple[bool, Evidence]:
    """Tell a scorer that fires for nothing from content that has a claim.

    Where it fires most outside the region, is it still there when nothing that exists is asked for,
    or when what is there is covered? Counted above the map's least value.

    Returns:
        Whether at least half of it stays, and the experiment.
    """
    role = role or "query_relevance"
    before = bench.map(bench.clean, role)
    nothing = bench.map(ask(bench.clean, ["blorvex quimdra"], read=bench.inner), role)
    outside = ~bench.case.cells
    stays: list[float] = []
    if before is not None and nothing is not None and bool(outside.any()):
        loud = (before[0] >= before[0][outside].quantile(0.75)) & outside
        empty = bench.map(bench.run_on([covered(bench, loud)], [bench.case.query]), role)
        shown = [empty] if role != "query_relevance" else [nothing, empty]
        least = float(before.min())
        high = float(mean_over(before, loud[None])[0]) - least
        stays = [
            (float(mean_over(one, loud[None])[0]) - least) / high
            for one in shown if one is not None and high > 0
        ]  # fmt: skip
    kept = max(stays, default=0.0)
    evidence = Evidence(
        experiment="asked for nothing that exists, and with what competes covered: at most "
        f"{max(kept, 0):.0%} of the score stays",
        code="scorer_fires_elsewhere", effect=0.0, interval=(0.0, 0.0), tokens=bench.before,
        restores="no", basis="competition", part="fires for nothing", role=role,
    )  # fmt: skip
    return kept >= 0.5, evidence
