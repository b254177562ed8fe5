"""The marker `arrcoc`: what a test may say of the claims that it makes."""

import pytest

from arrcoc_verify.errors import UnknownName

MARK = "arrcoc"
KNOWN = ("claims", "inconclusive")
"""Keywords of the marker."""


def makes_claims(item: pytest.Item) -> bool:
    """Whether a test asks for the fixture `arrcoc` or carries the marker."""
    return MARK in getattr(item, "fixturenames", ()) or item.get_closest_marker(MARK) is not None


def claims_of(item: pytest.Item) -> int:
    """Return how many claims a test says that it makes; one where it says nothing."""
    mark = item.get_closest_marker(MARK)
    told = 1 if mark is None else mark.kwargs.get("claims", 1)
    return told if _whole(told) else 1


def wrong_marker(item: pytest.Item) -> str:
    """Return what is wrong with a test's markers, or nothing."""
    for mark in item.iter_markers(MARK):
        if mark.args:
            return (
                f"@pytest.mark.{MARK} takes keywords only ({', '.join(KNOWN)}), got {mark.args!r}"
            )
        for name, value in mark.kwargs.items():
            if name not in KNOWN:
                return str(UnknownName(f"keyword of @pytest.mark.{MARK}", name, KNOWN))
            if name == "claims" and not _whole(value):
                return f"claims of @pytest.mark.{MARK}: wanted a whole number, got {value!r}"
            if name == "inconclusive" and value not in (None, "fail", "skip"):
                return f"inconclusive of @pytest.mark.{MARK}: wanted fail or skip, got {value!r}"
    return ""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
