"""What one line of `results.jsonl` can say, as plain data.

Each line is an object with `event` (one of `EVENTS`), `seq` (its number, from 0) and the fields of
the class of that name. Gates and claims carry a `GateResult` and a `Verdict`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from arrcoc_verify.errors import RecordError
from arrcoc_verify.verdict import (
    Estimate,
    GateResult,
    Suspect,
    Verdict,
    gate_from_json,
    to_json,
    verdict_from_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate's result."""

    gate: GateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim's verdict, and its effect unit by unit when it was kept.

    Attributes:
        verdict: the end of the claim.
        units: sha256 of an array `[unit]` of effects in the record, or "" when not kept.
        unit_names: names of those units in the same order, so that two runs can be paired.
    """

    verdict: Verdict
    units: str = ""
    unit_names: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The share of a variance that one source causes, 0..1, with its interval."""

    source: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """Which share of the variance of the target's tokens each source causes.

    Attributes:
        shares: information, salience, query, interactions, position, nuisance.
        metric: what varies, such as `tokens of the target`.
        level: confidence level of the intervals, 0..1.
        n: independent clusters behind them.
        method: how the shares were made.
    """

    shares: Sequence[Share]
    metric: str = "tokens of the target"
    level: float = 0.95
    n: int = 0
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow:
    """The effects of one scorer, and what closed form predicts for each.

    Attributes:
        scorer: such as `information`.
        total: everything that follows from the intervention.
        local: the allocator's budget multiplier frozen.
        unrepaired: weights and normalisers frozen too.
        mediated: total minus local.
        analytic: name of an effect -> its predicted value, for the budget shared out again by
            hand; absent where no closed form exists.
    """

    scorer: str
    total: Estimate | None = None
    local: Estimate | None = None
    unrepaired: Estimate | None = None
    mediated: Estimate | None = None
    analytic: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Total, local, unrepaired and mediated effects of every scorer."""

    rows: Sequence[EffectRow]
    metric: str = "tokens of the target"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationRow:
    """How much one measured factor moved when one factor was edited.

    Attributes:
        edited: factor that was changed.
        measured: factor that was read by an estimator which no model uses.
        movement: its mean movement, in `unit`.
        limit: largest movement allowed when the two differ; None on the diagonal.
        unit: what movement is counted in.
    """

    edited: str
    measured: str
    movement: float
    limit: float | None = None
    unit: str = "sd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The isolation of the edits: movements, and how many pairs the rule dropped by factor."""

    rows: Sequence[IsolationRow]
    kept: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensionPoint:
    """The balancer's tensions for one scene and query: name of the tension -> value."""

    scene: str
    query: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tension:
    """Points in tension space; `group` of a point is its query."""

    points: Sequence[TensionPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """A declared site: its stage, the shape of one run's activation and its number type."""

    name: str
    stage: str
    shape: Sequence[int | str] = ()
    dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Every site that the adapter declares."""

    rows: Sequence[SiteRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopPatch:
    """A patch on which a latent fires strongly.

    Attributes:
        scene: name of the scene.
        query: what was asked of it.
        patch: number of the patch, row by row.
        code: how strongly it fires.
        image: sha256 of the picture of the patch with its neighbours, or "".
    """

    scene: str
    query: str
    patch: int
    code: float
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """What one latent of a dictionary is.

    Attributes:
        latent: its number.
        chosen: the factor whose claim rests on it, or "" for one that is only shown.
        density: share of patches on which it fires, 0..1.
        way: how it knows: propositional, perspectival, participatory, transjective or unclear.
        tokens: change of tokens a patch where it fires when it is ablated; None: not measured.
        answers: factor -> change of its code over the target, in its own strength.
        top: patches, strongest first.
        looks_like: names nearest to what its strongest patches show; none if random patches have
            names as near.
    """

    latent: int
    chosen: str = ""
    density: float = 0.0
    way: str = "unclear"
    tokens: Estimate | None = None
    answers: Mapping[str, Estimate] = field(default_factory=dict)
    top: Sequence[TopPatch] = ()
    looks_like: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Latents of the dictionary of one site, measured on scenes that did not choose them."""

    site: str
    rows: Sequence[FeatureRow] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader should know; `level` is info, warning or error."""

    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture kept in the record, and its size before it was made small.

    Attributes:
        sha: sha256 of the kept file `images/<sha>.webp`.
        width: pixels of the picture as it was given; regions of cases count in these.
        height: the same.
    """

    sha: str
    width: int
    height: int


Event = (
    Gate
    | Claim
    | Decomposition
    | Effects
    | Isolation
    | Tension
    | Sites
    | Features
    | Suspect
    | Note
    | Image
)

_KINDS: Mapping[type, str] = {
    Gate: "gate",
    Claim: "claim",
    Decomposition: "decomposition",
    Effects: "effects",
    Isolation: "isolation",
    Tension: "tension",
    Sites: "sites",
    Features: "features",
    Suspect: "suspected",
    Note: "note",
    Image: "image",
}
EVENTS = tuple(_KINDS.values())

T = TypeVar("T")


def event_to_json(event: Event, seq: int) -> dict[str, Any]:
    """Return the line of an event as strict JSON data."""
    return {"event": _KINDS[type(event)], "seq": seq, **to_json(event)}


def event_from_json(data: Mapping[str, Any]) -> Event | None:
    """Return the event of a line; None for a kind that a later version added."""
    kind = str(data.get("event"))
    reader = _READERS.get(kind)
    try:
        return None if reader is None else reader(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"line {data.get('seq')} ({kind}) of the record cannot be read: {error!r}"
        ) from error


def finite(value: Any) -> Any:
    """Return JSON data with marked non-finite numbers turned back into floats."""
    if isinstance(value, dict):
        if set(value) == {"nonfinite"}:
            return float(value["nonfinite"])
        return {key: finite(item) for key, item in value.items()}
    return tuple(finite(item) for item in value) if isinstance(value, list) else value


def _build(cls: type[T], data: Mapping[str, Any], **replaced: Any) -> T:
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    known = {key: finite(item) for key, item in data.items() if key in names}
    return cls(**{**known, **replaced})


def _gate(data: Mapping[str, Any]) -> Gate:
    return Gate(gate=gate_from_json(data["gate"]))


def _claim(data: Mapping[str, Any]) -> Claim:
    return _build(Claim, data, verdict=verdict_from_json(data["verdict"]))


def _decomposition(data: Mapping[str, Any]) -> Decomposition:
    return _build(Decomposition, data, shares=tuple(_build(Share, s) for s in data["shares"]))


def _effect_row(data: Mapping[str, Any]) -> EffectRow:
    names = ("total", "local", "unrepaired", "mediated")
    estimates = {n: _build(Estimate, data[n]) for n in names if data.get(n) is not None}
    return _build(EffectRow, data, **estimates)


def _effects(data: Mapping[str, Any]) -> Effects:
    return _build(Effects, data, rows=tuple(_effect_row(row) for row in data["rows"]))


def _isolation(data: Mapping[str, Any]) -> Isolation:
    return _build(Isolation, data, rows=tuple(_build(IsolationRow, row) for row in data["rows"]))


def _tension(data: Mapping[str, Any]) -> Tension:
    return Tension(points=tuple(_build(TensionPoint, point) for point in data["points"]))


def _sites(data: Mapping[str, Any]) -> Sites:
    return Sites(rows=tuple(_build(SiteRow, row) for row in data["rows"]))


def _feature_row(data: Mapping[str, Any]) -> FeatureRow:
    tokens = data.get("tokens")
    return _build(
        FeatureRow, data, tokens=None if tokens is None else _build(Estimate, tokens),
        answers={name: _build(Estimate, one) for name, one in data["answers"].items()},
        top=tuple(_build(TopPatch, one) for one in data["top"]),
    )  # fmt: skip


def _features(data: Mapping[str, Any]) -> Features:
    return _build(Features, data, rows=tuple(_feature_row(row) for row in data["rows"]))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "gate": _gate,
    "claim": _claim,
    "decomposition": _decomposition,
    "effects": _effects,
    "isolation": _isolation,
    "tension": _tension,
    "sites": _sites,
    "features": _features,
    "suspected": lambda data: _build(Suspect, data),
    "note": lambda data: _build(Note, data),
    "image": lambda data: _build(Image, data),
}
