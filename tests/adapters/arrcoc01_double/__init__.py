"""A small double of the published ARR-COC 0.1 package: own code, same signatures and properties."""

from .integration import Wrapper
from .knowing import information_score

__all__ = ["Wrapper", "information_score"]
