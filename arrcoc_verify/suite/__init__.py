"""The built-in suite: gates and claims by stage, in the order in which they are read."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace

from arrcoc_verify.claim import Claim
from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.model import ClaimProfile
from arrcoc_verify.suite import attending, balancing, knowing, reading, steps, whole
from arrcoc_verify.suite.gates import GATES

CLAIMS: tuple[Claim, ...] = (
    *knowing.CLAIMS, *reading.CLAIMS, *steps.CLAIMS, *balancing.CLAIMS, *attending.CLAIMS,
    *whole.CLAIMS,
)  # fmt: skip
"""Every built-in claim."""

__all__ = ["CLAIMS", "GATES", "claim", "select", "with_margins"]


def claim(name: str) -> Claim:
    """Return the built-in claim with this id.

    Raises:
        UnknownName: there is none; the nearest is suggested.
    """
    found = next((one for one in CLAIMS if one.id == name), None)
    if found is None:
        raise UnknownName("claim", name, [one.id for one in CLAIMS])
    return found


def select(patterns: Sequence[str]) -> list[Claim]:
    """Return the claims whose ids match any of the shell patterns, in order.

    Raises:
        UnknownName: a pattern matches nothing.
    """
    chosen: dict[str, Claim] = {}
    for pattern in patterns:
        found = [one for one in CLAIMS if fnmatch.fnmatchcase(one.id, pattern)]
        if not found:
            raise UnknownName("claim", pattern, [one.id for one in CLAIMS])
        chosen |= {one.id: one for one in found}
    return [one for one in CLAIMS if one.id in chosen]


def with_margins(claims: Sequence[Claim], profile: ClaimProfile) -> list[Claim]:
    """Return the claims with the profile's margins in place of the defaults.

    Raises:
        UnknownName: the profile names a claim that does not exist.
    """
    ids = [one.id for one in CLAIMS]
    for name in [*profile.margins, *profile.excluded]:
        if name not in ids:
            raise UnknownName("claim of the profile", name, ids)
    return [_with_margin(one, profile.margins.get(one.id)) for one in claims]


def _with_margin(one: Claim, margin: float | None) -> Claim:
    if margin is None:
        return one
    if not one.margin:
        raise BadConfig(f"claim {one.id!r} is a rule without exceptions: it has no margin to set")
    return replace(one, margin=margin, spike_scale=margin / one.margin)
