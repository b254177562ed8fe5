"""One colour map for every map on the page, even to the eye, computed from a formula.

Lightness rises in equal steps of OKLab (Ottosson 2020, "A perceptual color space for image
processing") from dark violet over teal to light yellow, so that equal differences of a value look
equal, in grey print too.
"""

import base64
import functools
import io
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

STEPS = 256
LEVELS = 64
"""Shades in a picture of a map: more than an eye can tell apart, and a quarter of the bytes."""

_DARK, _LIGHT = 0.24, 0.93
_FIRST_HUE, _LAST_HUE = 300.0, 98.0  # degrees in OKLab
_CHROMA = 0.125

Floats = np.ndarray[Any, np.dtype[np.float64]]


@functools.cache
def table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the colour map, `[256, 3]`, sRGB 0..255."""
    t = np.linspace(0.0, 1.0, STEPS)
    lightness = _DARK + (_LIGHT - _DARK) * t
    hue = np.deg2rad(_FIRST_HUE + (_LAST_HUE - _FIRST_HUE) * t)
    chroma = np.minimum(_CHROMA, _largest_chroma(lightness, hue))
    linear = _to_linear(lightness, chroma, hue)
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055
    )
    result: np.ndarray[Any, np.dtype[np.uint8]] = np.round(255 * np.clip(encoded, 0, 1)).astype(
        np.uint8
    )
    return result


def _to_linear(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    """Return linear sRGB `[n, 3]` of OKLab colours."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
        ],
        axis=-1,
    )


def _largest_chroma(lightness: Floats, hue: Floats) -> Floats:
    """Return for each colour the largest chroma that a screen can show."""
    tried = np.linspace(0.0, 0.3, 301)
    inside = np.stack(
        [
            np.all((rgb > -1e-6) & (rgb < 1 + 1e-6), axis=-1)
            for rgb in (_to_linear(lightness, np.full_like(hue, c), hue) for c in tried)
        ]
    )
    largest: Floats = tried[np.argmin(inside, axis=0) - 1]
    return largest


def map_uri(values: Floats, low: float, high: float) -> Markup:
    """Return a map `[height, width]` as a PNG data URI, one pixel a cell.

    Values are coloured from `low` to `high`; what lies beyond takes the end's colour, and a value
    that is not finite is left transparent.
    """
    span = high - low if high > low else 1.0
    finite = np.isfinite(values)
    scaled = np.clip((np.where(finite, values, low) - low) / span, 0, 1)
    index = np.round(scaled * (LEVELS - 1)).astype(np.uint8)
    index[~finite] = LEVELS
    image = Image.frombytes("P", values.shape[::-1], np.ascontiguousarray(index).tobytes())
    colours = table()[np.linspace(0, STEPS - 1, LEVELS).round().astype(int)]
    image.putpalette(colours.tobytes() + bytes(3))
    transparency = {} if finite.all() else {"transparency": LEVELS}
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, **transparency)
    return data_uri("image/png", buffer.getvalue())


def ramp_uri() -> Markup:
    """Return the colour map itself as a picture 64 pixels wide and one high."""
    return map_uri(np.linspace(0.0, 1.0, 64)[None, :], 0.0, 1.0)


def data_uri(kind: str, data: bytes) -> Markup:
    """Return bytes as a data URI, fit for an attribute."""
    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")
