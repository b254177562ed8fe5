"""Which parts of a model a claim speaks of: those between what is written and what is read.

When a claim is refuted, the fault lies in one of its parts, or before them in what they get.
"""

import fnmatch
from collections.abc import Mapping

PARTS = {
    "input": "input", "encoder": "encoder", "query": "query",
    "information": "knowing", "salience": "knowing", "coupling": "knowing",
    "balancing": "balancing", "attending": "attending", "realising": "realising",
    "report": "report", "runtime": "runtime",
}  # fmt: skip
"""Part -> stage, in the order in which data flows."""

BEFORE: Mapping[str, tuple[str, ...]] = {
    "input": (), "encoder": ("input",), "query": (),
    "information": ("input", "encoder"), "salience": ("input", "encoder"),
    "coupling": ("input", "encoder", "query"),
    "balancing": ("input", "encoder", "query", "information", "salience", "coupling"),
    "attending": (
        "input", "encoder", "query", "information", "salience", "coupling", "balancing",
    ),
    "realising": (
        "input", "encoder", "query", "information", "salience", "coupling", "balancing",
        "attending",
    ),
    "report": (), "runtime": (),
}  # fmt: skip
"""Part -> parts whose results it gets, directly or not."""

_SEEING = ("input", "encoder")
_ASKING = (*_SEEING, "query", "coupling")
_SPANS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("knowing.*-features-carry-the-score", ()),  # by scorer, below
    ("knowing.*-causes-tokens", ("balancing", "attending")),
    ("knowing.*-is-necessary", ("balancing", "attending")),
    ("knowing.information-ignores-query", ("information",)),
    ("knowing.salience-ignores-query", ("salience",)),
    ("knowing.information-*", (*_SEEING, "information")),
    ("knowing.salience-*", (*_SEEING, "salience")),
    ("knowing.query-survives-*", ("query", "coupling")),
    ("knowing.query-*", _ASKING),
    ("knowing.entropy-spares-salience", (*_SEEING, "salience")),
    ("knowing.contrast-spares-information", (*_SEEING, "information")),
    ("knowing.*-spares-query-relevance", (*_SEEING, "coupling")),
    ("knowing.scores-stay-*", ("information", "coupling")),
    ("knowing.scores-*", (*_SEEING, "information", "salience", "coupling")),
    ("balancing.*-for-*-queries", ("query", "balancing")),
    ("balancing.*-moves-tokens", ("balancing", "attending")),
    ("balancing.weights-are-not-fixed", ("balancing", "attending")),
    ("balancing.reported-*", ("report",)),
    ("balancing.*", ("balancing",)),
    ("attending.*", ("attending",)),
    ("whole.entropy-causes-tokens", (*_SEEING, "information", "balancing", "attending")),
    ("whole.contrast-causes-tokens", (*_SEEING, "salience", "balancing", "attending")),
    ("whole.paraphrase-is-stable", ("query", "coupling")),
    ("whole.tokens-follow-the-patched-coupling", ("balancing", "attending")),
    ("whole.coupling-lifts-*", ("balancing", "attending")),
    ("whole.coupling-is-needed", ("information", "salience", "balancing")),
    ("whole.asking-beats-loudness", (*_ASKING, "salience", "balancing", "attending")),
    ("whole.mirror-*", (*_SEEING, "information", "salience", "coupling", "balancing")),
    ("whole.place-*", (*_SEEING, "information", "salience", "coupling", "balancing")),
    ("whole.*", (*_ASKING, "balancing", "attending")),
)
"""Shell pattern of claim ids -> parts; the first that matches counts."""

SCORER_PARTS = {"information": "information", "salience": "salience", "query": "coupling"}


def span(claim: str, stage: str) -> tuple[str, ...]:
    """Return the parts that a claim speaks of; for an unknown claim those of its stage."""
    if fnmatch.fnmatchcase(claim, "knowing.*-features-carry-the-score"):
        return (SCORER_PARTS[claim.partition(".")[2].partition("-")[0]],)
    found = next((parts for pattern, parts in _SPANS if fnmatch.fnmatchcase(claim, pattern)), None)
    return found or tuple(part for part, of in PARTS.items() if of == stage)


def part_of_role(role: str | None, stage: str) -> str:
    """Return the part that a site belongs to, by its role or else by its stage."""
    word = role or ""
    if word.startswith("reported"):
        return "report"
    for start, part in (
        ("information", "information"), ("salience", "salience"), ("query_relevance", "coupling"),
    ):  # fmt: skip
        if word.startswith(start):
            return part
    return stage if stage in PARTS else "coupling"
