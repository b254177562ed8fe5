"""Rows of a user's table, the good and the bad: bad ones are named, and skipped only if asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arrcoc_verify.errors import BadRegion, BadTable
from arrcoc_verify.scenes.scene import Box, Region

NAMED = 50  # so many bad rows are written out in an error; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A row, annotation or file that cannot be used: where it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One usable row: a region of an image and the query that asks for it.

    Args:
        image: path of the image, relative to its folder.
        query: asks for the region.
        region: in pixels of the image as it was loaded.
        unit: the source photograph.
        name: where the row stands.
    """

    image: str
    query: str
    region: Region
    unit: str
    name: str


def settle(source: str, skipped: Sequence[Skipped], *, skip_bad: bool) -> None:
    """Raises with all bad rows unless skipping was asked for.

    Raises:
        BadTable: there are bad rows and they are not to be skipped.
    """
    if not skipped or skip_bad:
        return
    lines = "\n".join(f"  {one.where}: {one.reason}" for one in skipped[:NAMED])
    rest = f"\n  and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    raise BadTable(
        f"wanted every entry of {source} to be usable, {len(skipped)} are not "
        f"(mend them, or ask for bad ones to be skipped):\n{lines}{rest}"
    )


def parse_box(text: str) -> Box:
    """A box from "x,y,w,h" in pixels; numbers may have decimals and are rounded.

    Raises:
        BadRegion: it is not four numbers.
    """
    parts = text.replace(";", ",").split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise BadRegion(
            f'wanted a box as "x,y,w,h" in pixels, got {text!r}: put quotes around it in a CSV'
        )
    x, y, width, height = (round(number) for number in numbers)
    return x, y, width, height
