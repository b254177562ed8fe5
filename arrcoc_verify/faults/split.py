"""Which operators may speak for the suite: those that no claim or gate was made for.

Operators are split by a hash of their name before anything is tuned. Only the open half was looked
at while claims were written; a claim that came of looking at an operator is noted with it. The
headline rests on operators that led to none.
"""

import hashlib

from arrcoc_verify.faults.analytic import FAULTS

CONTROLS = frozenset(fault.operator for fault in FAULTS)
"""Operators that were written together with the claims that they are the controls of."""

LED_TO_A_CLAIM: dict[str, str] = {
    "map-floored": "knowing.information-tells-patches-apart",
    "map-swollen": "knowing.scores-belong-to-their-patch",
    "map-blurred": "knowing.scores-stay-in-their-patch",
    "map-folded": "knowing.information-answers-every-step",
    "map-peaks-only": "knowing.information-answers-every-step",
    "vector-doubled": "balancing.weights-are-shares, balancing.tensions-in-range",
}
"""Open operators -> the claim or gate that was added, or changed, because of them."""


def is_sealed(operator: str) -> bool:
    """Return whether an operator was not looked at while the suite was written."""
    return hashlib.sha256(operator.encode()).digest()[0] % 2 == 1 and operator not in CONTROLS


def speaks(operator: str) -> bool:
    """Return whether an operator led to no claim, so that catching it shows something."""
    return operator not in CONTROLS and operator not in LED_TO_A_CLAIM
