"""A small router that is sound, and copies of it that are broken in one way each.

Named by `FILE.py:factory`. Cells of 16 pixels; a query's colour words say which chroma it wants.
"""

import time

import torch
from torch import nn

from arrcoc_verify.adapters import Part, Place, describe

GRID, CELL = 8, 16
DECLARED = {"grid": (GRID, GRID), "image_size": (GRID * CELL, GRID * CELL), "lod": (64.0, 400.0)}
CHROMA = {"purple": (1.0, 1.0), "orange": (-1.0, 1.0), "green": (-1.0, -1.0), "blue": (1.0, -1.0)}
TO_CHROMA = torch.tensor([[-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], dtype=torch.float64)
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def cells(plane):
    return plane.unflatten(-1, (GRID, CELL)).unflatten(-3, (GRID, CELL)).movedim(-2, -3)


def query(queries):
    wanted = [[CHROMA[word] for word in CHROMA if word in text.lower()] for text in queries]
    return torch.tensor(
        [[sum(axis) / len(axis) for axis in zip(*each, strict=True)] if each else [0.0, 0.0]
         for each in wanted],
        dtype=torch.float64,
    )  # fmt: skip


def information(image):
    light = torch.einsum("bchw,c->bhw", image.double(), LUMA)
    return cells(light).std((-1, -2)) * 5


def salience(image):
    mean = cells(torch.einsum("bchw,c->bhw", image.double(), LUMA)).mean((-1, -2))
    return (mean - mean.mean((1, 2), keepdim=True)).abs()


def query_relevance(image, query):
    chroma = torch.einsum("bchw,kc->bkhw", image.double(), TO_CHROMA)
    return torch.einsum("bkrc,bk->brc", cells(chroma).mean((-1, -2)), query).clamp(min=0) * 5


def relevance(information, salience, query_relevance):
    return information + salience + 2 * query_relevance


def tokens(relevance):
    level = relevance.mean((1, 2), keepdim=True).clamp(min=1e-9)
    return (64 + 336 * relevance / (relevance + level)).round()


STEPS = {
    "query": query, "information": information, "salience": salience,
    "query_relevance": query_relevance, "relevance": relevance, "tokens": tokens,
}  # fmt: skip


def made(name, sites=None, **changed):
    return describe(name, {**STEPS, **changed}, sites=sites, **DECLARED)


def sound():
    return made("sound router")


def severed(image, query):
    return query_relevance(image, query) * 0 + 0.1


def deaf():
    """The query is read and then forgotten."""
    return made("deaf router", query_relevance=severed)


def backwards(information, salience, query_relevance):
    return (3 - information - salience - 2 * query_relevance).clamp(min=0)


def reversed_():
    """What is asked for gets the fewest tokens."""
    return made("reversed router", relevance=backwards)


def undefined(information, salience, query_relevance):
    whole = relevance(information, salience, query_relevance)
    return torch.where(query_relevance.amax((1, 2), keepdim=True) > 0, whole / 0 * 0, whole)


def not_a_number():
    """NaN as soon as a query says a colour; the picture with which it is described says none."""
    return made("undefined router", relevance=undefined)


def slow_relevance(information, salience, query_relevance):
    time.sleep(0.1)
    return relevance(information, salience, query_relevance)


def slow():
    """Sound, and slow enough to be stopped on the way."""
    return made("slow router", relevance=slow_relevance)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(1, 1)

    def forward(self, relevance):
        return tokens(relevance)


def training():
    """Left in training mode."""
    return made("router in training", tokens=Norm().train())


def silent():
    """Declares a site at a module that its step never calls."""
    step = Norm().eval()
    return made(
        "silent router", tokens=Part(run=step),
        sites={"attending.hidden": Place(module="tokens.unused", step="tokens")},
    )  # fmt: skip


def unsteady_relevance(information, salience, query_relevance):
    drawn = torch.rand(information.shape, dtype=torch.float64)
    return relevance(information, salience, query_relevance) + 0.01 * drawn


def unsteady():
    """Says that it is deterministic and is not."""
    return made("unsteady router", relevance=unsteady_relevance)
