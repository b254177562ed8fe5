"""How much did the other factors move? Judged by estimators that no model uses.

Every movement is in natural units: the standard deviation of that estimator over the target regions
of unedited scenes. An edit passes if it moves its own factor enough and every other one by at most
a fifth of that. Run `python -m arrcoc_verify.scenes.isolation` for the table.

Sources: deflate as an upper bound of entropy (RFC 1951); colour difference of CIE 15:2004; edge
energy by Gaussian derivatives (Canny, 1986), not by the operator that the edits are tuned with.
"""

import argparse
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from arrcoc_verify.scenes.colour import luma, to_lab
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.edits import cell_map, ring
from arrcoc_verify.scenes.factorial import FACTORS, Cell, factorial, matched
from arrcoc_verify.scenes.pairs import Pair
from arrcoc_verify.scenes.scene import Grid, Scene

if TYPE_CHECKING:
    from rich.table import Table

# Standard deviation over the unedited targets of the select role (16x16 cells, 256 pixels);
# `natural_spread` measures them. Chroma is a distance between two scenes and has half its range,
# position and query are counted in sides of the image and in full mentions.
NATURAL: dict[str, float] = {
    "information": 1.0,
    "salience": 6.0,
    "edges": 2.1,
    "chroma": 0.5,
    "position": 1.0,
    "query": 1.0,
}
SHARE = 0.2  # an unintended movement may be at most this share of the intended one
LEAST = {"information": 0.5, "salience": 0.3, "query": 0.5, "position": 0.1}
# Moving an object also gives it another surround, which no edit can undo; position is a balanced
# nuisance, so its side effects are reported, not limited.
LIMITED = ("information", "salience", "query")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the estimators say about a region.

    Args:
        information: bits per pixel that deflate needs for its luma in steps of 4.
        salience: CIE-Lab distance of its mean colour from that of the ring of cells around it.
        edges: root mean square gradient of its luma, borders left out.
        chroma: histogram of its colour differences, `[64]`, sums to 1.
        position: its centre in sides of the image, `[2]`.
        query: share of the words of its label that the query names.
    """

    information: float
    salience: float
    edges: float
    chroma: NDArray[np.float64]
    position: NDArray[np.float64]
    query: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what the edits of one factor did to one estimator.

    Args:
        factor: what was edited.
        estimator: what was read.
        intended: the estimator is of this factor.
        mean: mean size of the movement over all contrasts, in natural units.
        high: its 95th percentile.
        share: `mean` as a share of the intended movement.
        limit: the largest `share` that one scene may have; None where nothing is limited.
        n: number of contrasts.
    """

    factor: str
    estimator: str
    intended: bool
    mean: float
    high: float
    share: float
    limit: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A scene whose cells are not used, and why."""

    name: str
    factor: str
    estimator: str
    reason: str


def read(scene: Scene, grid: Grid = (16, 16)) -> Reading:
    """Reads all estimators on the scene's target.

    Raises:
        BadRegion: the grid has more cells than the image has pixels.
    """
    return _read_all([scene], grid)[id(scene)]


def natural_spread(unedited: Sequence[Scene], grid: Grid = (16, 16)) -> dict[str, float]:
    """The standard deviation of the scalar estimators over scenes that nobody edited."""
    readings = [read(scene, grid) for scene in unedited]
    names = ("information", "salience", "edges")
    return {name: float(np.std([getattr(r, name) for r in readings], ddof=1)) for name in names}


def movement(low: Reading, high: Reading) -> dict[str, float]:
    """By how many natural units each estimator moved; distances have no sign."""
    moved = {
        "information": high.information - low.information,
        "salience": high.salience - low.salience,
        "edges": high.edges - low.edges,
        "chroma": 0.5 * float(np.abs(high.chroma - low.chroma).sum()),
        "position": float(np.linalg.norm(high.position - low.position)),
        "query": high.query - low.query,
    }
    return {name: value / NATURAL[name] for name, value in moved.items()}


def isolate(
    cells: Sequence[Cell], *, grid: Grid = (16, 16)
) -> tuple[list[Cell], list[Dropped], list[Row]]:
    """Keeps the scenes whose edits moved what they should and little else.

    A scene is dropped with all its cells, so that the rest stays balanced.

    Args:
        cells: factorial cells of any number of scenes.
        grid: rows and columns of the model's grid.

    Returns:
        The cells kept, the scenes dropped with the first reason of each, the table over all.
    """
    readings = _read_all([cell.scene for cell in cells], grid)
    moved: dict[str, dict[str, list[dict[str, float]]]] = {}
    for factor in FACTORS:
        for low, high in matched(cells, factor):
            found = movement(readings[id(low.scene)], readings[id(high.scene)])
            moved.setdefault(factor, {}).setdefault(low.base, []).append(found)
    first = {one.name: one for one in reversed(_judge(moved))}
    dropped = [first[name] for name in sorted(first)]
    out = set(first)
    return [cell for cell in cells if cell.base not in out], dropped, _rows(moved)


def isolate_pairs(
    pairs: Sequence[Pair], *, grid: Grid = (16, 16)
) -> tuple[list[Pair], list[Dropped], list[Row]]:
    """Keeps the contrast pairs that moved what they should and little else.

    The query's controls (paraphrase, nonsense, absent) have no factor of their own and are kept.

    Args:
        pairs: contrast pairs of any number of scenes.
        grid: rows and columns of the model's grid.

    Returns:
        The pairs kept, those dropped with the first reason of each, the table over all.
    """
    judged = [pair for pair in pairs if pair.kind in FACTORS]
    readings = _read_all([scene for pair in judged for scene in (pair.low, pair.high)], grid)
    moved: dict[str, dict[str, list[dict[str, float]]]] = {}
    for pair in judged:
        found = movement(readings[id(pair.low)], readings[id(pair.high)])
        moved.setdefault(pair.kind, {}).setdefault(pair.high.name, []).append(found)
    dropped = _judge(moved)
    out = {(one.name, one.factor) for one in dropped}
    kept = [pair for pair in pairs if (pair.high.name, pair.kind) not in out]
    return kept, dropped, _rows(moved)


def _picture(scene: Scene, grid: Grid) -> dict[str, object]:
    size = scene.image.size
    pixels = scene.pixels
    owner = cell_map(grid, size)
    cells = scene.target.cells(grid, size)
    other = scene.distractor.cells(grid, size) if scene.distractor else None
    inside, around = cells[owner], ring(cells, grid, other)[owner]
    light = luma(pixels)
    steps = np.rint(light[inside] / 4.0).astype(np.uint8)
    away = np.zeros(2)
    if around.any():
        away = np.stack([to_lab(pixels[part].astype(float)).mean(0) for part in (inside, around)])
    rows, columns = np.nonzero(inside)
    centre = np.array([(rows.mean() + 0.5) / size[1], (columns.mean() + 0.5) / size[0]])
    return {
        "information": 8.0 * len(zlib.compress(steps.tobytes(), 9)) / steps.size,
        "salience": float(np.linalg.norm(np.diff(away, axis=0))),
        "edges": _edges(light, inside),
        "chroma": _chroma(pixels[inside], light[inside]),
        "position": centre,
    }


def _edges(light: NDArray[np.float64], inside: NDArray[np.bool_]) -> float:
    gradient = [gaussian_filter(light, 1.0, order=order) for order in ((0, 1), (1, 0))]
    # A step at the region's border is contrast to the surround, which salience counts.
    core = gaussian_filter(inside.astype(float), 1.0, truncate=3.0) > 1 - 1e-6
    core = core if core.any() else inside
    return float(np.sqrt(sum((part[core] ** 2).mean() for part in gradient)))


def _chroma(pixels: NDArray[np.uint8], light: NDArray[np.float64]) -> NDArray[np.float64]:
    red, blue = pixels[:, 0] - light, pixels[:, 2] - light
    edges = [-np.inf, *np.linspace(-48, 48, 7), np.inf]
    counts = np.histogram2d(np.rint(red * 8) / 8, np.rint(blue * 8) / 8, bins=[edges, edges])[0]
    return np.asarray(counts.ravel() / counts.sum())


def _mention(scene: Scene) -> float:
    words = scene.target.label.lower().split()
    asked = scene.query.lower().replace("?", " ").replace(",", " ").split()
    return sum(word in asked for word in words) / len(words) if words else 0.0


def _read_all(all_scenes: Iterable[Scene], grid: Grid) -> dict[int, Reading]:
    """Readings by the scene's identity; scenes that share an image share the work."""
    pictures: dict[tuple[int, tuple[int, ...]], dict[str, object]] = {}
    readings = {}
    for scene in all_scenes:
        key = (id(scene.image), scene.target.box)
        if key not in pictures:
            pictures[key] = _picture(scene, grid)
        readings[id(scene)] = Reading(**pictures[key], query=_mention(scene))  # type: ignore[arg-type]
    return readings


def _judge(moved: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> list[Dropped]:
    dropped = []
    for factor in (name for name in LIMITED if name in moved):
        for name, found in moved[factor].items():
            fault = _fault(factor, found)
            if fault:
                estimator, reason = fault
                dropped.append(
                    Dropped(name=name, factor=factor, estimator=estimator, reason=reason)
                )
    return dropped


def _fault(factor: str, found: list[dict[str, float]]) -> tuple[str, str] | None:
    """Which estimator moved too little or too much, and by how much, or None."""
    intended = float(np.mean([one[factor] for one in found]))
    # Written as "unless inside", so that a NaN is a fault.
    if not intended >= LEAST[factor]:
        return factor, f"{factor} moved by {intended:.2f} natural units, wanted {LEAST[factor]}"
    for estimator in NATURAL:
        other = float(np.mean([abs(one[estimator]) for one in found]))
        if estimator != factor and not other <= SHARE * intended:
            share = f"{other / intended:.2f} of {factor}"
            return estimator, f"{estimator} moved by {share}, wanted at most {SHARE}"
    return None


def _rows(moved: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> list[Row]:
    rows = []
    for factor, by_scene in moved.items():
        every = [one for found in by_scene.values() for one in found]
        intended = float(np.mean([abs(one[factor]) for one in every]))
        for estimator in NATURAL:
            sizes = np.abs([one[estimator] for one in every])
            own = estimator == factor
            rows.append(
                Row(
                    factor=factor,
                    estimator=estimator,
                    intended=own,
                    mean=float(sizes.mean()),
                    high=float(np.quantile(sizes, 0.95)),
                    share=float(sizes.mean()) / intended if intended else float("nan"),
                    limit=SHARE if factor in LIMITED and not own else None,
                    n=len(every),
                )
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table for the factorials of one role's scenes; 1 if more than a tenth dropped."""
    from rich.console import Console
    from rich.progress import track

    parser = argparse.ArgumentParser(
        prog="python -m arrcoc_verify.scenes.isolation",
        description="How much do the edits of one factor move the others?",
    )
    parser.add_argument("--role", default="assert", help="whose scenes (default: assert)")
    parser.add_argument("--per-cluster", type=int, default=3, help="scenes of each cluster")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    console = Console()
    made = scenes(options.role, per_cluster=options.per_cluster)
    steps = track(made, "editing", console=console, transient=True)
    cells = [cell for scene in steps for cell in factorial(scene)]
    kept, dropped, rows = isolate(cells)
    console.print(_table(rows, options.role))
    console.print(
        f"{len(made)} scenes, {len(cells)} cells: {len(kept)} cells kept, "
        f"{len(dropped)} scenes dropped"
    )
    for one in dropped:
        console.print(f"  {one.name}: {one.factor}: {one.reason}")
    if options.json:
        result = {
            "role": options.role,
            "scenes": len(made),
            "cells": len(cells),
            "cells_kept": len(kept),
            "dropped": [asdict(one) for one in dropped],
            "rows": [asdict(row) for row in rows],
        }
        draft = options.json.with_name(options.json.name + ".tmp")
        draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draft.replace(options.json)
    return int(len(dropped) > 0.1 * len(made))


def _table(rows: Sequence[Row], role: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"movement in natural units, {role} scenes: mean (95th percentile)")
    table.add_column("edited")
    for estimator in NATURAL:
        table.add_column(estimator, justify="right")
    for factor in FACTORS:
        line = [row for row in rows if row.factor == factor]
        texts = [f"{row.mean:.3f} ({row.high:.3f})" for row in line]
        bold = [f"[bold]{t}[/]" if r.intended else t for r, t in zip(line, texts, strict=True)]
        table.add_row(factor, *bold)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
