"""Faults that leave most as it was: a channel, a word or a neighbour less or more.

Found by looking for what the suite would miss: each needs a claim or a gate of its own.
"""

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.reference import analytic, lexicon

WORDS = 8
"""Words of a query that are read when it is cut."""


def _colour_blind(maps: Tensor) -> Tensor:
    grey = maps.clone()
    grey[:, 1:3] = 0
    return analytic.salience_features(grey)


def _first_words(queries: list[str]) -> Tensor:
    return torch.stack([lexicon.meaning(" ".join(q.split()[:WORDS])) for q in queries])


def _first_is_favoured(wanted: Tensor) -> Tensor:
    """The first picture of a batch is shared out with another steepness."""
    changed = wanted.clone()
    changed[0] = wanted[0].clamp(min=0).sqrt() if len(wanted) > 1 else wanted[0]
    return changed


def _focus_blind(seen: Tensor) -> Tensor:
    blind = seen.clone()
    blind[:, 5] = 0.1
    return torch.cat([analytic.tensions(seen)[:, :2], analytic.tensions(blind)[:, 2:]], 1)


FAULTS = (
    Fault(
        name="salience-colour-blind", stage="knowing",
        sentence="salience sees luminance only",
        make=lambda: rewired(instead("salience_features", _colour_blind)),
    ),
    Fault(
        name="query-cut-at-eight-words", stage="query",
        sentence="only the first eight words of a query are read",
        make=lambda: rewired(instead("query", _first_words)),
    ),
    Fault(
        name="first-of-batch-favoured", stage="attending",
        sentence="the first picture of a batch spends its budget by another curve",
        make=lambda: rewired(after("demand", _first_is_favoured)),
    ),
    Fault(
        name="focus-blind", stage="balancing",
        sentence="one tension no longer sees the picture",
        make=lambda: rewired(instead("tensions", _focus_blind)),
    ),
)  # fmt: skip
"""Faults that are easily missed."""
