"""What the page shows of one case: picture, maps on stated scales, weights, waterfall.

The three scores of a case share one scale: rescaling each would make a dead scorer look alive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report import colour, figure, text
from arrcoc_verify.report.event import Image
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Case, Outcome, Verdict

SEVERITY = (
    Outcome.REFUTED, Outcome.INVALID, Outcome.INCONCLUSIVE,
    Outcome.NOT_RUN, Outcome.NOT_APPLICABLE, Outcome.HOLDS,
)  # fmt: skip
"""Outcomes from the one to read first to the one to read last."""

FLAT = 0.05
"""A score map whose spread is less than this part of the shared scale is called nearly flat."""

WATERFALL_WIDTH = 260

_NOT_SCORES = ("weights", "relevance", "tokens", "membership")
_ALIASES = {"lod": "tokens", "allocation": "tokens", "weight": "weights"}

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """One map: picture, the scale its colours mean, and what it says in numbers."""

    name: str
    uri: Markup
    low: float
    high: float
    least: float
    most: float
    inside: float | None
    outside: float | None
    rows: int
    columns: int
    flat: bool = False

    @property
    def alt(self) -> str:
        """The map in words, for those who do not see it."""
        words = (
            f"Map of {self.name}, {self.rows} by {self.columns} patches, "
            f"from {text.number(self.least)} to {text.number(self.most)}"
        )
        if self.inside is not None:
            words += (
                f"; mean over the target {text.number(self.inside)}, "
                f"elsewhere {text.number(self.outside)}"
            )
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightView:
    """One scorer's weight: mean over the target (or everywhere), and its range over patches."""

    name: str
    mean: float
    least: float
    most: float
    x: float
    width: float
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseView:
    """Everything the page shows of one case."""

    verdict: Verdict
    case: Case
    picture: str
    width: int
    height: int
    region: tuple[int, int, int, int] | None
    scores: Sequence[MapView]
    weights: Sequence[WeightView]
    relevance: MapView | None
    tokens: MapView | None
    others: Sequence[MapView]
    steps: Sequence[figure.Step]
    missing: Sequence[str]

    @property
    def strip(self) -> list[MapView]:
        """The maps in the order in which data flows, without the tokens."""
        return [*self.scores, *([self.relevance] if self.relevance else []), *self.others]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile:
    """One picture with its query, and every case that was kept of it, weakest first."""

    view: CaseView
    also: Sequence[CaseView]


def files_of(views: Sequence[CaseView]) -> list[CaseFile]:
    """Return views joined where they show the same: one picture, query, target and maps."""
    files: dict[tuple[Any, ...], list[CaseView]] = {}
    for view in views:
        case = view.case
        maps = tuple(sorted(case.maps.items()))
        same = (case.scene, case.query, case.image, case.region, maps, tuple(case.waterfall))
        files.setdefault(same, []).append(view)
    return [CaseFile(view=first, also=rest) for first, *rest in files.values()]


def ordered_cases(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, Case]]:
    """Return all cases, weakest first.

    Refuted claims come first, then invalid, inconclusive and the rest; among equals, the worst case
    of every claim before the second worst of any.
    """
    ranked = [
        ((SEVERITY.index(verdict.outcome), place, number), verdict, case)
        for number, verdict in enumerate(verdicts)
        for place, case in enumerate(verdict.worst)
    ]
    ranked.sort(key=lambda row: row[0])
    return [(verdict, case) for _, verdict, case in ranked]


def case_view(record: Record, verdict: Verdict, case: Case) -> CaseView:
    """Return what the page shows of a case; arrays that cannot be read are named in `missing`."""
    arrays, missing = _arrays(record, case)
    size = _size(record, case)
    masks = {name: _target(array, case, size) for name, array in arrays.items()}
    score_names = [n for n in arrays if n not in _NOT_SCORES and arrays[n].ndim == 2]
    known = [n for n in score_names if n in ("information", "salience", "query")] or score_names
    scores = [n for n in score_names if n in known or _is_score(n, case)]
    low, high = _range([arrays[name] for name in scores])
    views = {
        name: _map(name, arrays[name], masks[name], (low, high) if name in scores else None)
        for name in arrays
        if arrays[name].ndim == 2
    }
    picture = case.image if case.image and record.has(case.image) else ""
    return CaseView(
        verdict=verdict,
        case=case,
        picture=picture,
        width=size[0],
        height=size[1],
        region=case.region,
        scores=[views[name] for name in scores],
        weights=_weights(arrays.get("weights"), scores, masks),
        relevance=views.get("relevance"),
        tokens=views.get("tokens"),
        others=[v for n, v in views.items() if n not in (*scores, *_NOT_SCORES)],
        steps=figure.waterfall(case.waterfall, WATERFALL_WIDTH) if case.waterfall else (),
        missing=missing,
    )


def _is_score(name: str, case: Case) -> bool:
    return any(key == f"knowing.{name}" for key in case.maps)


def _arrays(record: Record, case: Case) -> tuple[dict[str, Floats], list[str]]:
    arrays: dict[str, Floats] = {}
    missing = []
    for full_name, sha in case.maps.items():
        name = full_name.rpartition(".")[2]
        name = _ALIASES.get(name, name)
        try:
            array = np.asarray(record.array(sha), dtype=np.float64)
        except RecordError as error:
            missing.append(f"{full_name}: {error}")
            continue
        if array.size and 1 <= array.ndim <= 3:
            arrays[name] = array
        else:
            missing.append(f"{full_name}: shape {array.shape} is no map")
    order = ("information", "salience", "query")
    return dict(sorted(arrays.items(), key=lambda row: _place(row[0], order))), missing


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _size(record: Record, case: Case) -> tuple[int, int]:
    for image in record.of(Image):
        if image.sha == case.image:
            return image.width, image.height
    return 256, 256


def _target(array: Floats, case: Case, size: tuple[int, int]) -> Floats | None:
    """Return which cells of a map have their centre in the target; the nearest one if none has."""
    if case.region is None or array.ndim < 2:
        return None
    rows, columns = array.shape[-2:]
    x, y, width, height = case.region
    across = (np.arange(columns) + 0.5) * size[0] / columns
    down = (np.arange(rows) + 0.5) * size[1] / rows
    inside = ((down >= y) & (down < y + height))[:, None] & ((across >= x) & (across < x + width))
    if not inside.any():
        nearest = (np.abs(down - y - height / 2).argmin(), np.abs(across - x - width / 2).argmin())
        inside[nearest] = True
    mask: Floats = inside.astype(np.float64)
    return mask


def _range(arrays: Sequence[Floats]) -> tuple[float, float]:
    finite = [array[np.isfinite(array)] for array in arrays]
    finite = [array for array in finite if array.size]
    if not finite:
        return 0.0, 1.0
    return min(float(a.min()) for a in finite), max(float(a.max()) for a in finite)


def _map(
    name: str, array: Floats, target: Floats | None, shared: tuple[float, float] | None
) -> MapView:
    least, most = _range([array])
    low, high = shared or (least, most)
    rows, columns = array.shape
    inside = outside = None
    if target is not None and target.shape == array.shape:
        inside = float(array[target > 0].mean())
        outside = float(array[target == 0].mean()) if (target == 0).any() else math.nan
    return MapView(
        name=name,
        uri=colour.map_uri(array, low, high),
        low=low,
        high=high,
        least=least,
        most=most,
        inside=inside,
        outside=outside,
        rows=rows,
        columns=columns,
        flat=shared is not None and most - least < FLAT * (high - low),
    )


def _weights(
    array: Floats | None, scores: Sequence[str], masks: Mapping[str, Floats | None]
) -> list[WeightView]:
    """Return one bar for each weight of `[scorer]`, `[scorer, h, w]` or `[h, w, scorer]`."""
    if array is None:
        return []
    if array.ndim == 3 and array.shape[-1] == len(scores) != array.shape[0]:
        array = np.moveaxis(array, -1, 0)
    flat = array.reshape(array.shape[0], -1)
    names = scores if len(scores) == len(flat) else [f"weight {i + 1}" for i in range(len(flat))]
    target = masks.get("weights")
    chosen = None if target is None or target.size != flat.shape[1] else target.reshape(-1) > 0
    means = [float((row if chosen is None else row[chosen]).mean()) for row in flat]
    total = sum(max(mean, 0.0) for mean in means if math.isfinite(mean)) or 1.0
    views = []
    x = 0.0
    for kind, (name, mean, row) in enumerate(zip(names, means, flat, strict=True)):
        piece = 100 * max(mean, 0.0) / total if math.isfinite(mean) else 0.0
        views.append(
            WeightView(name=name, mean=mean, least=float(row.min()), most=float(row.max()),
                       x=round(x, 2), width=round(piece, 2), kind=kind % 6)
        )  # fmt: skip
        x += piece
    return views
