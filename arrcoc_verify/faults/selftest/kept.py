"""The last full selftest, kept so that every audit can say how far to trust it."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrcoc_verify.faults import controls
from arrcoc_verify.provenance import code_digest, json_digest
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.stats import calibration

FILE, CALIBRATION = "selftest.json", "calibration.json"
TRAINED = "selftest_trained.json"
FILES = {"reference:analytic": FILE, "reference:trained": TRAINED}
"""Model -> file of its last kept run; audits show the first in full."""


@functools.cache
def digest() -> str:
    """Return one digest of all code that decides what a selftest says."""
    package = Path(__file__).resolve().parents[2]
    files = [
        path
        for place in ("locating", "faults")
        for path in (package / place).rglob("*.py")
        if path.name not in ("kept.py", "controls.py")
    ]
    return json_digest([controls.digest(), code_digest(files, package)])


def path(name: str = FILE) -> Path:
    """Return where the last full run lies: in an installed package, or in the checkout."""
    folder = fixtures.folder()
    return folder / name if folder.name == "_fixtures" else folder.parent / "reports" / name


def load(name: str = FILE) -> dict[str, Any] | None:
    """Return the last full run, or None when there is none."""
    try:
        data = json.loads(path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and {"detection", "tables"} & set(data) else None


def for_the_page() -> dict[str, Any] | None:
    """Return the rates that an audit's page shows, or None when none were measured.

    Rates that other code than is running was measured by say so.
    """
    data, calibrated = load(), calibration_rates(load(CALIBRATION) or {})
    if data is None:
        return {"rates": calibrated} if calibrated else None
    trained = load(TRAINED)
    other = [_dated(one, trained, "trained: ") for one in rates(trained)[:2]] if trained else []
    return {
        "date": str(data.get("date", "")), "digest": str(data.get("digest", "")),
        "rates": [*(_dated(rate, data) for rate in rates(data)), *other, *calibrated],
    }  # fmt: skip


def _dated(rate: Mapping[str, Any], data: Mapping[str, Any], first: str = "") -> dict[str, Any]:
    stale = "" if data.get("digest") == digest() else " (other version)"
    return {**rate, "name": f"{first}{rate['name']}{stale}"}


def rates(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline rates with their intervals."""
    caught, placed, alarms = data["detection"], data["localisation"], data["false_alarms"]
    green = data["false_comfort"]
    found = [
        ("planted faults detected", caught["killed"], caught["killable"], caught["interval"]),
        ("of these, right stage named", placed["right"], placed["detected"], placed["interval"]),
        (
            "faults under which every claim held",
            green["passed"],
            green["killable"],
            green["interval"],
        ),
        ("healthy runs with a false alarm", alarms["alarmed"], alarms["runs"], alarms["interval"]),
    ]
    return [
        {"name": name, "share": hits / n, "low": ends[0], "high": ends[1], "n": n}
        for name, hits, n, ends in found
        if n
    ]  # fmt: skip


def calibration_rates(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the worst simulated figure of each kind that matters most, with its interval."""
    stale = "" if data.get("digest") == calibration.digest() else " (other version)"
    found = []
    for words, title, said, worst in SHOWN:
        rows = [
            row for row in data.get("tables", {}).get(title, ())
            if said in row["what"] and row["shape"] in ("normal", "skewed")
        ]  # fmt: skip
        if rows:
            row = worst(rows, key=lambda one: one["rate"]["value"] - one["nominal"])
            rate = row["rate"]
            name = f"{words}, {row['shape']}, n {row['n']}, meant {row['nominal']:g}{stale}"
            found.append({
                "name": name, "share": rate["value"], "low": rate["low"], "high": rate["high"],
                "n": rate["n"],
            })  # fmt: skip
    return found


SHOWN: tuple[tuple[str, str, str, Any], ...] = (
    ("intervals cover", "Coverage of intervals of the mean", "auto", min),
    ("any wrong verdict", "Families on their margins: runs with any wrong verdict", "wrongly", max),
)
"""Words, title of a table, word of the rows that count, and which of them is worst."""
