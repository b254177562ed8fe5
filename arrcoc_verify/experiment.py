"""One model, its scenes and an error rate: judge claims one by one, each final when it returns.

The pytest plugin and Python scripts share it; measuring and deciding are those of `trial`. A family
of claims is judged one by one, so each is held to alpha / family: verdicts are valid together
without waiting for the last one (Bonferroni; Holm over the whole would only confirm more).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from arrcoc_verify import saying
from arrcoc_verify.audit import SceneSet
from arrcoc_verify.claim import Claim, Judged
from arrcoc_verify.errors import BadConfig, BadRegion
from arrcoc_verify.graph import run
from arrcoc_verify.lab import Lab
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.load import load_image, parse_box
from arrcoc_verify.scenes.scene import Box, Region
from arrcoc_verify.suite import CLAIMS, GATES, with_margins
from arrcoc_verify.suite import claim as built_in
from arrcoc_verify.trial import Settings, attempt, read_gates, settle
from arrcoc_verify.verdict import Case, Estimate, GateResult, Outcome, Verdict

MOST_CASES = 3
"""So many of the weakest scenes are kept with a verdict."""


class Experiment:
    """A model on its scenes; gates and runs are made once and shared by all claims.

    Attributes:
        model: model under test.
        scenes: what is asserted on, and what gates look at.
        settings: error rates and seed.
        family: number of claims that share alpha.
        gates: results of the gates that were needed so far, by id.
        verdicts: every verdict so far, in order.
    """

    def __init__(self, model: Model, scenes: SceneSet, settings: Settings, family: int = 1) -> None:
        """Take a model and its scenes.

        Raises:
            BadConfig: the family is smaller than one claim.
        """
        if family < 1:
            raise BadConfig(f"wanted a family of at least one claim, got {family}")
        self.model, self.scenes, self.family = model, scenes, family
        self.settings = replace(settings, alpha=settings.alpha / family)
        self.asserted = Lab(model, scenes.asserted, settings.seed)
        self.selected = Lab(model, scenes.selected, settings.seed)
        self.gates: dict[str, GateResult] = {}
        self.verdicts: list[Verdict] = []

    def judge(self, claim: Claim) -> Verdict:
        """Return the verdict of a claim at this family's level."""
        (claim,) = with_margins([claim], self.model.profile)
        one = attempt(claim, self.asserted, self.read(claim.gates))
        # A user's own claim has the spike for a control; only built-in ones have planted faults.
        kept = self._controls if any(claim.id == known.id for known in CLAIMS) else {}
        trial = settle([one], self.asserted.clusters(), self.settings, kept)
        (verdict,) = trial.verdicts
        judged = trial.judged.get(claim.id)
        if judged is not None:
            verdict = replace(verdict, worst=self._worst(claim, judged))
        self.verdicts.append(verdict)
        return verdict

    @cached_property
    def _controls(self) -> Mapping[str, Mapping[str, str]]:
        return kept_controls()

    def read(self, ids: Sequence[str]) -> list[GateResult]:
        """Return the results of these gates; each is read once."""
        wanted = [gate for gate in GATES if gate.id in ids and gate.id not in self.gates]
        self.gates |= {result.id: result for result in read_gates(wanted, self.selected)}
        return [self.gates[name] for name in ids]

    def holds(self, name: str, *, margin: float | None = None) -> Verdict:
        """Return the verdict of a built-in claim, with its own margin unless another is given.

        Raises:
            UnknownName: there is no such claim; the nearest is suggested.
        """
        claim = built_in(name)
        if margin is None:
            return self.judge(claim)
        if claim.margin is None:
            raise BadConfig(f"claim {name!r} allows no exception, so it has no margin to set")
        return self.judge(replace(claim, margin=float(margin)))

    def causes(
        self, factor: str, *, region: str = "target", at_least: float,
        by: saying.By = "activation",
    ) -> Verdict:  # fmt: skip
        """A factor of a region causes its tokens, at least so many; see `saying.causes`."""
        return self.judge(saying.causes(factor, region=region, at_least=at_least, by=by))

    def ignores(self, role: str, factor: str, *, within: float) -> Verdict:
        """A map does not answer a factor, within a margin; see `saying.ignores`."""
        return self.judge(saying.ignores(role, factor, within=within))

    def mediates(self, role: str, *, factor: str = "query", at_least: float = 0.9) -> Verdict:
        """A factor reaches the target's tokens through one site; see `saying.mediates`."""
        return self.judge(saying.mediates(role, factor=factor, at_least=at_least))

    def necessary(self, role: str, *, region: str = "target", at_least: float) -> Verdict:
        """A region loses tokens when a map is brought down on it; see `saying.necessary`."""
        return self.judge(saying.necessary(role, region=region, at_least=at_least))

    def region_gets(
        self,
        image: Image.Image | str | Path,
        query: str,
        region: Region | Box | str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Verdict:
        """One picture and query: the region's mean tokens per patch lie inside the bounds.

        A statement on one picture, without error rate.

        Args:
            image: picture or file.
            query: text.
            region: part of the picture, as a Region, (x, y, width, height) or "x,y,w,h" in pixels.
            at_least: fewest tokens per patch.
            at_most: most tokens per patch.

        Raises:
            BadConfig: neither bound is given.
            BadImage: the picture cannot be used.
            BadRegion: the region leaves the picture.
        """
        if at_least is None and at_most is None:
            raise BadConfig("wanted at_least, at_most or both, got neither: say how many tokens")
        picture = image if isinstance(image, Image.Image) else load_image(image)
        name = "picture" if isinstance(image, Image.Image) else str(image)
        part = _region(region)
        cells = part.cells(self.model.declaration.grid, picture.size)
        failed = [g for g in self.read(("runtime.finite", "runtime.determinism")) if not g.passed]
        height, width = self.model.declaration.image_size
        sized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        allocation = run(self.model, [sized], [query]).allocation
        mask = allocation.tokens.new_tensor(np.asarray(cells)).bool()[None]
        tokens = float(mean_over(allocation.tokens, mask))
        verdict = _one_picture(tokens, at_least, at_most, name, query, part)
        if failed:
            verdict = replace(
                verdict, outcome=Outcome.INVALID, failed_gates=tuple(g.id for g in failed),
                reason=f"gate {failed[0].id} failed: {failed[0].reason}",
            )  # fmt: skip
        self.verdicts.append(verdict)
        return verdict

    def _worst(self, claim: Claim, judged: Judged) -> tuple[Case, ...]:
        order = np.argsort(judged.per_scene, kind="stable")[:MOST_CASES]
        sign = 1.0 if claim.kind in _SIGNED or claim.margin is None else -1.0
        cases = []
        for index in order:
            scene = self.asserted.scenes[int(index)]
            case = Case(
                id=_short(claim.id, scene.name, scene.query), scene=scene.name,
                query=scene.query, region=scene.target.box,
                effect=sign * float(judged.per_scene[index]),
            )  # fmt: skip
            cases.append(case)
        return tuple(cases)


def kept_controls() -> Mapping[str, Mapping[str, str]]:
    """Return the kept outcomes of the built-in claims' controls, as an audit takes them."""
    from arrcoc_verify.faults.controls import load_controls

    return load_controls()


_SIGNED = ("causes", "mediates", "necessary", "sufficient", "sensitive_to", "monotone", "conserved")


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _region(region: Region | Box | str) -> Region:
    if isinstance(region, Region):
        return region
    if isinstance(region, str):
        return Region(box=parse_box(region))
    if len(region) != 4:
        raise BadRegion(f"wanted a box (x, y, width, height) in pixels, got {region!r}")
    x, y, width, height = (int(side) for side in region)
    return Region(box=(x, y, width, height))


def _one_picture(
    tokens: float,
    at_least: float | None,
    at_most: float | None,
    name: str,
    query: str,
    part: Region,
) -> Verdict:
    low = -np.inf if at_least is None else at_least
    high = np.inf if at_most is None else at_most
    bounds = [f"at least {low:g}" if at_least is not None else "",
              f"at most {high:g}" if at_most is not None else ""]  # fmt: skip
    wanted = " and ".join(bound for bound in bounds if bound)
    inside = low <= tokens <= high
    box = ",".join(map(str, part.box))
    unit = "tokens per patch"
    short = _short(name, query, box)
    case = Case(id=short, scene=name, query=query, effect=tokens, region=part.box)
    return Verdict(
        id=f"own.region-gets-{short}", stage="attending", kind="conserved",
        sentence=f"asked {query!r}, region {box} gets {wanted} {unit}",
        outcome=Outcome.HOLDS if inside else Outcome.REFUTED,
        reason=f"it gets {tokens:g} {unit}, wanted {wanted}",
        operation="run the model once", source=saying.SOURCE,
        effect=Estimate(value=tokens, low=tokens, high=tokens, level=1.0, n=1, unit=unit,
                        method="one picture"),
        margin=at_least if at_least is not None else at_most, n=1, worst=(case,),
    )  # fmt: skip
