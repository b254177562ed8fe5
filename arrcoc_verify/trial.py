"""Put a model on trial: read the gates, measure the claims, and conclude over the whole family.

What the pytest plugin, the command line and the planted faults share. Nothing is written here.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.claim import (
    LEAST_DETECTED,
    Claim,
    Contract,
    Distances,
    Effects,
    Judged,
    Level,
    Measured,
    judge,
)
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.gate import Gate
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.stats.conclude import conclude, with_control
from arrcoc_verify.stats.decide import Decision
from arrcoc_verify.stats.known import first_wrong_answer
from arrcoc_verify.verdict import GateResult, Outcome, Verdict, Waiver

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""

SPIKE = "spike of the margin's size"


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is tried.

    Attributes:
        alpha: family-wise error of the run.
        confidence: level of the intervals shown.
        seed: of every draw.
        per_cluster: scenes of each independent cluster.
        claims: shell patterns of the ids that are tried.
        waivers: accepted verdicts.
        device: where the model runs.
        controls: check positive controls; without them nothing holds.
        today: ISO date for waivers; None means now.
    """

    alpha: float = 0.01
    confidence: float = 0.99
    seed: int = 0
    per_cluster: int = 2
    claims: tuple[str, ...] = ("*",)
    waivers: tuple[Waiver, ...] = ()
    device: str = "cpu"
    controls: bool = True
    today: str | None = None

    def date(self) -> str:
        """Return the ISO date on which waivers are judged."""
        return self.today or datetime.now(UTC).date().isoformat()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came out.

    Attributes:
        verdicts: one a claim, in the claims' order.
        gates: one a gate.
        judged: claim id -> readings behind its verdict; claims without readings are absent.
        clusters: names of the independent clusters, in the order of the readings.
    """

    verdicts: tuple[Verdict, ...]
    gates: tuple[GateResult, ...]
    judged: Mapping[str, Judged] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()


def read_gates(
    gates: Sequence[Gate], lab: Lab, done: Callable[[GateResult], None] | None = None
) -> list[GateResult]:
    """Read gates on the selection scenes; an error in the model fails the gate, with its reason."""
    results = []
    for gate in gates:
        try:
            result = gate.result(gate.read(lab))
        except NotApplicable as reason:
            result = GateResult(
                id=gate.id,
                sentence=gate.sentence,
                stage=gate.stage,
                passed=None,
                reason=str(reason),
            )
        except Exception as error:  # noqa: BLE001 - whatever the model raises is a finding
            result = GateResult(
                id=gate.id, sentence=gate.sentence, stage=gate.stage, passed=False,
                reason=_said(error),
            )  # fmt: skip
        results.append(result)
        if done is not None:
            done(result)
    return results


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, ArrcocError) else f"{type(error).__name__}: "
    return f"the check could not be made: {kind}{error}"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One claim, measured or not.

    Attributes:
        claim: what was tried.
        measured: its readings; None when there are none.
        outcome: final outcome when there are no readings.
        reason: why.
        failed: gates that made it invalid.
        seconds: wall time.
    """

    claim: Claim
    measured: Measured | None = None
    outcome: Outcome | None = None
    reason: str = ""
    failed: tuple[str, ...] = ()
    seconds: float = 0.0


def attempt(claim: Claim, lab: Lab, gates: Sequence[GateResult]) -> Attempt:
    """Measure one claim, unless a gate or the model's profile stands against it."""
    excluded = lab.model.profile.excluded.get(claim.id)
    if excluded is not None:
        reason = f"not claimed by this model's author: {excluded}"
        return Attempt(claim=claim, outcome=Outcome.NOT_APPLICABLE, reason=reason)
    if claim.id == "knowing.salience-ignores-query" and not lab.model.profile.salience_query_free:
        reason = "not claimed by this model's author: salience may depend on the query"
        return Attempt(claim=claim, outcome=Outcome.NOT_APPLICABLE, reason=reason)
    if "query.live" in claim.gates and lab.model.declaration.query_path == "none":
        reason = "the adapter declares that the model takes no query"
        return Attempt(claim=claim, outcome=Outcome.NOT_APPLICABLE, reason=reason)
    failed = [g for g in gates if g.id in claim.gates and g.passed is False]
    if failed:
        reason = f"gate {failed[0].id} failed: {failed[0].reason}"
        return Attempt(
            claim=claim, outcome=Outcome.INVALID, reason=reason, failed=tuple(g.id for g in failed)
        )
    start = time.perf_counter()
    try:
        measured = claim.measure(lab)
    except NotApplicable as reason:
        return Attempt(claim=claim, outcome=Outcome.NOT_APPLICABLE, reason=str(reason))
    except Exception as error:  # noqa: BLE001 - a crash is never a verdict on the claim
        return Attempt(claim=claim, outcome=Outcome.INVALID, reason=_said(error))
    return Attempt(claim=claim, measured=measured, seconds=time.perf_counter() - start)


BLOCK = 24
"""Scenes that are measured together: memory is bounded by this, not by the number of pictures."""


def blocks(lab: Lab, size: int = BLOCK) -> list[Lab]:
    """Return labs on parts of the scenes, whole in order, each with nothing computed yet."""
    return [lab.subset(range(i, min(i + size, len(lab)))) for i in range(0, len(lab), size)]


def joined(parts: Sequence[Attempt]) -> Attempt:
    """Return one attempt from those on parts of the scenes; what is not measured in one, is not."""
    stuck = next((part for part in parts if part.measured is None), None)
    if stuck is not None:
        return stuck
    readings = [part.measured for part in parts if part.measured is not None]
    first, seconds = readings[0], sum(part.seconds for part in parts)
    if len(readings) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for name in first.__dataclass_fields__:
        found = [getattr(reading, name) for reading in readings]
        if name in _ARRAYS:
            values[name] = (
                None if found[0] is None else np.concatenate([np.asarray(f) for f in found])
            )
        elif name == "cases":
            values[name] = sum(found)
        else:
            values[name] = {key: sum(f[key] for f in found) for key in found[0]}
            if name == "numbers":
                values[name] = {key: total / len(found) for key, total in values[name].items()}
    return replace(parts[0], measured=type(first)(**values), seconds=seconds)


def settle(
    attempts: Sequence[Attempt],
    clusters: Sequence[str],
    settings: Settings,
    faults_caught: Mapping[str, Mapping[str, str]] | None = None,
) -> Trial:
    """Conclude over all attempts at once: one family, one error rate.

    Args:
        attempts: every claim of the run.
        clusters: name of the cluster behind each scene.
        settings: error rates and seed.
        faults_caught: claim id -> positive control -> "fired", "missed", "silent" or "not_run".
    """
    family = [a for a in attempts if a.claim.margin is not None and _counts(a)]
    level = Level(
        alpha=settings.alpha, confidence=settings.confidence,
        family=max(len(family), 1), seed=settings.seed,
    )  # fmt: skip
    judged: dict[str, Judged] = {}
    decisions: list[Decision] = []
    wrong = first_wrong_answer()
    for one in attempts:
        if wrong:
            decisions.append(
                Decision(outcome=Outcome.INVALID, reason=f"the verifier itself errs: {wrong}")
            )
            continue
        if one.measured is None:
            decisions.append(_unmeasured(one))
            continue
        try:
            judged[one.claim.id] = judge(one.claim, one.measured, clusters, level)
            decisions.append(judged[one.claim.id].decision)
        except ArrcocError as error:
            decisions.append(
                Decision(outcome=Outcome.INVALID, reason=_said(error), p_hold=1.0, p_refute=1.0)
            )
    settled = decisions if wrong else conclude(decisions, settings.alpha)
    verdicts = [
        _verdict(one, decision, judged.get(one.claim.id), settings, faults_caught)
        for one, decision in zip(attempts, settled, strict=True)
    ]
    return Trial(
        verdicts=tuple(verdicts), gates=(), judged=judged,
        clusters=tuple(dict.fromkeys(clusters)),
    )  # fmt: skip


def _counts(one: Attempt) -> bool:
    return one.outcome is not Outcome.NOT_APPLICABLE


def _unmeasured(one: Attempt) -> Decision:
    outcome = one.outcome or Outcome.NOT_RUN
    tested = one.claim.margin is not None and _counts(one)
    return Decision(
        outcome=outcome, reason=one.reason,
        p_hold=1.0 if tested else None, p_refute=1.0 if tested else None,
    )  # fmt: skip


def _verdict(
    one: Attempt,
    decision: Decision,
    judged: Judged | None,
    settings: Settings,
    faults_caught: Mapping[str, Mapping[str, str]] | None,
) -> Verdict:
    claim = one.claim
    controls = dict((faults_caught or {}).get(claim.id, {}))
    if judged is not None and judged.detected is not None:
        controls[SPIKE] = "fired" if judged.detected >= LEAST_DETECTED else "missed"
        if not _seen_anyway(decision):
            decision = with_control(decision, judged.detected, LEAST_DETECTED)
    outcome, reason = decision.outcome, decision.reason
    seen = judged is not None and _seen_anyway(decision)
    missed = [
        name
        for name, state in controls.items()
        if state in ("missed", "not_run") and not (seen and name == SPIKE)
    ]
    if outcome is Outcome.HOLDS and missed and settings.controls:
        outcome = Outcome.INCONCLUSIVE
        reason = f"positive control {missed[0]!r} {controls[missed[0]]}: {reason}"
    waiver = next((w for w in settings.waivers if w.claim == claim.id), None)
    p, adjusted = _p_of(decision, outcome)
    numbers = dict(decision.numbers) | (dict(judged.numbers) if judged else {})
    if judged is not None and judged.detected is not None:
        numbers["detection rate at the margin"] = judged.detected
    return Verdict(
        id=claim.id, sentence=claim.sentence, stage=claim.stage, kind=claim.kind,
        outcome=outcome, reason=reason, operation=claim.operation, source=claim.source,
        required=claim.required, effect=decision.effect, null=decision.null, margin=claim.margin,
        p_value=p, p_adjusted=adjusted, n=decision.n, n_needed=decision.n_needed,
        exercise=dict(judged.exercise) if judged else {}, controls=controls,
        failed_gates=one.failed, numbers=numbers, waiver=waiver, seconds=one.seconds,
    )  # fmt: skip


def _seen_anyway(decision: Decision) -> bool:
    """Return whether the effect itself shows that the check can see.

    A check that is blind to the margin may not refute, nor hold that nothing happens. But one that
    found more than the margin, or an effect against the claim, has seen something.
    """
    effect = decision.effect
    if effect is None or not decision.sign_flip:
        return False
    return decision.outcome is Outcome.HOLDS or (
        decision.outcome is Outcome.REFUTED and effect.high < 0
    )


def _p_of(decision: Decision, outcome: Outcome) -> tuple[float | None, float | None]:
    if outcome is Outcome.REFUTED:
        return decision.p_refute, decision.p_refute_adjusted
    return decision.p_hold, decision.p_hold_adjusted


def try_model(  # noqa: PLR0913 - each is named at the call
    asserted: Lab,
    selected: Lab,
    claims: Sequence[Claim],
    gates: Sequence[Gate],
    settings: Settings,
    *,
    faults_caught: Mapping[str, Mapping[str, str]] | None = None,
    progress: Progress | None = None,
    keep: "Keep | None" = None,
) -> Trial:
    """Read the gates, measure the claims, conclude.

    Args:
        asserted: lab on the scenes that verdicts rest on.
        selected: lab on the scenes that gates look at.
        claims: what is claimed.
        gates: what must hold before.
        settings: error rates, seed, waivers.
        faults_caught: outcome of the positive controls by claim.
        progress: called as the work goes.
        keep: readings of an interrupted run, and where new ones are kept.
    """
    tell = progress or silent
    read = read_gates(gates, selected)
    tell("gates", len(gates), len(gates))
    parts: dict[str, list[Attempt]] = {claim.id: [] for claim in claims}
    asserted.scale = asserted.scale or selected
    labs = blocks(asserted)
    for number in range(len(labs)):
        lab = labs[number]
        labs[number] = asserted  # let go of its runs when the block is done
        for index, claim in enumerate(claims):
            tell(claim.id, number * len(claims) + index, len(labs) * len(claims))
            kept = keep.get(claim, number) if keep is not None else None
            one = kept or attempt(claim, lab, read)
            if keep is not None and kept is None:
                keep.put(one, number)
            parts[claim.id].append(one)
    tell("concluding", len(labs) * len(claims), len(labs) * len(claims))
    attempts = [joined(parts[claim.id]) for claim in claims]
    trial = settle(attempts, asserted.clusters(), settings, faults_caught)
    return replace(trial, gates=tuple(read))


class Keep:
    """Readings on disk, one file a claim, so that an interrupted run goes on where it was."""

    def __init__(self, folder: Path, key: str) -> None:
        """Use `folder`; readings made under another `key` (model, scenes, seed) are not taken."""
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, claim: Claim, block: int) -> Path:
        return self.folder / f"{claim.id}.{block}.json"

    def get(self, claim: Claim, block: int) -> Attempt | None:
        """Return what was measured on a block of scenes before, or None."""
        try:
            data = json.loads(self._path(claim, block).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if data.get("key") != self.key:
            return None
        return Attempt(
            claim=claim,
            measured=_measured_from(data["measured"]),
            outcome=Outcome(data["outcome"]) if data["outcome"] else None,
            reason=data["reason"],
            failed=tuple(data["failed"]),
            seconds=data["seconds"],
        )

    def put(self, one: Attempt, block: int) -> None:
        """Keep an attempt on a block of scenes; written whole or not at all."""
        data = {
            "key": self.key,
            "measured": _measured_to(one.measured),
            "outcome": str(one.outcome) if one.outcome else "",
            "reason": one.reason,
            "failed": list(one.failed),
            "seconds": one.seconds,
        }
        path = self._path(one.claim, block)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(path)


_KINDS = {kind.__name__: kind for kind in (Effects, Distances, Contract)}
_ARRAYS = ("values", "placebos", "spiked", "broken")


def _measured_to(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    data: dict[str, Any] = {"kind": type(measured).__name__}
    for name in measured.__dataclass_fields__:
        value = getattr(measured, name)
        data[name] = np.asarray(value).tolist() if name in _ARRAYS and value is not None else value
    return data


def _measured_from(data: dict[str, Any] | None) -> Measured | None:
    if data is None:
        return None
    kind = _KINDS[data.pop("kind")]
    arrays: dict[str, NDArray[np.float64]] = {
        name: np.asarray(value, dtype=np.float64)
        for name, value in data.items()
        if name in _ARRAYS and value is not None
    }
    return kind(**{**data, **arrays})
