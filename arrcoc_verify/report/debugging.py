"""The page of `debug` and `triage`: one case file each, made from plain data, without torch.

Order: is it a failure, the cause, the picture's way from scores to tokens before and after, where
the region stands at each map, how its tokens come about, every experiment, the command.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from arrcoc_verify.report import colour, figure
from arrcoc_verify.report.atomic import make_folder, write_text
from arrcoc_verify.report.html import page_of

PAGE = "debug.html"
SCORES = ("information", "salience", "query_relevance")
_WIDE, _PLOT = 260, 200.0
_SIDE = 320
_MOST_ROWS = 40

Maps = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The maps of one run of a case.

    Attributes:
        title: what was done, such as "as it is".
        maps: role -> `[row, column]`, in the order of data.
        tokens: mean tokens of the region.
        levels: `tensions` or `weights` -> name -> value.
    """

    title: str
    maps: Maps
    tokens: float
    levels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseContent:
    """What the page shows of one diagnosis.

    Attributes:
        data: the diagnosis as `--json` has it.
        image: the picture at the model's size.
        cells: bool `[row, column]`, the region.
        strips: the case as it is, and with the cause put right.
        command: what shows this case again.
        others: the case with other parts put right, each alone.
        meanings: cause -> plain words.
        repairs: rows of a repair, if one was tried.
    """

    data: Mapping[str, Any]
    image: Image.Image
    cells: NDArray[np.bool_]
    strips: Sequence[Strip]
    command: str
    others: Sequence[Strip] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    repairs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One small map on the page."""

    name: str
    uri: Markup
    low: float
    high: float
    inside: float
    outside: float
    alt: str


def write(contents: Sequence[CaseContent], folder: Path, title: str) -> Path:
    """Write the page of some cases into a folder, whole or not at all, and return its path."""
    make_folder(folder)
    path = folder / PAGE
    write_text(path, render(contents, title))
    return path


def render(contents: Sequence[CaseContent], title: str) -> str:
    """Return the page of some cases."""
    groups: dict[str, int] = {}
    for one in contents:
        name = group_of(one.data["failure"], [cause["cause"] for cause in one.data["causes"]])
        groups[name] = groups.get(name, 0) + 1
    return page_of(
        "debug.html.j2", title=title, cases=[_view(one) for one in contents],
        groups=sorted(groups.items(), key=lambda row: -row[1]),
        meanings=contents[0].meanings if contents else {},
    )  # fmt: skip


def group_of(failure: str, causes: Sequence[str]) -> str:
    """Return the name of the group that a case belongs to: its causes, else what was said of it."""
    return " + ".join(causes) or ("no failure" if failure == "no" else "undecided")


def _view(one: CaseContent) -> dict[str, Any]:
    evidence = sorted(
        one.data["evidence"], key=lambda row: (row["restores"] != "yes", -abs(row["effect"]))
    )
    strips = _strips(one.strips, [*one.strips, *one.others], one.cells)
    scale = _axis(evidence, float(one.data["tokens"]), one.data["expected"])
    return {
        "data": one.data, "command": one.command, "repairs": one.repairs,
        "picture": _picture(one.image), "width": one.image.width, "height": one.image.height,
        "strips": strips[: len(one.strips)], "others": strips[len(one.strips) :],
        "overlay": _overlay(one),
        "steps": figure.waterfall([tuple(step) for step in one.data["waterfall"]], _WIDE),
        "rows": [(row, _bar(row, scale)) for row in evidence[:_MOST_ROWS]],
        "left": max(0, len(evidence) - _MOST_ROWS), "scale": scale,
        "goal": scale.at(_bound(one.data["expected"]) - float(one.data["tokens"])),
        "codes": one.meanings, "considered": considered(one.data, one.meanings),
    }  # fmt: skip


def considered(
    data: Mapping[str, Any], meanings: Mapping[str, str]
) -> list[tuple[str, str, str, str]]:
    """Return (cause, what it says, what became of it, by which experiment) of every known cause."""
    named = {cause["cause"]: cause for cause in data["causes"]}
    rows = []
    for code, meaning in meanings.items():
        own = [row for row in data["evidence"] if row["code"] == code]
        best = max(
            own, key=lambda row: (row["restores"] == "yes", abs(row["effect"])), default=None
        )
        by = "" if best is None else f"{best['experiment']}: {best['effect']:+.3g} tokens"
        if code in named:
            rows.append((code, meaning, "named", named[code]["detail"]))
        elif code in data["ruled_out"]:
            rows.append((code, meaning, "ruled out", by))
        else:
            rows.append((code, meaning, "not shown" if own else "not tested", by))
    return rows


def _picture(image: Image.Image) -> Markup:
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=80, method=6)
    return colour.data_uri("image/webp", buffer.getvalue())


def _overlay(one: CaseContent) -> Markup | None:
    tokens = one.strips[0].maps.get("tokens") if one.strips else None
    return None if tokens is None else colour.map_uri(tokens, *_ends([tokens]))


def _strips(
    main: Sequence[Strip], every: Sequence[Strip], cells: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Return the maps of each strip; a map has the scale of the main ones, the scores share one."""
    names = list(dict.fromkeys(name for strip in main for name in strip.maps))
    scores = [strip.maps[n] for strip in main for n in SCORES if n in strip.maps]
    ends = {
        name: _ends(scores if name in SCORES else [s.maps[name] for s in main if name in s.maps])
        for name in names
    }
    return [
        {
            "title": strip.title, "tokens": strip.tokens, "levels": strip.levels,
            "cells": [
                _cell(n, strip.maps[n], ends[n], cells) for n in names if n in strip.maps
            ],
        }
        for strip in every
    ]  # fmt: skip


def _cell(
    name: str, values: NDArray[np.float64], ends: tuple[float, float], cells: NDArray[np.bool_]
) -> Cell:
    inside = float(values[cells].mean())
    outside = float(values[~cells].mean()) if (~cells).any() else inside
    said = name.replace("_", " ")
    return Cell(
        name=said, uri=colour.map_uri(values, *ends), low=ends[0], high=ends[1], inside=inside,
        outside=outside,
        alt=f"Map of {said}: {inside:.3g} in the region, {outside:.3g} elsewhere",
    )  # fmt: skip


def _ends(maps: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    finite = [one[np.isfinite(one)] for one in maps]
    finite = [one for one in finite if one.size]
    if not finite:
        return 0.0, 1.0
    return min(float(one.min()) for one in finite), max(float(one.max()) for one in finite)


def _bound(expected: str) -> float:
    return float(expected.lstrip("><="))


def _axis(evidence: Sequence[Mapping[str, Any]], tokens: float, expected: str) -> figure.Scale:
    values = [0.0, _bound(expected) - tokens]
    values += [float(end) for row in evidence for end in (row["effect"], *row["interval"])]
    finite = [value for value in values if np.isfinite(value)]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low or 1.0)
    return figure.Scale(low=low - room, high=high + room, left=0.0, right=_PLOT)


def _bar(row: Mapping[str, Any], scale: figure.Scale) -> dict[str, float]:
    low, high = sorted(scale.at(float(end)) for end in row["interval"])
    return {"zero": scale.at(0.0), "dot": scale.at(float(row["effect"])), "low": low, "high": high}
