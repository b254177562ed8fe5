"""The last full selftest, kept so that every audit can say how far to trust it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrcoc_verify.faults import controls
from arrcoc_verify.scenes import fixtures

FILE = "selftest.json"


def path() -> Path:
    """Return where the last full selftest lies: in an installed package, or in the checkout."""
    folder = fixtures.folder()
    inside = folder / FILE
    return inside if folder.name == "_fixtures" else folder.parent / "reports" / FILE


def load() -> dict[str, Any] | None:
    """Return the last full selftest, or None when there is none."""
    try:
        data = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and "detection" in data else None


def for_the_page() -> dict[str, Any] | None:
    """Return the rates that an audit's page shows, or None when none were measured.

    Rates that other code than is running was measured by say so.
    """
    data = load()
    if data is None:
        return None
    stale = "" if data.get("digest") == controls.digest() else " (other version)"
    return {
        "date": str(data.get("date", "")), "digest": str(data.get("digest", "")),
        "rates": [{**rate, "name": rate["name"] + stale} for rate in rates(data)],
    }  # fmt: skip


def rates(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline rates with their intervals."""
    caught, placed, alarms = data["detection"], data["localisation"], data["false_alarms"]
    found = [
        ("planted faults detected", caught["killed"], caught["killable"], caught["interval"]),
        ("of these, right stage named", placed["right"], placed["detected"], placed["interval"]),
        ("healthy runs with a false alarm", alarms["alarmed"], alarms["runs"], alarms["interval"]),
    ]
    return [
        {"name": name, "share": hits / n, "low": ends[0], "high": ends[1], "n": n}
        for name, hits, n, ends in found
        if n
    ]
