"""Judging claims of a model before and after a repair, on the same scenes, with the same errors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from arrcoc_verify import suite
from arrcoc_verify.faults.bench import SharedLab, Shelf
from arrcoc_verify.lab import scene_size
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.trial import Settings, try_model
from arrcoc_verify.verdict import Outcome

SCREENED = ("select", "train")
"""Roles on which candidates are screened."""

CONFIRMED = ("assert", "repair-confirm")
"""Roles on which the winner is confirmed; no part of a diagnosis or repair looks at them."""

_BETTER = {
    Outcome.HOLDS: 3, Outcome.NOT_APPLICABLE: 3, Outcome.INCONCLUSIVE: 2, Outcome.REFUTED: 1,
    Outcome.NOT_RUN: 1, Outcome.INVALID: 0,
}  # fmt: skip


class Judge:
    """Judges models on scenes of some roles, each model once for each set of claims.

    Attributes:
        roles: of the scenes that verdicts rest on.
        without: photographs that are left out, such as the case's own.
    """

    def __init__(self, roles: Sequence[str], seed: int = 0, without: Sequence[str] = ()) -> None:
        """Take the roles of the scenes."""
        self.roles, self.seed, self.without = tuple(roles), seed, frozenset(without)
        self._kept: dict[tuple[int, tuple[str, ...]], Mapping[str, Outcome]] = {}

    def __call__(
        self, before: Model, after: Model, patterns: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the claims whose verdict got worse, and those whose verdict got better."""
        key = (id(before), tuple(patterns))
        if key not in self._kept:
            self._kept[key] = self.outcomes(before, patterns)
        old, new = self._kept[key], self.outcomes(after, patterns)
        worse = tuple(name for name in old if _BETTER[new[name]] < _BETTER[old[name]])
        better = tuple(name for name in old if _BETTER[new[name]] > _BETTER[old[name]])
        return worse, better

    def outcomes(self, model: Model, patterns: Sequence[str]) -> Mapping[str, Outcome]:
        """Return the outcome of each claim."""
        settings = replace(Settings(), seed=self.seed, per_cluster=1)
        shelf = _shelf(self.seed)
        asserted = SharedLab(model, self._scenes(model, self.roles), self.seed, shelf)
        selected = SharedLab(model, self._scenes(model, ("select",)), self.seed, shelf)
        trial = try_model(asserted, selected, suite.select(patterns), suite.GATES, settings)
        return {verdict.id: verdict.outcome for verdict in trial.verdicts}

    def _scenes(self, model: Model, roles: Sequence[str]) -> list[Scene]:
        grid, size = model.declaration.grid, scene_size(model)
        made = _made(grid, size, tuple(roles), self.seed)
        return [scene for scene in made if scene.unit not in self.without]


@cache
def _shelf(seed: int) -> Shelf:
    del seed  # seeds share nothing
    return Shelf()


@cache
def _made(grid: tuple[int, int], size: int, roles: tuple[str, ...], seed: int) -> tuple[Scene, ...]:
    return tuple(
        scene
        for role in roles
        for scene in scenes(role, grid=grid, size=size, per_cluster=1, seed=seed)
    )
