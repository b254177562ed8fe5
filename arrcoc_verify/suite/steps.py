"""Claims that no step is lost: each dose of a factor counts, and counts where it is given.

A threshold, a ceiling, a floor or a few levels leave the order of doses right and swallow steps.
"""

import torch
from torch import Tensor
from torch.nn import functional

from arrcoc_verify.claim import Claim, Distances, Effects
from arrcoc_verify.effect import frozen_for
from arrcoc_verify.graph import Edit
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import patches_last, spread
from arrcoc_verify.suite.gates import RUNTIME
from arrcoc_verify.suite.knowing import DOSES
from arrcoc_verify.suite.reading import COUPLING, seen_through

LEAST_STEP = 0.02
"""Least step, as a share of an even one, that counts as an answer."""
MOST = 0.9
"""Share of the steps that must be answered."""
STEPS = "share of steps"


def _answered(reads: Tensor) -> Tensor:
    """Return the share of steps that are answered, `[scene]`."""
    steps = reads[:, 1:] - reads[:, :-1]
    even = (reads[:, -1] - reads[:, 0]).abs() / steps.shape[1]
    return (steps > LEAST_STEP * even[:, None].clamp(min=1e-12)).double().mean(1)


def information_answers_every_step(lab: Lab) -> Effects:
    """Read information at four doses of entropy on the target: how many are answered."""
    role = "information"
    reads = [lab.over(lab.edited(role, dose), role, lab.target) for dose in DOSES]
    return Effects(values=_answered(torch.stack(reads, 1)))


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
        sentence="no step of entropy is lost on information",
        operation="four doses of entropy on the target; share of steps that information answers",
        source="thresholds, ceilings and floors keep the order and lose steps",
        measure=information_answers_every_step, margin=MOST, unit=STEPS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.scores-belong-to-their-patch", stage="knowing", kind="independent",
        sentence="information and query relevance change where the picture does, not beside it",
        operation="change the target only; change of its neighbours' scores over its own",
        source="a score is about its patch", measure=scores_belong_to_their_patch, margin=0.5,
        unit="share of the change inside", gates=RUNTIME,
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
        measure=relevance_has_a_value_of_its_own, margin=0.5, unit="share of patches",
        gates=RUNTIME,
    ),
)  # fmt: skip
