"""Many cases at once: the worst allocations of a folder or table, sorted by cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arrcoc_verify.debug.bench import Bench, donor_scenes, make_donors
from arrcoc_verify.debug.case import Case, Goal, make_case
from arrcoc_verify.debug.diagnosis import Diagnosis, debug, no_donors
from arrcoc_verify.errors import BadRegion, BadTable, UsageError
from arrcoc_verify.model import Model
from arrcoc_verify.report.debugging import group_of
from arrcoc_verify.scenes import load as loading

MOST = 12
"""So many of the worst cases are debugged unless more are asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Triage:
    """What was found.

    Attributes:
        diagnoses: the worst cases, those of the most frequent cause first.
        clusters: (cause, how many), most frequent first.
        looked_at: how many regions were measured.
    """

    diagnoses: tuple[Diagnosis, ...]
    clusters: tuple[tuple[str, int], ...]
    looked_at: int

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return {
            "looked_at": self.looked_at,
            "clusters": [{"cause": name, "cases": many} for name, many in self.clusters],
            "cases": [one.to_json() for one in self.diagnoses],
        }


def cases_of(
    model: Model,
    path: Path,
    *,
    query: str = "",
    label: str = "",
    skip_bad: bool = False,
    labels: Path | None = None,
) -> tuple[list[Case], list[str]]:
    """Return the cases of a CSV `image,query,box`, a COCO json, or a folder searched for a label.

    Args:
        model: decides size and grid.
        path: folder, `.csv` or `.json`.
        query: what is asked of each picture of a folder.
        label: what is looked for in each picture of a folder: `face`, or with `labels` any words.
        skip_bad: leave out rows and pictures that cannot be used.
        labels: folder of an open_clip model that finds what words name.

    Raises:
        UsageError: a folder without query or label, or nothing of the label in any picture.
        BadTable: naming each row that cannot be used.
    """
    if path.is_dir():
        return _of_folder(model, path, query, label, skip_bad, labels)
    height, width = model.declaration.image_size
    loaded = loading.load(
        path, grid=model.declaration.grid, size=max(height, width),
        limits=loading.Limits(skip_bad=skip_bad),
    )  # fmt: skip
    cases = [
        Case(**{**_fields(make_case(model, s.image, s.query, s.target)), "name": s.name})
        for s in loaded.scenes
    ]
    return cases, [*(f"{one.where}: {one.reason}" for one in loaded.skipped), *loaded.notes]


def _fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


def _of_folder(
    model: Model, path: Path, query: str, label: str, skip_bad: bool, labels: Path | None
) -> tuple[list[Case], list[str]]:
    if not query or not label:
        raise UsageError(
            "wanted --query and --label face to look through a folder, or a CSV image,query,box"
        )
    found = loading.load_folder(path, limits=loading.Limits(skip_bad=skip_bad))
    cases, notes = [], [f"{one.where}: {one.reason}" for one in found.skipped]
    for layer in found.layers:
        try:
            case = make_case(model, layer.image, query, label=label, labels=labels)
        except BadRegion as none:
            if "was found" not in str(none):
                raise
            notes.append(f"{layer.id}: nothing of the label {label!r} found")
            continue
        cases.append(Case(**{**_fields(case), "name": layer.id}))
    if not cases:
        raise UsageError(
            f"no {label} was found in any of {len(found.layers)} pictures of {path}: "
            "give boxes in a CSV image,query,box"
        )
    return cases, [*notes, *found.notes]


def triage(
    model: Model, cases: Sequence[Case], expected: Goal | None = None, *, most: int = MOST,
    seed: int = 0,
) -> Triage:  # fmt: skip
    """Return the worst cases with their causes.

    Args:
        model: model under test.
        cases: all that are looked at.
        expected: what each region should get; None to compare with donors.
        most: how many of the worst are debugged.
        seed: of every draw.

    Raises:
        BadTable: there are no cases.
    """
    if not cases:
        raise BadTable("wanted at least one case to sort, got none")
    sign = expected.sign if expected is not None else 1
    tokens = torch.tensor([Bench(model, case, no_donors()).before for case in cases]) * sign
    worst = [cases[i] for i in tokens.argsort(stable=True)[:most].tolist()]
    elsewhere = donor_scenes(model, seed)
    donors = {
        boxed: make_donors(model, elsewhere, boxed=boxed) for boxed in {one.boxed for one in worst}
    }
    found = [debug(model, one, expected, donors=donors[one.boxed], seed=seed) for one in worst]
    names = [_name(one) for one in found]
    counts = Counter(names).most_common()
    order = [name for name, _ in counts]
    ranked = sorted(zip(names, found, strict=True), key=lambda row: order.index(row[0]))
    return Triage(
        diagnoses=tuple(one for _, one in ranked), clusters=tuple(counts), looked_at=len(cases)
    )


def _name(found: Diagnosis) -> str:
    return group_of(found.failure.answer, [cause.code for cause in found.causes])
