"""Localisation with a sound twin: put one stage of the sound model in, and see what vanishes.

No user has a twin; this is the yardstick for the localisation that does without.
"""

from dataclasses import replace

from arrcoc_verify.faults.fault import ordered
from arrcoc_verify.faults.oracle import Reference, compare
from arrcoc_verify.model import Model, Step
from arrcoc_verify.suite.spans import PARTS, part_of_role

ORDER = ("input", "encoder", "query", "knowing", "balancing", "attending", "realising", "report")


def stage_of(step: Step, model: Model) -> str:
    """Return the stage of a step: of its own sites, else of the first site behind it."""
    own = [site for site in model.sites.values() if site.at.step == step.name]
    if not own and "images" in step.inputs:
        return "input"
    if not own and "queries" in step.inputs:
        return "query"
    reached = model.downstream(step.name)
    behind = [s for name in reached for s in model.sites.values() if s.at.step == name]
    site = next(iter([*own, *behind]), None)
    return "attending" if site is None else PARTS[part_of_role(site.role, site.stage)]


def substituted(faulty: Model, sound: Model, stage: str) -> Model:
    """Return the faulty model with the sound model's steps of one stage."""
    theirs = {step.name: step for step in sound.steps if stage_of(step, sound) == stage}
    steps = [theirs.get(step.name, step) for step in faulty.steps]
    return replace(faulty, steps=ordered(steps))


def locate(faulty: Model, sound: Model, reference: Reference) -> str:
    """Return the stage whose sound steps make every difference vanish, or "" when none does."""
    same = {step.name: step for step in sound.steps}
    stages = {
        stage_of(same[step.name], sound)
        for step in faulty.steps
        if step.name in same and same[step.name] != step
    }
    for stage in sorted(stages, key=ORDER.index):
        found = compare(substituted(faulty, sound, stage), reference)
        if not found.is_so and not found.crashed:
            return stage
    return ""
