"""Geometry of the page's figures: numbers in, coordinates out. The template draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arrcoc_verify.report.event import Decomposition, Share, Tension
from arrcoc_verify.verdict import Estimate, Verdict

AT_MOST = ("no_effect", "independent", "conserved")
"""Kinds of claim whose effect must stay below the margin."""

DISTANCE = "root mean square"
"""How the method of an interval of a distance begins; it too must stay below the margin."""

SHOWN_MARGINS = (-1.5, 4.0)
"""What a small plot shows, in margins; an arrow marks what lies beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A straight axis: `low`..`high` in a unit onto `left`..`right` in pixels."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """Return the pixel of a value; what lies beyond the axis is put at its end."""
        span = self.high - self.low or 1.0
        inside = min(max((value - self.low) / span, 0.0), 1.0) if math.isfinite(value) else 0.0
        return round(self.left + inside * (self.right - self.left), 1)

    def ticks(self, about: int = 5) -> list[tuple[float, float]]:
        """Return (pixel, value) of round values along the axis."""
        rough = (self.high - self.low or 1.0) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(k * step), round(k * step, 12)) for k in range(first, last + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPlot:
    """An effect with its interval against zero, the margin, what is claimed and the null."""

    width: float
    zero: float
    margins: Sequence[float]
    claimed: tuple[float, float]
    null: tuple[float, float] | None
    low: float
    high: float
    dot: float | None
    beyond_left: bool
    beyond_right: bool


def stays_below(verdict: Verdict) -> bool:
    """Whether the effect must stay below the margin for the claim to hold; else it must reach it.

    Some kinds, such as `mediates`, are read either as an effect or as a distance that must vanish,
    so the reading decides before the kind.
    """
    distance = verdict.effect is not None and verdict.effect.method.startswith(DISTANCE)
    return distance or verdict.kind in AT_MOST


def claimed_range(verdict: Verdict) -> tuple[float, float]:
    """Return the range in which the effect must lie for the claim to hold, in its unit."""
    margin = verdict.margin or 0.0
    if stays_below(verdict):
        return -abs(margin), abs(margin)
    return (margin, math.inf) if margin >= 0 else (-math.inf, margin)


def margin_scale(margin: float, width: float) -> Scale:
    """Return the axis of a small plot: in margins, so that rows of different units compare."""
    ends = sorted((SHOWN_MARGINS[0] * margin, SHOWN_MARGINS[1] * margin))
    mirrored = margin < 0
    left, right = (width, 0.0) if mirrored else (0.0, width)
    return Scale(low=ends[0], high=ends[1], left=left, right=right)


def shared_scale(verdicts: Sequence[Verdict], width: float) -> Scale:
    """Return one axis that has room for zero and all effects, margins and nulls."""
    values = [0.0]
    for verdict in verdicts:
        for estimate in (verdict.effect, verdict.null):
            if estimate is not None:
                values += [estimate.low, estimate.high, estimate.value]
        ends = [end for end in claimed_range(verdict) if math.isfinite(end)]
        values += ends[1:] if stays_below(verdict) else ends
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = 0.04 * (high - low or 1.0)
    return Scale(low=low - room, high=high + room, left=0.0, right=width)


def interval_plot(verdict: Verdict, scale: Scale) -> IntervalPlot | None:
    """Return the plot of a verdict on an axis; None when nothing finite was measured."""
    effect = verdict.effect
    if effect is None or not math.isfinite(effect.value):
        return None
    low = effect.low if math.isfinite(effect.low) else scale.low
    high = effect.high if math.isfinite(effect.high) else scale.high
    claimed = sorted(scale.at(_inside(end, scale)) for end in claimed_range(verdict))
    mirrored = scale.left > scale.right
    below, above = low < scale.low, high > scale.high
    ends = sorted((scale.at(low), scale.at(high)))
    return IntervalPlot(
        width=abs(scale.right - scale.left),
        zero=scale.at(0.0),
        margins=[
            scale.at(end) for end in claimed_range(verdict) if scale.low < end < scale.high and end
        ],
        claimed=(claimed[0], round(claimed[1] - claimed[0], 1)),
        null=_span(verdict.null, scale),
        low=ends[0],
        high=ends[1],
        dot=scale.at(effect.value) if scale.low <= effect.value <= scale.high else None,
        beyond_left=above if mirrored else below,
        beyond_right=below if mirrored else above,
    )


def _inside(end: float, scale: Scale) -> float:
    return min(max(end, scale.low), scale.high)


def _span(estimate: Estimate | None, scale: Scale) -> tuple[float, float] | None:
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return None
    ends = sorted((scale.at(estimate.low), scale.at(estimate.high)))
    return ends[0], round(max(ends[1] - ends[0], 1.0), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One bar of a waterfall; `change` is None for a bar that stands on zero."""

    label: str
    level: float
    change: float | None
    x: float
    width: float
    end: float


def waterfall(steps: Sequence[tuple[str, float]], width: float) -> list[Step]:
    """Return the bars of a waterfall; each step gives the level that was reached.

    The first bar stands on zero, each further one runs from the level before to its own, and a last
    one, which changes nothing, stands on zero again; it is added when the steps have none.
    """
    steps = list(steps)
    if len(steps) > 1 and steps[-1][1] != steps[-2][1]:
        steps.append(("in the end", steps[-1][1]))
    levels = [level for _, level in steps if math.isfinite(level)]
    scale = Scale(low=min(0.0, *levels, 0.0), high=max(1.0, *levels, 1.0), left=0.0, right=width)
    bars: list[Step] = []
    for place, (label, level) in enumerate(steps):
        before = bars[-1].level if bars else 0.0
        whole = place in (0, len(steps) - 1)
        ends = sorted((scale.at(0.0 if whole else before), scale.at(level)))
        bars.append(
            Step(label=label, level=level, change=None if whole else level - before, x=ends[0],
                 width=round(max(ends[1] - ends[0], 1.0), 1), end=scale.at(level))
        )  # fmt: skip
    return bars


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBar:
    """One source of variance: its piece of the stacked bar and its own bar with interval."""

    source: str
    share: float
    low: float
    high: float
    kind: int
    stack_x: float
    stack_width: float
    end: float
    low_x: float
    high_x: float


SOURCES = ("information", "salience", "query", "interactions", "position", "nuisance")
"""Sources that always have a row and a colour of their own; any other is an interaction."""

SMALL = 0.01
"""Other sources whose whole interval lies below this share are named in a line only."""


def shares(decomposition: Decomposition, width: float) -> tuple[list[ShareBar], Scale, list[Share]]:
    """Return the bars of a decomposition, the axis of the lower ones, and the small sources."""
    small = [s for s in decomposition.shares if s.source not in SOURCES and s.high < SMALL]
    shown = [s for s in decomposition.shares if s not in small and math.isfinite(s.share)]
    total = sum(max(s.share, 0.0) for s in (*shown, *small)) or 1.0
    highest = max((s.high for s in shown if math.isfinite(s.high)), default=1.0)
    scale = Scale(low=0.0, high=max(highest, 0.1) * 1.04, left=0.0, right=width)
    bars = []
    x = 0.0
    for share in shown:
        piece = width * max(share.share, 0.0) / total
        kind = share.source if share.source in SOURCES else "interactions"
        bars.append(
            ShareBar(source=share.source, share=share.share, low=share.low, high=share.high,
                     kind=SOURCES.index(kind), stack_x=round(x, 1), stack_width=round(piece, 1),
                     end=scale.at(share.share), low_x=scale.at(share.low),
                     high_x=scale.at(share.high))
        )  # fmt: skip
        x += piece
    return bars, scale, small


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A scene in one panel of tension space; `kind` 0..5 chooses its shape."""

    x: float
    y: float
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Two tensions against each other."""

    across: str
    up: str
    dots: Sequence[Dot]
    x: Scale
    y: Scale


MOST_GROUPS = 5
"""So many queries have a shape of their own in tension space; the others share the last one."""


def tension_panels(tension: Tension, size: float) -> tuple[list[Panel], list[str]]:
    """Return a panel for each pair of tensions, and the queries in the order of their shapes."""
    names = list(dict.fromkeys(name for point in tension.points for name in point.values))
    groups = list(dict.fromkeys(point.query for point in tension.points))
    scales = {name: _tension_scale(tension, name) for name in names}
    panels = []
    for i, across in enumerate(names):
        for up in names[i + 1 :]:
            x = Scale(low=scales[across][0], high=scales[across][1], left=0.0, right=size)
            y = Scale(low=scales[up][0], high=scales[up][1], left=size, right=0.0)
            dots = [
                Dot(x=x.at(p.values[across]), y=y.at(p.values[up]),
                    kind=min(groups.index(p.query), MOST_GROUPS))
                for p in tension.points if across in p.values and up in p.values
            ]  # fmt: skip
            panels.append(Panel(across=across, up=up, dots=dots, x=x, y=y))
    shown = groups[:MOST_GROUPS]
    rest = len(groups) - len(shown)
    return panels, [*shown, f"{rest} other queries"] if rest else shown


def _tension_scale(tension: Tension, name: str) -> tuple[float, float]:
    values = [p.values[name] for p in tension.points if math.isfinite(p.values.get(name, math.nan))]
    if values and min(values) >= 0 and max(values) <= 1:
        return 0.0, 1.0
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.05 * (high - low or 1.0)
    return low - room, high + room
