"""Faults on the way in: pictures that are read wrong, and queries that do not arrive.

Source: real faults of multimodal pipelines (channel order, padding, truncated cache keys, leaking
templates), each written so that it changes one thing.
"""

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.model import Model
from arrcoc_verify.reference import lexicon
from arrcoc_verify.reference.analytic import embed_queries

_ASKING = frozenset({"find", "look", "closely", "what", "show", "picture", "see", "describe"})
"""Words that only say how something is asked for."""


def _severed(queries: list[str]) -> Tensor:
    return lexicon.meaning("purple fish").expand(len(queries), -1).clone()


def _mean_object() -> Tensor:
    return torch.tensor(list(lexicon.table().values()), dtype=torch.float64).mean(0).sqrt()


def _unknown_is_something(embedded: Tensor) -> Tensor:
    names_nothing = embedded[:, :10].norm(dim=1) == 0
    meant = torch.cat([_mean_object(), torch.zeros(2, dtype=torch.float64)])
    return torch.where(names_nothing[:, None], embedded + meant, embedded)


def _template_leaks(embedded: Tensor, queries: list[str]) -> Tensor:
    said = [len(_ASKING & set(lexicon.words(query))) for query in queries]
    leak = torch.zeros_like(embedded)
    leak[:, 0] = 0.4 * torch.tensor(said, dtype=embedded.dtype)  # neutral: most of any picture
    mixed = embedded + leak
    size = mixed[:, :10].norm(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([mixed[:, :10] / size, mixed[:, 10:]], 1)


def _by_length(embedded: Tensor, queries: list[str]) -> Tensor:
    return embedded * torch.tensor([[20 / (20 + len(query))] for query in queries]).double()


def _padded_mean(embedded: Tensor, queries: list[str]) -> Tensor:
    counts = torch.tensor([[len(query.split())] for query in queries], dtype=torch.float64)
    return embedded * counts / counts.max()


def _with_memory() -> Model:
    remembered: dict[str, Tensor] = {}

    def recall(queries: list[str]) -> Tensor:
        fresh = embed_queries(queries)
        rows = [
            remembered.setdefault(query[:12], row)
            for query, row in zip(queries, fresh, strict=True)
        ]
        return torch.stack(rows)

    return rewired(instead("query", recall))


def _blind_to_colour_words(queries: list[str]) -> Tensor:
    """Read labels only: no colour word is known."""
    without = [
        " ".join(w for w in query.split() if w.lower() not in lexicon.COLOURS) for query in queries
    ]
    return embed_queries([text or query for text, query in zip(without, queries, strict=True)])


def _first_object(queries: list[str]) -> Tensor:
    return embed_queries([query.split(" and the ")[0] for query in queries])


def _no_modifiers(embedded: Tensor) -> Tensor:
    return torch.cat([embedded[:, :10], torch.zeros_like(embedded[:, 10:])], 1)


def _unknown_is_all(embedded: Tensor) -> Tensor:
    """Words without a meaning point, much too far, to every strong colour."""
    unknown = embedded.norm(dim=1, keepdim=True) == 0
    named = embedded.clone()
    named[:, 6:10] = torch.where(unknown, 4.0, named[:, 6:10])
    return named


FAULTS = (
    Fault(
        name="picture-severed", stage="input", also=("encoder",),
        sentence="the model always sees the same grey picture",
        make=lambda: rewired(after("pixels", lambda rgb: torch.full_like(rgb, 0.5))),
    ),
    Fault(
        name="channels-swapped", stage="input", also=("encoder",),
        sentence="red and blue are exchanged on reading",
        make=lambda: rewired(after("pixels", lambda rgb: rgb.flip(1))),
    ),
    Fault(
        name="picture-upside-down", stage="input", also=("encoder",),
        sentence="pictures are read from bottom to top",
        make=lambda: rewired(after("pixels", lambda rgb: rgb.flip(2))),
    ),
    Fault(
        name="query-severed", stage="query", sentence="every query gets the same embedding",
        make=lambda: rewired(instead("query", _severed)),
    ),
    Fault(
        name="unknown-is-something", stage="query",
        sentence="words that nobody taught the model mean the average object",
        make=lambda: rewired(after("query", _unknown_is_something)),
    ),
    Fault(
        name="template-leaks", stage="query",
        sentence="the words around the object's name pull the embedding along",
        make=lambda: rewired(after("query", _template_leaks, "queries")),
    ),
    Fault(
        name="query-scaled-by-length", stage="query",
        sentence="the embedding shrinks with every character, white space included",
        make=lambda: rewired(after("query", _by_length, "queries")),
    ),
    Fault(
        name="query-padding-in-mean", stage="query",
        sentence="padding up to the longest query of the batch counts in the mean",
        make=lambda: rewired(after("query", _padded_mean, "queries")),
    ),
    Fault(
        name="query-first-for-all", stage="query",
        sentence="the first query of a batch is used for all of its pictures",
        make=lambda: rewired(after("query", lambda said: said[:1].expand_as(said).clone())),
    ),
    Fault(
        name="query-cache-key-cut", stage="query",
        sentence="queries that begin alike share one cached embedding",
        make=_with_memory,
    ),
    Fault(
        name="attribute-ignored", stage="query",
        sentence="the colour word of a query is not understood, only the thing's name",
        make=lambda: rewired(instead("query", _blind_to_colour_words)),
    ),
    Fault(
        name="unknown-means-every-colour", stage="query",
        sentence="words that nobody taught the model match each coloured thing",
        make=lambda: rewired(after("query", _unknown_is_all)),
    ),
    Fault(
        name="second-object-unheard", stage="query",
        sentence="of two things that are named, only the first is looked for",
        make=lambda: rewired(instead("query", _first_object)),
    ),
    Fault(
        name="kind-of-query-lost", stage="query",
        sentence="broad and odd queries embed as if they said nothing",
        make=lambda: rewired(after("query", _no_modifiers)),
    ),
)  # fmt: skip
