"""The documented causes of a failed allocation, by the stage at which each lies.

A code is given only to what an experiment has shown: putting this part alone right brings the
tokens back, and putting any rival right does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

STAGE_OF: Mapping[str, str] = {
    "preprocessing": "input",
    "query_mismatch": "query",
    "encoder_blind": "encoder",
    "scorer_blind": "knowing",
    "scorer_fires_elsewhere": "knowing",
    "suppressed_by_balancing": "balancing",
    "mix_departs_from_scores": "balancing",
    "budget_competition": "attending",
    "allocator_curve": "attending",
    "allocator_multiplier": "attending",
    "not_deterministic": "runtime",
    "batch_dependent": "runtime",
}
"""Code -> stage, one of `verdict.STAGES`."""

MEANING: Mapping[str, str] = {
    "preprocessing": "the picture is not read as it is: channels, orientation or range are wrong",
    "query_mismatch": "the query as the model understands it does not ask for the region",
    "encoder_blind": "features of the region are lost between the pixels and the scorers",
    "scorer_blind": "a scorer does not answer what is in the region",
    "scorer_fires_elsewhere": "a scorer answers what is not there, and drains the shared budget",
    "suppressed_by_balancing": "the scores are right, their weights or tensions keep them down",
    "mix_departs_from_scores": "relevance is not what scores and weights say",
    "budget_competition": "other regions are asked for as much, and the budget is shared",
    "allocator_curve": "relevance is right, and the curve from it to tokens does not pay for it",
    "allocator_multiplier": "the budget that is there is not spent",
    "not_deterministic": "the same input gets other tokens in each run",
    "batch_dependent": "the picture's tokens hang on its neighbours in the batch",
}
"""Code -> what it says, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause that was named.

    Attributes:
        code: one of `STAGE_OF`.
        site: where it was put right, as a site's name or a role.
        detail: which scorer, tension or operation, in plain words.
    """

    code: str
    site: str = ""
    detail: str = ""

    @property
    def stage(self) -> str:
        """The stage that it lies at."""
        return STAGE_OF[self.code]
