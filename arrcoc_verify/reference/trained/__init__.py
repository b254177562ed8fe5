"""The trained reference model: learned scorers, tensions and curve on pretrained encoders.

Knowing sees the low-resolution picture that the fewest tokens buy everywhere; the task head sees
realised patches only. `docs/trained.md` is its model card.
"""

from arrcoc_verify.reference.trained.graph import model

__all__ = ["model"]
