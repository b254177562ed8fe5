"""The worked example of docs/analytic.md is right to the digit, and the engine gives it too."""

import re
from pathlib import Path

import numpy as np
import torch

from arrcoc_verify.graph import Edit, resume
from arrcoc_verify.intervention import shift
from tests.reference import by_hand
from tests.reference.by_hand import KINDS
from tests.reference.small_model import edited, ran

EXACT = {"rtol": 0, "atol": 1e-9}
DOCUMENT = Path(__file__).parents[2] / "docs" / "analytic.md"
SCORES = np.array([[0.6, 0.4, 0.6, 0.4], [0.7, 0.3, 0.2, 0.2], [0.6, 0.2, 0.0, 0.0]])
SAID = (0.0, 0.0, 1.0)


def worked():
    """Every number of the worked example, by table row."""
    where = np.arange(4) == 1

    def after(amount, kind):
        moved = by_hand.shifted(SCORES, 1, where, amount)
        return by_hand.allocate(moved, SAID, 512, clean, kind)

    clean = by_hand.allocate(SCORES, SAID, 512)
    held, local, total = (after(0.3, kind) for kind in KINDS)
    rows = {
        **dict(zip(("information", "salience", "query relevance"), SCORES, strict=True)),
        "mix": clean.mix, "relevance": clean.relevance, "demand": clean.demand,
        "lod": clean.lod, "whole tokens": by_hand.whole(clean.lod),
        "tension": clean.tensions, "weight": clean.weights,
        "tension after": total.tensions, "weight after": total.weights,
        "mix after, weights held": held.mix,
        "relevance after, weights and level held": held.relevance,
        "unrepaired effect": held.lod - clean.lod,
        "mix after": local.mix, "relevance after": local.relevance, "demand after": local.demand,
        "local effect": local.lod - clean.lod, "total effect": total.lod - clean.lod,
        "mediated, last": total.lod - local.lod,
        "mediated, first": by_hand.spend(clean.demand, total.multiplier) - clean.lod,
        "whole tokens after": by_hand.whole(total.lod),
    }  # fmt: skip
    slopes = by_hand.slopes(clean, 1, where)
    for kind in KINDS:
        rows[f"{kind} slope"] = slopes[kind]
        rows[f"{kind} effect of 0.01"] = after(0.01, kind).lod - clean.lod
    shared = {"L = ": clean.level, "λ = ": clean.multiplier}
    shared |= {"L' = ": total.level, "λ' = ": total.multiplier, "W = ": 256 / 336}
    return rows, shared


def worked_at_the_ceiling():
    moved = by_hand.shifted(SCORES, 0, np.arange(4) == 0, 0.2)
    clean = by_hand.allocate(SCORES, SAID, 700)
    held, local, total = (by_hand.allocate(moved, SAID, 700, clean, kind) for kind in KINDS)
    rows = {
        "lod": clean.lod, "unrepaired": held.lod - clean.lod, "local": local.lod - clean.lod,
        "total": total.lod - clean.lod, "last": total.lod - local.lod,
        "first": by_hand.spend(clean.demand, total.multiplier) - clean.lod,
    }  # fmt: skip
    shared = {"W = ": 444 / 336, "λ = ": clean.multiplier, "λ' = ": total.multiplier}
    return {f"{name} at 700": row for name, row in rows.items()}, shared


def written():
    """The rows of numbers in the document's worked example, and its text."""
    text = DOCUMENT.read_text(encoding="utf-8").split("## A worked example")[1]
    text = text.split("\n## ")[0]
    rows = {}
    for line in re.findall(r"^\|(.+)\|$", text, flags=re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.split("|"))
        if re.fullmatch(r"-?\d+(\.\d+)?", cells[0]):
            rows[name] = cells
    return rows, text


def shown_as(row, cells):
    """The computed row in the document's number of decimals."""
    places = [len(cell.partition(".")[2]) for cell in cells]
    return [f"{value + 0.0:.{n}f}" for value, n in zip(row, places, strict=True)]


def test_the_worked_example_of_the_document_is_right_to_the_digit():
    rows, text = written()
    numbers, shared = worked()
    ceiling, more = worked_at_the_ceiling()
    numbers |= ceiling
    assert set(numbers) == set(rows)
    for name, cells in rows.items():
        assert shown_as(numbers[name], cells) == cells, name
    for label, value in [*shared.items(), *more.items()]:
        assert f"`{label}{value:.4f}`" in text or f"{label}(512 - 256) / 336 = {value:.4f}" in text
    assert f"{numbers['local effect'].sum():.2f}" in text


def test_the_engine_gives_the_worked_example():
    numbers, shared = worked()
    base = ran(SCORES[None], [SAID], 512)
    where = torch.arange(4)[None] == 1
    edit = shift("knowing.salience", 0.3, where=where)
    np.testing.assert_allclose(numbers["lod"], base["attending.lod"][0], **EXACT)
    np.testing.assert_array_equal(numbers["whole tokens"], base["attending.tokens"][0])
    for kind in KINDS:
        after = edited(base, [edit], kind)
        moved = (after["attending.lod"] - base["attending.lod"])[0]
        np.testing.assert_allclose(numbers[f"{kind} effect"], moved, **EXACT)
    np.testing.assert_allclose(
        shared["λ' = "], float(edited(base, [edit], "total")["attending.multiplier"])
    )


def test_the_engine_gives_the_worked_example_at_the_ceiling():
    ceiling, _ = worked_at_the_ceiling()
    base = ran(SCORES[None], [SAID], 700)
    edit = shift("knowing.information", 0.2, where=torch.arange(4)[None] == 0)
    for kind in KINDS:
        moved = (edited(base, [edit], kind)["attending.lod"] - base["attending.lod"])[0]
        np.testing.assert_allclose(ceiling[f"{kind} at 700"], moved, **EXACT)
    total = edited(base, [edit], "total")
    swapped = resume(
        base, edits=[Edit(site="attending.multiplier", value=total["attending.multiplier"])]
    )
    first = (swapped["attending.lod"] - base["attending.lod"])[0]
    np.testing.assert_allclose(ceiling["first at 700"], first, **EXACT)
