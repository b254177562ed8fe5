"""Labs that share what a fault does not touch: edited pictures, and steps before the fault.

Of a faulty model only the steps that differ from its sound model, and what lies downstream of them,
are computed; the rest is computed once by the sound model and handed to every lab. Steps that are
the same object give the same bits, so no reading changes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from arrcoc_verify.attach import copied
from arrcoc_verify.graph import Chunk, Run, again, ask, run
from arrcoc_verify.lab import Lab
from arrcoc_verify.model import Model
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes.scene import Scene


@dataclass(frozen=True, slots=True)
class Shelf:
    """What labs of one process share: edited scenes, and runs of sound models.

    Attributes:
        sound: returns the sound model whose runs are kept.
        scenes: edited scenes by what was done to them.
        runs: runs of the sound model by pictures and queries.
    """

    sound: Callable[[], Model] = analytic.model
    scenes: dict[tuple[object, ...], list[Scene]] = field(default_factory=dict)
    runs: dict[tuple[str, ...], Run] = field(default_factory=dict)

    def run(self, model: Model, images: Sequence[Image.Image], queries: Sequence[str]) -> Run:
        """Return the sound model's run on these pictures and queries."""
        key = _digest(images)
        whole = (key, *queries)
        if whole not in self.runs:
            if (key,) not in self.runs:
                self.runs[key,] = run(model, list(images), list(queries), read=_inner(model))
            self.runs[whole] = ask(self.runs[key,], list(queries), read=_inner(model))
        return self.runs[whole]


class SharedLab(Lab):
    """A lab that takes from a shelf what other models' labs have made before."""

    def __init__(
        self, model: Model, scenes: Sequence[Scene], seed: int = 0, shelf: Shelf | None = None,
        scale: Lab | None = None,
    ) -> None:  # fmt: skip
        """Take a model, scenes, and the shelf; a new one when there is none."""
        super().__init__(model, scenes, seed, scale)
        self.shelf = shelf or Shelf()
        self._sound = self.shelf.sound()
        self._sources = sources_of_difference(model, self._sound)

    def subset(self, keep: Sequence[int]) -> "SharedLab":
        """Return a lab on some of the scenes with the same shelf."""
        scenes = [self.scenes[i] for i in keep]
        return SharedLab(self.model, scenes, self.seed, self.shelf, self.scale)

    def edited_scenes(self, factor: str, level: float, where: str = "target") -> list[Scene]:
        """Return edited scenes; they are the same for every model."""
        names = tuple(scene.name for scene in self.scenes)
        pictures = _digest([scene.image for scene in self.scenes])
        key = (names, pictures, self.seed, factor, level, where)
        if key not in self.shelf.scenes:
            self.shelf.scenes[key] = super().edited_scenes(factor, level, where)
        return self.shelf.scenes[key]

    def run_on(self, images: Sequence[Image.Image], queries: Sequence[str] | None = None) -> Run:
        """Run the model from where it differs from the sound one."""
        if self._sources is None or "images" in self._sources:
            return super().run_on(images, queries)
        asked = list(queries if queries is not None else [s.query for s in self.scenes])
        sound = self.shelf.run(self._sound, images, asked)
        late = {name for source in self._sources for name in self.model.downstream(source)}
        known = {step.name for step in self.model.steps} - late
        base = Run(
            model=self.model, images=list(images), queries=asked,
            chunks=[
                Chunk(
                    rows=chunk.rows,
                    # What a changed step reads is its own copy: it may write in place.
                    outputs={
                        k: copied(v) if k in self._sources else v
                        for k, v in chunk.outputs.items() if k in known
                    },
                    read={
                        k: v for k, v in chunk.read.items()
                        if k in self.model.sites and self.model.sites[k].at.step in known
                    },
                )
                for chunk in sound.chunks
            ],
        )  # fmt: skip
        return again(base, self._sources, read=self.inner_sites)


def _inner(model: Model) -> list[str]:
    return [
        site.name
        for site in model.sites.values()
        if site.role and type(site.at).__name__ != "Output"
    ]


def sources_of_difference(model: Model, sound: Model) -> frozenset[str] | None:
    """Return what the steps that differ read: from there on a model must be computed anew.

    None where that cannot be said: another way to declare batches, or other modules.
    """
    if model.declaration != sound.declaration or model.modules != sound.modules:
        return None
    same = [step for step in model.steps if step in sound.steps]
    differing = [step for step in model.steps if step not in same]
    roots = {source.split(".")[0] for step in differing for source in step.inputs}
    return frozenset(roots)


def _digest(images: Sequence[Image.Image]) -> str:
    whole = hashlib.sha1(usedforsecurity=False)
    for image in images:
        whole.update(str(image.size).encode() + image.tobytes())
    return whole.hexdigest()
