"""Contrast pairs: two scenes that differ in one factor only, and doses of one factor."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from arrcoc_verify.errors import BadQuery, UnknownName
from arrcoc_verify.scenes.edits import Cells, edit_information, edit_salience
from arrcoc_verify.scenes.scene import Grid, Region, Scene

Kind = Literal["information", "salience", "query", "paraphrase", "nonsense", "absent"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Two scenes that differ in one factor; the target is the same region in both.

    Args:
        kind: the factor. `paraphrase`, `nonsense` and `absent` are controls of `query`.
        high: more information, more salience, or the target asked for.
        low: less information, less salience, or the query replaced.
    """

    kind: Kind
    high: Scene
    low: Scene


def information_pair(scene: Scene, *, grid: Grid = (16, 16), seed: int = 0) -> Pair:
    """The target with 16 and with 2 grey levels in each cell, all else equal.

    Raises:
        BadRegion: the grid has more cells than the image has pixels.
    """
    low, high = (edit_information(scene, level, grid=grid, seed=seed) for level in (0.0, 1.0))
    return Pair(kind="information", high=high, low=low)


def salience_pair(scene: Scene, *, grid: Grid = (16, 16)) -> Pair:
    """The target standing out from its surround by its mean luminance, and not, all else equal.

    Raises:
        BadRegion: the grid has more cells than the image has pixels.
    """
    low, high = (edit_salience(scene, level, grid=grid) for level in (0.0, 1.0))
    return Pair(kind="salience", high=high, low=low)


def query_pair(scene: Scene, kind: str = "query") -> Pair:
    """The same image, asked for the target and asked something else.

    Args:
        scene: a scene whose query asks for the target.
        kind: `query` asks for the distractor, the controls ask in other words (`paraphrase`), for
            nothing (`nonsense`) or for something that is not there (`absent`).

    Raises:
        UnknownName: the kind is none of these.
        BadQuery: the scene has no such query.
    """
    words = _words(scene)
    for known, other in words.items():
        if kind == known:
            if not other:
                raise BadQuery(f"wanted a scene with a {kind} query, {scene.name} has none")
            return Pair(kind=known, high=scene, low=dataclasses.replace(scene, query=other))
    raise UnknownName("kind of query pair", kind, words)


def _words(scene: Scene) -> dict[Kind, str | None]:
    """What else a scene can be asked, by the kind of pair."""
    return {
        "query": scene.other_query,
        "paraphrase": scene.paraphrase,
        "nonsense": scene.nonsense,
        "absent": scene.absent_query,
    }


def contrast_pairs(
    scene: Scene, *, grid: Grid = (16, 16), seed: int = 0, kinds: Sequence[str] = KINDS
) -> list[Pair]:
    """The pairs of a scene, of all kinds that it has the queries for, in the order of `kinds`.

    Raises:
        UnknownName: a kind does not exist.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UnknownName("kind of pair", unknown[0], KINDS)
    has = _words(scene)
    made = []
    for kind in KINDS:
        if kind not in kinds:
            continue
        if kind == "information":
            made.append(information_pair(scene, grid=grid, seed=seed))
        elif kind == "salience":
            made.append(salience_pair(scene, grid=grid))
        elif has[kind]:
            made.append(query_pair(scene, kind))
    return made


def doses(
    scene: Scene,
    factor: str,
    levels: Sequence[float],
    *,
    grid: Grid = (16, 16),
    where: Cells | Region | None = None,
) -> list[Scene]:
    """The scene at each dose of one factor.

    Args:
        scene: any scene.
        factor: `information` or `salience`.
        levels: doses from 0 to 1.
        grid: rows and columns of the model's grid.
        where: cells or a region; the scene's target if not given.

    Raises:
        UnknownName: the factor does not exist.
        UsageError: a level is outside 0..1.
    """
    if factor == "information":
        return [edit_information(scene, level, grid=grid, where=where) for level in levels]
    if factor == "salience":
        return [edit_salience(scene, level, grid=grid, where=where) for level in levels]
    raise UnknownName("factor", factor, ("information", "salience"))
