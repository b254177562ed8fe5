"""What came out of a check: plain data, JSON both ways, no torch.

Only `holds` is green. A number that is not finite is written as `{"nonfinite": "nan"}` so that it
neither becomes `null` nor breaks strict JSON readers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """The six ends of a claim; only `HOLDS` is green."""

    HOLDS = "holds"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    NOT_APPLICABLE = "not_applicable"
    NOT_RUN = "not_run"


STAGES = (
    "input", "query", "encoder", "knowing", "balancing",
    "attending", "realising", "training", "runtime", "report",
)  # fmt: skip
"""Where a fault or a finding can lie, in the order in which data flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: point estimate, in `unit`.
        low: lower end of the interval.
        high: upper end of the interval.
        level: confidence level of the interval, 0..1.
        n: independent clusters behind it.
        unit: what one is counted in, such as `tokens per patch`.
        method: how the interval was made, such as `bootstrap-t`.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Where the fault behind refuted claims or failed gates seems to lie.

    Attributes:
        stage: one of `STAGES`.
        part: the part of it, such as a scorer, or "".
        site: first site that differs, or "".
        reason: the experiment or the claims that say so.
    """

    stage: str
    part: str = ""
    site: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A person's word that a verdict is accepted; the verdict itself is unchanged."""

    claim: str
    reason: str
    author: str
    expires: str
    """ISO date; after it the waiver no longer applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image and query behind a verdict: what a debugger opens first.

    Attributes:
        id: content hash of image, query and claim, so the same case keeps its id.
        scene: name of the scene.
        query: the text asked.
        effect: the measured effect on this case, in the claim's unit.
        image: sha256 of the encoded picture in the record, or "" when not kept.
        maps: name -> sha256 of an array `[height, width]` in the record.
        region: target region as (x, y, width, height) in pixels of the picture, or None.
        waterfall: ordered (label, tokens) steps from an equal share to the final tokens.
        replay: the command that shows this case again.
    """

    id: str
    scene: str
    query: str
    effect: float
    image: str = ""
    maps: Mapping[str, str] = field(default_factory=dict)
    region: tuple[int, int, int, int] | None = None
    waterfall: Sequence[tuple[str, float]] = ()
    replay: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A check that must hold before causal claims mean anything.

    Attributes:
        id: such as `runtime.batch-invariance`.
        sentence: what must hold, in plain words.
        stage: one of `STAGES`.
        passed: True, False, or None when it does not apply or was not run (`reason` says why).
        reason: why it failed or did not apply; empty when it passed.
        measured: what was measured, such as the largest difference; None when nothing was.
        limit: the bound it had to keep.
        unit: unit of both.
    """

    id: str
    sentence: str
    stage: str
    passed: bool | None
    reason: str = ""
    measured: float | None = None
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of one claim, with everything needed to judge it.

    Attributes:
        id: the claim's id, such as `knowing.information-causes-tokens`.
        sentence: what is claimed.
        stage: one of `STAGES`.
        kind: causes, no_effect, mediates, necessary, sufficient, monotone, independent, conserved,
            sensitive_to.
        outcome: the verdict.
        reason: one sentence that says why this outcome.
        operation: what was done to the model or its input.
        source: where the claim comes from.
        required: False means that it is shown but does not decide the exit code.
        effect: the estimate the verdict rests on; None for contracts without a size.
        null: the same reading on placebos.
        margin: smallest effect that matters, in the estimate's unit, fixed before the run.
        p_value: unadjusted p of the test that decided, if there was one.
        p_adjusted: the same after the family's adjustment.
        n: independent clusters used.
        n_needed: when inconclusive, the n that would decide at the observed spread.
        exercise: what the cases met, name -> count.
        controls: name -> "fired", "silent", "missed" or "not_run".
        failed_gates: ids of gates that made it invalid.
        worst: the cases furthest from what is claimed.
        numbers: further figures by name (violations, fraction, correlation ...).
        waiver: a person's acceptance beside the unchanged outcome.
        seconds: wall time spent on it.
    """

    id: str
    sentence: str
    stage: str
    kind: str
    outcome: Outcome
    reason: str
    operation: str = ""
    source: str = ""
    required: bool = True
    effect: Estimate | None = None
    null: Estimate | None = None
    margin: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    n: int = 0
    n_needed: int | None = None
    exercise: Mapping[str, int] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    failed_gates: Sequence[str] = ()
    worst: Sequence[Case] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    waiver: Waiver | None = None
    seconds: float = 0.0


def exit_code(verdicts: Sequence[Verdict], today: str, gates: Sequence[GateResult] = ()) -> int:
    """Return what the run says to the outside: 0 only if all required claims hold and one ran.

    1 refuted, 2 invalid or not run (or nothing ran), 3 only inconclusive left. A waiver that has
    not expired on `today` (ISO date) takes its verdict out of the count, except that it never
    makes an empty run green. A gate that failed counts as invalid.
    """
    required = [v for v in verdicts if v.required and v.outcome is not Outcome.NOT_APPLICABLE]
    open_ = [v for v in required if v.waiver is None or not today <= v.waiver.expires]
    outcomes = {v.outcome for v in open_}
    if Outcome.REFUTED in outcomes:
        return 1
    failed = any(gate.passed is False for gate in gates)
    if failed or outcomes & {Outcome.INVALID, Outcome.NOT_RUN}:
        return 2
    if Outcome.INCONCLUSIVE in outcomes:
        return 3
    ran = any(v.outcome is Outcome.HOLDS for v in required)
    return 0 if ran and outcomes <= {Outcome.HOLDS} else 2


def to_json(value: Any) -> Any:
    """Return `value` as strict JSON data: dataclasses as objects, non-finite numbers marked."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"nonfinite": str(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"nonfinite"}:
            return float(value["nonfinite"])
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    return value


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """Return the verdict that `to_json` wrote."""
    known = {f.name for f in fields(Verdict)}
    plain = {key: _plain(item) for key, item in data.items() if key in known}
    plain["outcome"] = Outcome(plain["outcome"])
    for name in ("effect", "null"):
        if plain.get(name) is not None:
            plain[name] = Estimate(**plain[name])
    if plain.get("waiver") is not None:
        plain["waiver"] = Waiver(**plain["waiver"])
    plain["worst"] = tuple(Case(**case) for case in plain.get("worst", ()))
    return Verdict(**plain)


def gate_from_json(data: Mapping[str, Any]) -> GateResult:
    """Return the gate result that `to_json` wrote."""
    known = {f.name for f in fields(GateResult)}
    return GateResult(**{key: _plain(item) for key, item in data.items() if key in known})
