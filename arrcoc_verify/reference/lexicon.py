"""What words mean to the analytic model: a table from labels to chroma categories.

The model knows an object by its colours and by nothing else, which is enough to have every effect
in closed form. Colour words mean their category; the table of labels is made from the cut-outs:

    python -m arrcoc_verify.reference.lexicon
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.reference import texture
from arrcoc_verify.scenes import fixtures

COLOURS = ("purple", "orange", "green", "blue")
"""Colour words, in the order of the four strong chroma categories (6 to 9)."""
BROAD = frozenset({"everything", "all", "whole", "overall", "scene"})
"""Words that ask for no particular thing."""
ODD = frozenset(
    {"odd", "unusual", "strange", "anomaly", "anomalies", "anything", "wrong", "surprising"}
)
"""Words that ask for what stands out from expectation."""

TABLE = "analytic/lexicon.json"


@cache
def table() -> dict[str, tuple[float, ...]]:
    """Return label -> ten category shares that sum to 1."""
    data = json.loads((fixtures.folder() / TABLE).read_text(encoding="utf-8"))
    return {label: tuple(shares) for label, shares in data.items()}


def words(query: str) -> list[str]:
    """Return the words of a query, lower case, any script."""
    return re.findall(r"[^\W\d_]+", query.lower())


def meaning(query: str, known: Mapping[str, Sequence[float]] | None = None) -> Tensor:
    """Return what a query says to the model, `[12]`, float64.

    The first ten entries are the root of the category shares of the colours named in it, else of
    the labels (a unit vector, or zero when it names none); then whether it has a broad word, and
    an odd one.
    """
    known = table() if known is None else known
    said = words(query)
    coloured = [index for index, colour in enumerate(COLOURS) if colour in said]
    if coloured:
        known = {COLOURS[index]: _pure(6 + index) for index in coloured}
    text = " ".join(_singular(word) for word in said)
    named = [
        torch.tensor(shares, dtype=torch.float64)
        for label, shares in known.items()
        if re.search(rf"\b{re.escape(' '.join(_singular(w) for w in words(label)))}\b", text)
    ]
    shares = torch.stack(named).mean(0) if named else torch.zeros(10, dtype=torch.float64)
    broad = float(bool(BROAD & set(said)))
    odd = float(bool(ODD & set(said)))
    return torch.cat([shares.sqrt(), torch.tensor([broad, odd], dtype=torch.float64)])


def _pure(category: int) -> tuple[float, ...]:
    return tuple(float(index == category) for index in range(10))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def measure() -> dict[str, list[float]]:
    """Return the table made from the cut-outs: mean category shares under each label's masks."""
    found: dict[str, list[np.ndarray]] = {}
    for cutout in fixtures.manifest().cutouts:
        size = (texture.SIZE, texture.SIZE)
        rgba = fixtures.cutout(cutout.id).resize(size, Image.Resampling.BOX)
        alpha = np.asarray(rgba)[..., 3] > 200
        maps = texture.texture(texture.pixels([rgba.convert("RGB")]))[0, 3:].numpy()
        found.setdefault(cutout.label, []).append(maps[:, alpha].mean(1))
    return {
        label: [round(float(x), 6) for x in np.mean(rows, 0) / np.mean(rows, 0).sum()]
        for label, rows in sorted(found.items())
    }


if __name__ == "__main__":
    path = fixtures.folder() / TABLE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    print(path)  # noqa: T201
