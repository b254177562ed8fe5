"""Two records against each other: which verdicts flipped, and by how much effects moved.

Two-sided: what got better is listed as well as what got worse. Where both records kept effects unit
by unit, units of the same name are paired and the difference has a bootstrap-t interval; otherwise
intervals of independent runs are combined by the square-and-add rule (Zou and Donner 2008,
"Construction of confidence limits about effect measures", MOVER), and the page says which.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report import event as ev
from arrcoc_verify.report import text
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.report.html import page_of
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Estimate, Outcome, to_json

if TYPE_CHECKING:
    from rich.table import Table

LEAST_PAIRS = 8
"""Fewer pairs than this get a difference without an interval."""

RESAMPLES = 2000

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one claim.

    Attributes:
        id: the claim's id.
        state: `new`, `absent`, `flipped`, `updated` (same outcome, other effect) or `unchanged`.
        before: outcome in the first record; None when it has none.
        after: outcome in the second.
        better: True towards holds, False away from it, None when the outcome is the same or
            cannot be compared.
        effect_before: effect in the first record.
        effect_after: effect in the second.
        difference: second minus first with its interval; low and high are NaN when there is none.
        moved: whether the interval of the difference leaves zero out; None without an interval.
    """

    id: str
    state: str
    before: Outcome | None
    after: Outcome | None
    better: bool | None = None
    effect_before: Estimate | None = None
    effect_after: Estimate | None = None
    difference: Estimate | None = None
    moved: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Two records, claim by claim, flipped ones first."""

    before: str
    after: str
    changes: Sequence[Change]
    cautions: Sequence[str] = ()

    @property
    def flipped(self) -> tuple[Change, ...]:
        """Claims whose outcome differs."""
        return tuple(change for change in self.changes if change.state == "flipped")

    def to_json(self) -> dict[str, Any]:
        """Return the difference as strict JSON data."""
        data = to_json(self)
        return dict(data)


_ORDER = ("flipped", "absent", "new", "updated", "unchanged")
_GOODNESS = {
    Outcome.HOLDS: 3,
    Outcome.INCONCLUSIVE: 2,
    Outcome.NOT_RUN: 1,
    Outcome.INVALID: 1,
    Outcome.REFUTED: 0,
}


def diff(before: Record, after: Record, *, seed: int = 0) -> Diff:
    """Return what changed from one record to another.

    Args:
        before: the record to compare with.
        after: the record that is compared.
        seed: of the bootstrap for paired units.
    """
    old = {claim.verdict.id: claim for claim in before.claims}
    new = {claim.verdict.id: claim for claim in after.claims}
    changes = [
        _change(name, old.get(name), new.get(name), (before, after), seed)
        for name in dict.fromkeys((*old, *new))
    ]
    changes.sort(key=lambda change: _ORDER.index(change.state))
    return Diff(
        before=_name(before),
        after=_name(after),
        changes=tuple(changes),
        cautions=tuple(_cautions(before, after)),
    )


def _name(record: Record) -> str:
    return f"{record.run['subject']['name']} ({record.run['run_id']})"


def _cautions(before: Record, after: Record) -> list[str]:
    cautions = []
    same = (
        ("images differ", "data", "digest"),
        ("the tool's code differs", "tool", "digest"),
    )
    for words, part, key in same:
        if before.run[part].get(key) != after.run[part].get(key):
            cautions.append(f"{words}: a change may come from there")
    if before.run["seed"] != after.run["seed"]:
        cautions.append("the seeds differ: a change may come from there")
    for record in (before, after):
        if not record.finished:
            cautions.append(f"the run {record.run['run_id']} did not finish")
        if record.problems:
            cautions.append(f"the record {record.run['run_id']} does not add up")
    return cautions


def _change(
    name: str,
    old: ev.Claim | None,
    new: ev.Claim | None,
    records: tuple[Record, Record],
    seed: int,
) -> Change:
    if old is None or new is None:
        return Change(
            id=name,
            state="new" if old is None else "absent",
            before=None if old is None else old.verdict.outcome,
            after=None if new is None else new.verdict.outcome,
            effect_before=None if old is None else old.verdict.effect,
            effect_after=None if new is None else new.verdict.effect,
        )
    before, after = old.verdict.outcome, new.verdict.outcome
    difference = _difference(old, new, records, seed)
    moved = _moved(difference)
    same_effect = to_json(old.verdict.effect) == to_json(new.verdict.effect)
    return Change(
        id=name,
        state="flipped" if before is not after else "unchanged" if same_effect else "updated",
        before=before,
        after=after,
        better=_better(before, after),
        effect_before=old.verdict.effect,
        effect_after=new.verdict.effect,
        difference=difference,
        moved=moved,
    )


def _better(before: Outcome, after: Outcome) -> bool | None:
    if before not in _GOODNESS or after not in _GOODNESS:
        return None
    step = _GOODNESS[after] - _GOODNESS[before]
    return None if step == 0 else step > 0


def _moved(difference: Estimate | None) -> bool | None:
    if difference is None or not math.isfinite(difference.low + difference.high):
        return None
    return not difference.low <= 0 <= difference.high


def _difference(
    old: ev.Claim, new: ev.Claim, records: tuple[Record, Record], seed: int
) -> Estimate | None:
    before, after = old.verdict.effect, new.verdict.effect
    if before is None or after is None or before.unit != after.unit:
        return None
    pairs = _pairs(old, new, records)
    if pairs is not None and len(pairs) > 1:
        return _paired(pairs, after, seed)
    return _unpaired(before, after)


def _pairs(old: ev.Claim, new: ev.Claim, records: tuple[Record, Record]) -> Floats | None:
    """Return second minus first for every unit that both kept, `[unit]`; None if not kept."""
    if not (old.units and new.units):
        return None
    try:
        arrays = [
            record.array(claim.units) for record, claim in zip(records, (old, new), strict=True)
        ]
    except RecordError:
        return None
    first = dict(zip(old.unit_names, arrays[0].tolist(), strict=True))
    second = dict(zip(new.unit_names, arrays[1].tolist(), strict=True))
    shared = [name for name in first if name in second]
    return np.array([second[name] - first[name] for name in shared], dtype=np.float64)


def _paired(differences: Floats, like: Estimate, seed: int) -> Estimate:
    n = len(differences)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if n < LEAST_PAIRS or not math.isfinite(mean):
        low = high = math.nan
    elif error == 0:
        low = high = mean
    else:
        low, high = _bootstrap_t(differences, mean, error, like.level, seed)
    return Estimate(
        value=mean, low=low, high=high, level=like.level, n=n, unit=like.unit,
        method="paired units, bootstrap-t",
    )  # fmt: skip


def _bootstrap_t(
    values: Floats, mean: float, error: float, level: float, seed: int
) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    drawn = values[generator.integers(len(values), size=(RESAMPLES, len(values)))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(len(values))
    usable = errors > 0
    ratios = (drawn.mean(axis=1)[usable] - mean) / errors[usable]
    tail = (1 - level) / 2
    upper, lower = np.quantile(ratios, [1 - tail, tail])
    return mean - float(upper) * error, mean - float(lower) * error


def _unpaired(before: Estimate, after: Estimate) -> Estimate:
    value = after.value - before.value
    comparable = before.level == after.level
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(
        value=value,
        low=value - down if comparable else math.nan,
        high=value + up if comparable else math.nan,
        level=after.level,
        n=min(before.n, after.n),
        unit=after.unit,
        method="independent runs, square-and-add",
    )


def diff_table(difference: Diff, *, unchanged: bool = False) -> "Table":
    """Return a difference as a table for the terminal; unchanged claims only if asked."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{difference.before} → {difference.after}", title_justify="left")
    for column in ("claim", "state", "before", "after", "difference"):
        table.add_column(column)
    for change in difference.changes:
        if change.state == "unchanged" and not unchanged:
            continue
        better = {True: " (better)", False: " (worse)", None: ""}[change.better]
        cells = (
            text.visible(change.id),
            change.state + better,
            change.before.value if change.before else "–",
            change.after.value if change.after else "–",
            _difference_words(change.difference),
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _difference_words(difference: Estimate | None) -> str:
    if difference is None:
        return "–"
    unit = text.visible(difference.unit, 40)
    interval = text.interval(difference) if math.isfinite(difference.low) else "(no interval)"
    return f"{text.signed(difference.value)} {interval} {unit}"


def write_diff_page(difference: Diff, path: Path) -> Path:
    """Write a difference as one small self-contained page and return its path."""
    write_text(path, page_of("diff.html.j2", difference=difference))
    return path
