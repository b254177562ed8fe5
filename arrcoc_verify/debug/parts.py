"""The parts of a model that can be put right one by one, and how each is put right.

Two references, one engine. *Donors*: a part returns what it returns for its inputs where queried
regions got what they should. *Contract*: where the model is wrong everywhere there are no such
donors, and a part returns what its role promises, out of the values that it has anyway (a scorer's
own values in the order of what it should measure, the weights in the order of who is asked for).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.bench import DRAWS, Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.pictures import estimators
from arrcoc_verify.graph import Edit, Run, resume
from arrcoc_verify.model import SCORERS, TENSIONS, Model

Floats = NDArray[np.float64]
Basis = Literal["donors", "contract"]
Where = Literal["whole", "region", "rest"]

SAID = {"information": "information", "salience": "salience", "query_relevance": "query relevance"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run whose examples are put right together.

    Attributes:
        run: finished run.
        cells: `[example, patch]`, each example's region.
        draws: resample of the donors that each example uses.
    """

    run: Run
    cells: Tensor
    draws: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the model, and how it is put right.

    Attributes:
        name: unique, such as `scorer:salience`.
        code: cause that it stands for.
        role: whose site is written.
        said: the experiment, in plain words.
        edits: view, where -> what is written.
        strength: 1 for what stays inside the part's own values, higher for bolder changes.
    """

    name: str
    code: str
    role: str
    said: str
    edits: Callable[[View, Where], list[Edit]]
    strength: int = 1

    def restored(self, bench: Bench, view: View, where: Where = "whole") -> View:
        """Return the view with this part put right."""
        edits = self.edits(view, where)
        if not edits:
            return view
        after = resume(view.run, edits=edits, read=bench.inner)
        return View(run=after, cells=view.cells, draws=view.draws)


@dataclass(kw_only=True, eq=False)
class Workshop:
    """Makes parts for one bench and one goal.

    Attributes:
        bench: the case and its donors.
        goal: what the region should get.
        keep: which donors are taken for right.
        lists: resamples of these donors.
        missing: experiments that could not be made, and why.
    """

    bench: Bench
    goal: Goal
    keep: NDArray[np.bool_]
    lists: list[NDArray[np.int64]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    _pictures: dict[int, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draw the resamples."""
        if self.keep.any():
            donors = self.bench.donors
            self.lists = ref.resamples(donors.clusters, self.keep, DRAWS, self.bench.seed)

    def case_view(self) -> View:
        """Return the case, once for each resample."""
        cells = self.bench.case.cells.expand(DRAWS, -1)
        return View(run=self.bench.many, cells=cells, draws=range(DRAWS))

    def donor_view(self) -> View:
        """Return the donors, each against the whole sample of donors."""
        donors = self.bench.donors
        return View(run=donors.run, cells=donors.cells, draws=[0] * len(donors.scenes))

    # What parts read

    def read(self, run: Run, role: str) -> Floats | None:
        """Return a role's map `[example, patch]`, or None."""
        found = self.bench.map(run, role)
        return None if found is None else found.numpy()

    def seen(self, run: Run) -> Floats:
        """Return what estimators say of each example's picture, `[example, patch, column]`."""
        for image in run.images:
            if id(image) not in self._pictures:
                self._pictures[id(image)] = estimators(image, self.bench.grid)
        return np.stack([self._pictures[id(image)] for image in run.images])

    def weights_of(self, run: Run) -> Floats | None:
        """Return the weights in the order of the scorers that have a map, `[example, scorer]`."""
        found = self.bench.vector(run, "weights")
        roles = scorers(self.bench.model)
        if found is None:
            return None
        columns = channels(self.bench.model, "weights", SCORERS, found.shape[1])
        return None if columns is None else found[:, [columns[role] for role in roles]].numpy()

    def write_map(self, view: View, role: str, values: Floats, where: Where) -> list[Edit]:
        """Return the edit that writes a map into the region, the rest or everywhere."""
        actual = self.read(view.run, role)
        if actual is None:
            return []
        inside = view.cells.numpy()
        chosen = {"whole": np.ones_like(inside), "region": inside, "rest": ~inside}[where]
        return [self.bench.write_map(role, torch.from_numpy(np.where(chosen, values, actual)))]


def scorers(model: Model) -> list[str]:
    """Return the roles of the scorers whose maps can be read and written."""
    found = []
    for role in SCORERS:
        site = model.role(role)
        if site is not None and site.writable and site.per_patch:
            found.append(role)
    return found


def channels(model: Model, role: str, names: Sequence[str], count: int) -> dict[str, int] | None:
    """Return name -> channel of a site, or None where they cannot be told apart."""
    site = model.role(role)
    if site is None:
        return None
    if site.channels:
        known = {name: site.channels.index(name) for name in names if name in site.channels}
        return known if len(known) == len(names) else None
    if count == len(names):
        return {name: place for place, name in enumerate(names)}
    here = scorers(model)
    if tuple(names) == SCORERS and count == len(here):
        return {name: here.index(name) if name in here else 0 for name in names}
    return None


def favoured(model: Model, count: int) -> int | None:
    """Return the channel of the tension that raises the weight of query relevance, or None."""
    columns = channels(model, "tensions", TENSIONS, count)
    if columns is None:
        return None
    for tension, scorer in model.profile.favours.items():
        if scorer == "query_relevance":
            return columns[tension]
    return None


def can_join(pair: Sequence[Part]) -> bool:
    """Return whether two parts are two causes: none twice, none that writes over the other."""
    one, two = (part.name.split("/")[0] for part in pair)
    if one == two or "scorers" in (one, two):
        return False
    same = {one, two}
    return same not in (
        {"tensions", "weights"},
        {"curve", "allocator"},
        {"multiplier", "allocator"},
    )
