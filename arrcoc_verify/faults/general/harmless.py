"""Changes that no output can show, each with its proof: they must raise no alarm."""

import torch
from torch import Tensor

from arrcoc_verify.faults.general.operator import Operator
from arrcoc_verify.faults.planting import at, entering


def _doubled_mix(value: Tensor) -> Tensor:
    return 2 * value


def _through_float64(value: Tensor) -> Tensor:
    return value.to(torch.float64).to(value.dtype)


def operators() -> tuple[Operator, ...]:
    """Return every change that is proven to change nothing."""
    return (
        Operator(
            name="harmless-copy:relevance", stage="balancing",
            sentence="relevance is copied", plant=lambda model: at(model, "relevance", torch.clone),
            equivalent="a copy holds the same bits",
        ),
        Operator(
            name="harmless-widened:salience", stage="knowing",
            sentence="salience passes through float64",
            plant=lambda model: at(model, "salience", _through_float64),
            equivalent="every shorter float is a float64, so both casts are exact",
        ),
        Operator(
            name="harmless-stripped:query", stage="query",
            sentence="white space around queries is removed on reading",
            plant=lambda model: entering(
                model, "queries", lambda batch: [str(query).strip() for query in batch]
            ),
            equivalent="gate query.padding: a sound model reads a query with white space around "
            "it as the query",
        ),
        Operator(
            name="harmless-doubled:tensions-and-back", stage="balancing",
            sentence="tensions are doubled and halved",
            plant=lambda model: at(model, "tensions", lambda value: (2 * value) / 2),
            equivalent="multiplying by a power of two is exact in binary floats",
        ),
    )  # fmt: skip
