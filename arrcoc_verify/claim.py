"""Claims as values: what is said, how it is measured, and what would count.

A claim's `measure` returns readings per scene; deciding happens elsewhere and the same way for all.
The three kinds of readings are effects (bigger than a margin?), distances (inside a margin?) and
contracts (no counterexample, and the cases met what the rule is about?).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arrcoc_verify.errors import BadConfig, UnknownName, UsageError
from arrcoc_verify.lab import Lab, by_cluster
from arrcoc_verify.stats.decide import Decision, decide_causes, decide_contract, decide_no_effect
from arrcoc_verify.stats.power import detection_rate
from arrcoc_verify.verdict import STAGES, Outcome

KINDS = (
    "causes", "no_effect", "mediates", "necessary", "sufficient", "monotone",
    "independent", "conserved", "sensitive_to",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Signed readings, positive as claimed, to be shown bigger than a margin.

    Attributes:
        values: `[scene]`, in the claim's unit.
        placebos: the same reading under an equal edit that should do nothing, `[scene]` or None.
        spiked: the reading when an effect of the margin's size is written into the model.
        exercise: what the cases met, name -> count; a count of 0 leaves the claim undecided.
        numbers: further figures by name.
    """

    values: ArrayLike
    placebos: ArrayLike | None = None
    spiked: ArrayLike | None = None
    exercise: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Non-negative readings, to be shown inside a margin; attributes as in `Effects`."""

    values: ArrayLike
    spiked: ArrayLike | None = None
    exercise: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A rule without exceptions.

    Attributes:
        broken: how often each scene broke it, `[scene]`.
        cases: how often it was tried in all.
        exercise: what the cases met, name -> count.
        numbers: further figures by name.
    """

    broken: ArrayLike
    cases: int
    exercise: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


LEAST_DETECTED = 0.8
"""Share of samples in which an effect of the margin's size must be found."""

Measured = Effects | Distances | Contract
Measure = Callable[[Lab], Measured]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that is said of a model, and how to find out.

    Attributes:
        id: `<stage or whole>.<words>`.
        sentence: what is said, in plain words.
        stage: where a fault lies when it is refuted, one of `STAGES`.
        kind: one of `KINDS`.
        operation: what is done to find out.
        source: where the claim comes from.
        measure: readings on a lab; raises NotApplicable where the model lacks what is needed.
        margin: smallest effect that matters, or largest that does not; None for contracts.
        unit: unit of margin and readings.
        gates: ids of gates without which a verdict would mean nothing.
        required: it decides the exit code.
        spike_scale: this claim's margin over the one its `measure` writes as a spike.
    """

    id: str
    sentence: str
    stage: str
    kind: str
    operation: str
    source: str
    measure: Measure
    margin: float | None = None
    unit: str = ""
    gates: tuple[str, ...] = ()
    required: bool = True
    spike_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse unknown words and margins that cannot be."""
        if self.stage not in STAGES:
            raise UnknownName("stage", self.stage, STAGES)
        if self.kind not in KINDS:
            raise UnknownName("kind of claim", self.kind, KINDS)
        if self.margin is not None and not self.margin >= 0:
            raise BadConfig(f"claim {self.id!r}: a margin is a number >= 0, got {self.margin!r}")


@dataclass(frozen=True, kw_only=True)
class Level:
    """How sure a verdict must be.

    Attributes:
        alpha: family-wise error of the run.
        confidence: level of the intervals that are shown.
        family: number of claims that share alpha.
        seed: of resampling.
    """

    alpha: float = 0.01
    confidence: float = 0.99
    family: int = 1
    seed: int = 0

    @property
    def each(self) -> float:
        """The level a claim must reach when it comes first in Holm's order."""
        return self.alpha / max(self.family, 1)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A decision with what backs it.

    Attributes:
        decision: readings turned into p-values; `stats.conclude` adjusts them for the family.
        per_scene: one reading a scene, for finding the weakest cases.
        per_cluster: one reading an independent cluster.
        detected: share of samples in which an effect of the margin's size is found; None for
            contracts.
        exercise: what the cases met.
        numbers: further figures by name.
    """

    decision: Decision
    per_scene: NDArray[np.float64]
    per_cluster: NDArray[np.float64]
    detected: float | None
    exercise: Mapping[str, int]
    numbers: Mapping[str, float]


def judge(claim: Claim, measured: Measured, clusters: Sequence[str], level: Level) -> Judged:
    """Turn the readings of one claim into a decision, not yet adjusted for the family."""
    detected: float | None = None
    readings = measured.broken if isinstance(measured, Contract) else measured.values
    if np.shape(readings) != (len(clusters),):
        raise UsageError(
            f"claim {claim.id!r} wants one reading for each of {len(clusters)} scenes, "
            f"came {np.shape(readings)}"
        )
    if isinstance(measured, Contract):
        broken = np.asarray(measured.broken, dtype=np.float64)
        count = int(broken.sum()) if np.isfinite(broken).all() else measured.cases
        decision = decide_contract(min(count, measured.cases), measured.cases, measured.exercise)
        per_scene, grouped = -broken, by_cluster(-broken, clusters)
    else:
        per_scene = np.asarray(measured.values, dtype=np.float64)
        distance = isinstance(measured, Distances)
        # Distances are averaged as squares: a scene far off must not hide behind its neighbours.
        grouped = by_cluster(per_scene**2 if distance else per_scene, clusters)
        grouped = np.sqrt(grouped) if distance else grouped
        margin = 0.0 if claim.margin is None else claim.margin
        if isinstance(measured, Effects):
            placebos = measured.placebos
            against = None if placebos is None else by_cluster(np.asarray(placebos), clusters)
            decision = _decided(
                grouped.tobytes(), None if against is None else against.tobytes(), margin, level,
                claim.unit,
            )  # fmt: skip
            noise = _noise(grouped, against, margin)
        else:
            decision = _bounded(grouped.tobytes(), margin, level, claim.unit)
            noise = grouped
            per_scene = -per_scene
        detected = _detected(claim, measured, noise, clusters, level)
        unmet = sorted(name for name, count in measured.exercise.items() if count <= 0)
        if unmet and decision.outcome is not Outcome.INVALID:
            decision = Decision(
                outcome=Outcome.INCONCLUSIVE,
                reason=f"no case met: {', '.join(unmet)}",
                effect=decision.effect, null=decision.null, p_hold=1.0, p_refute=1.0, n=decision.n,
            )  # fmt: skip
    return Judged(
        decision=decision,
        per_scene=per_scene,
        per_cluster=grouped,
        detected=detected,
        exercise=measured.exercise,
        numbers=measured.numbers,
    )


@lru_cache(maxsize=2048)  # models that differ in one step share most readings, bit for bit
def _decided(
    effects: bytes, placebos: bytes | None, margin: float, level: Level, unit: str
) -> Decision:
    return decide_causes(
        np.frombuffer(effects), None if placebos is None else np.frombuffer(placebos),
        margin=margin, alpha=level.each, level=level.confidence, seed=level.seed, unit=unit,
    )  # fmt: skip


@lru_cache(maxsize=2048)
def _bounded(distances: bytes, margin: float, level: Level, unit: str) -> Decision:
    return decide_no_effect(
        np.frombuffer(distances), margin=margin, alpha=level.each, level=level.confidence,
        seed=level.seed, unit=unit,
    )  # fmt: skip


def _noise(
    effects: NDArray[np.float64], placebos: NDArray[np.float64] | None, margin: float
) -> NDArray[np.float64]:
    """Return unit readings that spread as they would around an effect of the margin's size.

    Placebos do, where there are any. Otherwise the effects' own spread is taken, in proportion: a
    large effect differs more between photographs than one of the margin's size would.
    """
    if placebos is not None:
        return placebos
    mean = abs(float(effects.mean()))
    return effects * min(1.0, margin / mean) if mean > 0 and np.isfinite(mean) else effects


def _detected(
    claim: Claim,
    measured: Effects | Distances,
    net: NDArray[np.float64],
    clusters: Sequence[str],
    level: Level,
) -> float | None:
    """Return how often an effect of the margin's size would be found, at this check's noise.

    None where that says nothing: a distance without a spike written into the model.
    """
    margin = claim.margin or 0.0
    if not np.isfinite(net).all() or len(net) < 2 or margin == 0.0:
        return None
    if measured.spiked is None and isinstance(measured, Distances):
        return None
    spiked = margin / claim.spike_scale
    if measured.spiked is not None:
        spiked = float(by_cluster(np.asarray(measured.spiked), clusters).mean())
    spiked *= claim.spike_scale
    if not np.isfinite(spiked):
        return 0.0
    if isinstance(measured, Distances):
        # A change of the margin's size must be read as at least nine tenths of it.
        return 1.0 if spiked >= 0.9 * margin else 0.0
    return _rate(tuple(net.tolist()), spiked, level.each, level.seed)


@lru_cache(maxsize=1024)  # the dearest part of a decision; faulty models share most readings
def _rate(noise: tuple[float, ...], spiked: float, alpha: float, seed: int) -> float:
    return detection_rate(
        noise, spiked, len(noise), alpha, n_sims=200, seed=seed, enough=LEAST_DETECTED
    )
