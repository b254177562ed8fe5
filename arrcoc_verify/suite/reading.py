"""Claims about what goes in: pictures that are turned, queries that are said otherwise."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.claim import Claim, Distances, Effects
from arrcoc_verify.graph import Run, ask
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.model import SCORERS
from arrcoc_verify.scenes.edits import pixels_of
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.suite.gates import QUERY, RUNTIME
from arrcoc_verify.suite.knowing import DOSES, SPREADS
from arrcoc_verify.suite.place import no_prior
from arrcoc_verify.suite.spike import spiked_map

POSTSCRIPT = "and then please answer with no more than one short sentence, thank you very much"
COUPLING = "query_relevance"
GREATEST = 16
"""Patches of a picture among which the values of a score map are counted."""


def _scorers(lab: Lab) -> list[str]:
    names = [role for role in SCORERS if lab.model.role(role) is not None]
    if not names:
        raise NotApplicable(f"{lab.model.name} declares no score maps")
    return names


def _turns(lab: Lab) -> dict[str, tuple[Image.Transpose, int, bool]]:
    """Return how pictures are turned: PIL's name, quarter turns of the map, mirrored before."""
    turns = {
        "mirrored": (Image.Transpose.FLIP_LEFT_RIGHT, 0, True),
        "on its head": (Image.Transpose.FLIP_TOP_BOTTOM, 2, True),
    }
    square = all(scene.image.width == scene.image.height for scene in lab.scenes)
    if square and lab.grid[0] == lab.grid[1]:
        turns["turned by a quarter"] = (Image.Transpose.ROTATE_90, 1, False)
    return turns


def turned(lab: Lab, name: str) -> Run:
    """Run the pictures turned one way."""
    if name == "mirrored":
        return lab.flipped()
    how = _turns(lab)[name][0]
    return lab.kept(name, lambda: lab.run_on([s.image.transpose(how) for s in lab.scenes]))


def off_after_turning(lab: Lab, role: str, name: str) -> Tensor:
    """Return how far a map of the turned picture lies from the turned map, `[scene]`."""
    _, quarters, mirror = _turns(lab)[name]
    before = lab.map(lab.clean, role).unflatten(1, lab.grid)
    before = before.flip(2) if mirror else before
    expected = torch.rot90(before, quarters, (1, 2))
    after = lab.map(turned(lab, name), role).unflatten(1, lab.grid)
    size = max(lab.spread(role), float(torch.finfo(torch.float32).tiny))
    off: Tensor = (after - expected).square().mean((1, 2)).sqrt() / size
    return off


def scores_move_with_the_picture(lab: Lab) -> Distances:
    """Turn and mirror pictures: the worst of the scorers and of the ways to turn."""
    no_prior(lab)
    off = {
        role: torch.stack([off_after_turning(lab, role, name) for name in _turns(lab)]).amax(0)
        for role in _scorers(lab)
    }
    return Distances(
        values=torch.stack(list(off.values())).amax(0),
        numbers={role: float(value.mean()) for role, value in off.items()},
    )


def _asking(lab: Lab, name: str, queries: list[str]) -> Run:
    return lab.kept(name, lambda: ask(lab.clean, queries, read=lab.inner_sites))


def _said_otherwise(lab: Lab, name: str, queries: list[str]) -> Distances:
    result = _asking(lab, name, queries)
    spiked = lab.shifted(COUPLING, 0.25 * lab.spread(COUPLING), None)
    return Distances(values=lab.moved(result, COUPLING), spiked=lab.moved(spiked, COUPLING))


def query_survives_postscript(lab: Lab) -> Distances:
    """Put words that ask for nothing behind the query."""
    queries = [f"{scene.query} {POSTSCRIPT}" for scene in lab.scenes]
    return _said_otherwise(lab, "postscript", queries)


def query_survives_spelling(lab: Lab) -> Distances:
    """Capitals at the start of words, and quotation marks around what is asked for."""
    return _said_otherwise(lab, "spelling", [spelled_otherwise(scene) for scene in lab.scenes])


def spelled_otherwise(scene: Scene) -> str:
    """Return a scene's query with capitals, what it asks for in quotation marks."""
    label = scene.target.label
    said = scene.query.replace(label, f'"{label}"') if label else f'"{scene.query}"'
    return said.title()


def query_hears_both(lab: Lab) -> Effects:
    """Ask for both objects in one query, in both orders: the less heard of the two."""
    if any(s.distractor is None or not s.distractor.label or not s.target.label
           for s in lab.scenes):  # fmt: skip
        raise NotApplicable("some scenes have no two objects with names")
    absent = lab.asked("absent")
    gains = []
    for first in (True, False):
        queries = []
        for scene in lab.scenes:
            names = [scene.target.label, scene.distractor.label if scene.distractor else ""]
            one, two = names if first else names[::-1]
            queries.append(f"find the {one} and the {two}")
        both = _asking(lab, f"both:{first}", queries)
        gains += [
            lab.over(both, COUPLING, region) - lab.over(absent, COUPLING, region)
            for region in (lab.target, lab.distractor)
        ]
    return Effects(values=torch.stack(gains).amin(0), spiked=spiked_map(lab, COUPLING, 0.1))


def seen_through(lab: Lab, dose: float) -> Run:
    """The target blended into the mean colour of the rest, `dose` of it left."""

    def make() -> Run:
        images = []
        for index, scene in enumerate(lab.scenes):
            inside = pixels_of(lab.target[index].numpy(), lab.grid, scene.image.size)
            pixels = scene.pixels.copy()
            ground = pixels[~inside].mean(0) if (~inside).any() else pixels.mean((0, 1))
            mixed = ground + dose * (pixels[inside] - ground)
            pixels[inside] = np.rint(mixed).astype(np.uint8)
            images.append(Image.fromarray(pixels))
        return lab.run_on(images)

    return lab.clean if dose == 1.0 else lab.kept(f"seen through:{dose}", make)


def query_is_graded(lab: Lab) -> Effects:
    """Share of dose pairs in order, ties at half, as the asked object shows more."""
    reads = torch.stack([lab.over(seen_through(lab, d), COUPLING, lab.target) for d in DOSES], 1)
    pairs = [(i, j) for i in range(len(DOSES)) for j in range(i + 1, len(DOSES))]
    steps = torch.stack([reads[:, j] - reads[:, i] for i, j in pairs], 1)
    ordered = (steps > 1e-9).double() + 0.5 * (steps.abs() <= 1e-9).double()
    return Effects(values=ordered.mean(1))


def scores_are_graded(lab: Lab) -> Effects:
    """Effective number of values among a map's greatest patches: exp of their histogram's entropy.

    Only the greatest are counted: a score may well be nothing over most of a picture.
    """
    if lab.grid[0] * lab.grid[1] < GREATEST:
        raise NotApplicable(f"a grid of {lab.grid} has too few patches to tell levels apart")
    counts = {role: _values(lab, role) for role in _scorers(lab)}
    return Effects(
        values=torch.stack(list(counts.values())).amin(0),
        numbers={role: float(1 / value.mean().clamp(min=1)) for role, value in counts.items()},
    )


def _values(lab: Lab, role: str) -> Tensor:
    """Return the effective number of values of a map, `[scene]`; as good as equal ones are one."""
    grain = 1e-6 * max(lab.spread(role), float(torch.finfo(torch.float32).tiny))
    found = []
    for row in (lab.map(lab.clean, role).topk(GREATEST, 1).values / grain).round():
        share = row.unique(return_counts=True)[1].double() / len(row)
        found.append(torch.exp(-(share * share.log()).sum()))
    return torch.stack(found)


CLAIMS = (
    Claim(
        id="knowing.scores-move-with-the-picture", stage="knowing", kind="independent",
        sentence="the scores of a turned or mirrored picture are the turned or mirrored scores",
        operation="mirror, turn on its head, turn by a quarter; worst scorer and way",
        source="exchanged axes, padding and one-sided filters show when pictures are turned",
        measure=scores_move_with_the_picture, margin=0.5, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.scores-are-graded", stage="knowing", kind="sensitive_to",
        sentence="a score map has many values, and not a few levels",
        operation=f"effective number of values among the {GREATEST} greatest patches of a picture, "
        "least over the scorers",
        source="relevance is a matter of degree", measure=scores_are_graded, margin=8.0,
        unit="values", gates=RUNTIME,
    ),
    Claim(
        id="knowing.query-is-graded", stage="knowing", kind="monotone",
        sentence="query relevance rises with every step in which the asked object shows",
        operation="four shares of the object blended into its picture; share of pairs in order",
        source="dose-response within pictures", measure=query_is_graded, margin=0.75,
        unit="share of dose pairs", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-survives-postscript", stage="query", kind="no_effect",
        sentence="words after the question leave query relevance nearly as it was",
        operation=f"put {POSTSCRIPT!r} behind the query; root mean square change of the map",
        source="padding and chat templates do not matter", measure=query_survives_postscript,
        margin=0.25, unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-survives-spelling", stage="query", kind="no_effect",
        sentence="capitals and quotation marks leave query relevance nearly as it was",
        operation="capitals at the start of words, the asked object in quotation marks",
        source="people write as they like", measure=query_survives_spelling, margin=0.25,
        unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-hears-both-objects", stage="query", kind="sensitive_to",
        sentence="a query that names two objects raises both, in either order",
        operation="ask for both in one query, against an absent object; the less heard of the two",
        source="a query is read whole", measure=query_hears_both, margin=0.1, unit=SPREADS,
        gates=RUNTIME + QUERY,
    ),
)  # fmt: skip
