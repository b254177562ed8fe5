"""Labs that share what does not depend on the model: edited pictures, and untouched early steps.

A fault that lies behind the query leaves every step before it as it was; those are computed once
and handed to each faulty model, which then computes the rest by itself.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from arrcoc_verify.graph import Chunk, Run, ask, run
from arrcoc_verify.lab import Lab
from arrcoc_verify.model import Model
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes.scene import Scene


@dataclass(frozen=True, slots=True)
class Shelf:
    """What labs of one process share: edited scenes and the early steps of the sound model."""

    scenes: dict[tuple[object, ...], list[Scene]] = field(default_factory=dict)
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)


class SharedLab(Lab):
    """A lab that takes from a shelf what other models' labs have made before."""

    def __init__(
        self, model: Model, scenes: Sequence[Scene], seed: int = 0, shelf: Shelf | None = None,
        scale: Lab | None = None,
    ) -> None:  # fmt: skip
        """Take a model, scenes, and the shelf; a new one when there is none."""
        super().__init__(model, scenes, seed, scale)
        self.shelf = shelf or Shelf()
        self._late = lies_behind_the_query(model)

    def subset(self, keep: Sequence[int]) -> "SharedLab":
        """Return a lab on some of the scenes with the same shelf."""
        scenes = [self.scenes[i] for i in keep]
        return SharedLab(self.model, scenes, self.seed, self.shelf, self.scale)

    def edited_scenes(self, factor: str, level: float, where: str = "target") -> list[Scene]:
        """Return edited scenes; they are the same for every model."""
        names = tuple(scene.name for scene in self.scenes)
        key = (names, self.seed, factor, level, where)
        if key not in self.shelf.scenes:
            self.shelf.scenes[key] = super().edited_scenes(factor, level, where)
        return self.shelf.scenes[key]

    def run_on(self, images: Sequence[Image.Image], queries: Sequence[str] | None = None) -> Run:
        """Run the model; where it lies behind the query, start from the shared early steps."""
        if not self._late:
            return super().run_on(images, queries)
        asked = list(queries if queries is not None else [s.query for s in self.scenes])
        key = _digest(images)
        if key not in self.shelf.chunks:
            self.shelf.chunks[key] = early(run(analytic.model(), list(images), asked))
        base = Run(
            model=self.model, images=list(images), queries=asked,
            chunks=[Chunk(rows=c.rows, outputs=dict(c.outputs)) for c in self.shelf.chunks[key]],
        )  # fmt: skip
        return ask(base, asked, read=self.inner_sites)


def lies_behind_the_query(model: Model) -> bool:
    """Return whether all that differs from the sound model is computed again for a new query."""
    sound = analytic.model()
    if model.declaration != sound.declaration:
        return False
    again = set(model.downstream("queries"))
    return {step.name for step in model.steps if step not in sound.steps} <= again


def early(whole: Run) -> list[Chunk]:
    """Return the parts of a run that no query reaches."""
    late = set(whole.model.downstream("queries"))
    return [
        Chunk(
            rows=chunk.rows,
            outputs={name: value for name, value in chunk.outputs.items() if name not in late},
        )
        for chunk in whole.chunks
    ]


def _digest(images: Sequence[Image.Image]) -> str:
    whole = hashlib.sha1(usedforsecurity=False)
    for image in images:
        whole.update(str(image.size).encode() + image.tobytes())
    return whole.hexdigest()
