"""Decides with a function that it imported by name."""

from tests.adapters.imported.measures import spread


def decide(image):
    """Return relevance and tokens."""
    relevance = spread(image)
    share = relevance / relevance.sum((1, 2), keepdim=True)
    return {"relevance": relevance, "tokens": 64 + 1024 * share}
