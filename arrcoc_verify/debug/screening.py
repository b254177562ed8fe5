"""Judging claims of a model before and after a repair, on the same scenes, with the same errors.

A repaired model differs from the one before it in few steps, and a planted fault in few from the
sound model: what lies before them is run once and shared.
"""

from collections.abc import Mapping, Sequence
from functools import cache

from arrcoc_verify import suite
from arrcoc_verify.faults.bench import SharedLab, Shelf
from arrcoc_verify.lab import scene_size
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.trial import Settings, try_model
from arrcoc_verify.verdict import Outcome

SCREENED = ("select", "train", "donor")
"""Roles on which candidates are screened."""

SCREENING_ALPHA = 0.1
"""Family-wise error of screening: on so few scenes nothing is decided at the level of a suite."""

CONFIRMED = ("assert", "repair-confirm")
"""Roles on which the winner is confirmed; no part of a diagnosis or repair looks at them."""

Outcomes = Mapping[str, Outcome]
"""Claim -> outcome."""

RANK = {
    Outcome.HOLDS: 3, Outcome.NOT_APPLICABLE: 3, Outcome.INCONCLUSIVE: 2, Outcome.REFUTED: 1,
    Outcome.NOT_RUN: 1, Outcome.INVALID: 0,
}  # fmt: skip
"""Outcome -> how good it is; a verdict gets worse when its rank falls."""


class Shared:
    """What several judges share: runs of the steps that models have in common, and gates' runs.

    Attributes:
        sound: its runs are handed to every model that begins with the same steps.
        seed: of every draw.
        shelf: pictures and runs that were made.
    """

    def __init__(self, sound: Model, seed: int = 0) -> None:
        """Take the model whose steps most of the judged ones have."""
        self.sound, self.seed = sound, seed
        self.shelf = Shelf(sound=lambda: sound)
        self._selected: list[tuple[Model, SharedLab]] = []

    def lab(self, model: Model, made: Sequence[Scene]) -> SharedLab:
        """Return a lab that takes from the shelf."""
        return SharedLab(model, made, self.seed, self.shelf)

    def selected(self, model: Model, made: Sequence[Scene]) -> SharedLab:
        """Return the lab that gates look at; those of the last few models are kept."""
        for known, lab in self._selected:
            if known is model and len(lab) == len(made):
                return lab
        lab = self.lab(model, made)
        self._selected = [*self._selected[-_LAST:], (model, lab)]
        return lab


_LAST = 3


class Judge:
    """Judges models on scenes of some roles, each model once for each set of claims.

    Attributes:
        roles: of the scenes that verdicts rest on.
        shared: what is not run again for every model.
        without: clusters of scenes that are left out, such as those of the cases.
        alpha: family-wise error of the verdicts.
        last: outcomes of the model that was judged last, by claim.
    """

    def __init__(
        self, roles: Sequence[str], shared: Shared, without: Sequence[str] = (), *,
        alpha: float = Settings.alpha,
    ) -> None:  # fmt: skip
        """Take the roles of the scenes, and what is shared with other judges."""
        self.last: Outcomes = {}
        self.alpha = alpha
        self.roles, self.shared, self.without = tuple(roles), shared, frozenset(without)
        self._kept: list[tuple[Model, tuple[str, ...], Outcomes]] = []

    def __call__(
        self, before: Model, after: Model, patterns: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the claims whose verdict got worse, and those whose verdict got better."""
        old, new = self.known(before, tuple(patterns)), self.outcomes(after, patterns)
        self.last = new
        worse = tuple(name for name in old if RANK[new[name]] < RANK[old[name]])
        better = tuple(name for name in old if RANK[new[name]] > RANK[old[name]])
        return worse, better

    def known(self, model: Model, patterns: tuple[str, ...]) -> Outcomes:
        """Return the outcome of each claim, judged once for a model."""
        for known, asked, outcomes in self._kept:
            if known is model and asked == patterns:
                return outcomes
        found = self.outcomes(model, patterns)
        self._kept.append((model, patterns, found))
        return found

    def outcomes(self, model: Model, patterns: Sequence[str]) -> Outcomes:
        """Return the outcome of each claim."""
        settings = Settings(seed=self.shared.seed, per_cluster=1, alpha=self.alpha)
        asserted = self.shared.lab(model, self._scenes(model, self.roles))
        selected = self.shared.selected(model, self._scenes(model, ("select",)))
        trial = try_model(asserted, selected, suite.select(patterns), suite.GATES, settings)
        return {verdict.id: verdict.outcome for verdict in trial.verdicts}

    def _scenes(self, model: Model, roles: Sequence[str]) -> list[Scene]:
        grid, size = model.declaration.grid, scene_size(model)
        made = _made(grid, size, tuple(roles), self.shared.seed)
        return [scene for scene in made if scene.cluster not in self.without]


def screening(shared: Shared) -> Judge:
    """Return the judge that candidates are screened by."""
    return Judge(SCREENED, shared, alpha=SCREENING_ALPHA)


@cache
def _made(grid: tuple[int, int], size: int, roles: tuple[str, ...], seed: int) -> tuple[Scene, ...]:
    return tuple(
        scene
        for role in roles
        for scene in scenes(role, grid=grid, size=size, per_cluster=1, seed=seed)
    )
