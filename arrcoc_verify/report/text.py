"""Numbers and strangers' text made fit to be read: rounded, cut, with no hidden characters."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from arrcoc_verify.verdict import Estimate, Suspect

LONGEST = 400
"""Longer texts are cut on the page; the record has them whole."""

_REORDERING = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)}
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"


def number(value: Any, digits: int = 3) -> str:
    """Return a number with so many significant digits, such as `1 312`, `41.2` or `3e-7`."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return visible(str(value))
    value = float(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return _rounded(value, digits).replace("-", _MINUS)


def _rounded(value: float, digits: int) -> str:
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 10**digits:
        return f"{value:,.0f}".replace(",", _THIN)
    if size < 1e-3:
        mantissa, _, power = f"{value:.{max(0, digits - 2)}e}".partition("e")
        return f"{_shortest(mantissa)}e{int(power)}"
    return _shortest(f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}")


def _shortest(decimal: str) -> str:
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal


def signed(value: Any) -> str:
    """Return a number with its sign, such as `+41.2`."""
    text = number(value)
    return f"+{text}" if isinstance(value, int | float) and value > 0 else text


def percent(share: float) -> str:
    """Return a share as a percentage to a tenth, such as `31 %` or `0.4 %`."""
    value = 100 * share
    return f"{number(round(value, 1) if math.isfinite(value) else value, 4)}{_THIN}%"


def level(value: float) -> str:
    """Return a confidence level as a percentage that is never rounded up to certainty."""
    shown = f"{100 * value:.10g}" if math.isfinite(value) else number(value)
    return f"{shown}{_THIN}%"


def interval(estimate: Estimate | None) -> str:
    """Return an interval, such as `[33.8, 48.6]`."""
    return "–" if estimate is None else f"[{number(estimate.low)}, {number(estimate.high)}]"


def short(digest: Any, length: int = 12) -> str:
    """Return the beginning of a digest, without its `sha256:`."""
    text = visible(str(digest or "–")).removeprefix("sha256:")
    return text if len(text) <= length else f"{text[:length]}…"


def clip(text: str, longest: int = LONGEST) -> str:
    """Return text no longer than `longest` characters; says how long it was if it was cut."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… (cut: {len(text):,} characters, whole in the record)"


def visible(text: str, longest: int = LONGEST) -> str:
    """Return text in which nothing hides: control and reordering characters become their number.

    Right-to-left scripts stay as they are; only the marks that could turn neighbouring text around
    are made visible.
    """
    return "".join(_harmless(char) for char in clip(text, longest))


def _harmless(char: str) -> str:
    hidden = unicodedata.category(char) in {"Cc", "Cs", "Co"} and char not in "\n\t"
    return f"\\u{ord(char):04x}" if hidden or char in _REORDERING else char


def finalize(value: Any) -> Any:
    """Return what a template prints for a value: every stranger's text passes through here."""
    if isinstance(value, Markup):
        return value
    return visible(value) if isinstance(value, str) else value


def pretty_json(data: Any, longest: int = 12_000) -> Markup:
    """Return data as indented JSON for a `<pre>`, escaped and cut."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    return Markup.escape(visible(text, longest))


def anchor(name: str) -> str:
    """Return a name fit for an element's id: itself if it is plain, otherwise its digest."""
    if _PLAIN.fullmatch(name):
        return name
    return "x" + hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:16]


def join(names: Sequence[str], most: int = 8) -> str:
    """Return names joined by commas, at most so many of them."""
    shown = [visible(name, 80) for name in names[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def suspected(found: Suspect) -> str:
    """Return where a fault is suspected, in words: the stage, the part of it, the site."""
    part = f" ({found.part.replace('_', ' ')})" if found.part not in ("", found.stage) else ""
    site = f", first at {found.site}" if found.site else ""
    return f"{found.stage}{part}{site}"
