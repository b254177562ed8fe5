"""Models small enough to work out by hand: four patches, each one pixel of a 2 x 2 picture."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.model import Declaration, Model, Output, Site, Step

MIX = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], dtype=torch.float64)
READ = torch.tensor([2.0, -0.5], dtype=torch.float64)
TOTAL = 1000.0


def picture(seed: int) -> Image.Image:
    """Return four random pixels."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(1, 256, (2, 2, 3), dtype=np.uint8), "RGB")


def pictures(count: int) -> list[Image.Image]:
    return [picture(seed) for seed in range(count)]


def queries(count: int) -> list[str]:
    return [f"query {index}" for index in range(count)]


def pixels(images: list[Image.Image]) -> Tensor:
    """Return `[image, patch, channel]` in 0..1, float64."""
    stack = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stack.reshape(len(images), 4, 3).astype(np.float64) / 255)


def site(name: str, axes: str, role: str | None = None, **location: Any) -> Site:
    stage = name.split(".", maxsplit=1)[0]
    at = Output(**(location or {"step": name.split(".")[1]}))
    return Site(name=name, stage=stage, axes=tuple(axes.split()), at=at, role=role)


def build(steps: list[Step], sites: list[Site], **declared: Any) -> Model:
    return Model(
        name="small",
        steps=tuple(steps),
        sites={one.name: one for one in sites},
        declaration=Declaration(
            grid=(2, 2), image_size=(2, 2), integer=False, lod=None, **declared
        ),
        digest="sha256:small",
    )


def step(name: str, run: Callable[..., Any], *inputs: str, **kwargs: Any) -> Step:
    return Step(name=name, run=run, inputs=inputs, **kwargs)


def linear(*, transient: bool = False, **declared: Any) -> Model:
    """Return tokens = 64 + 10 (x MIX) READ: every effect is exact and additive."""
    return build(
        [
            step("pixels", pixels, "images"),
            step("features", lambda x: x @ MIX, "pixels", transient=transient),
            step("relevance", lambda f: f @ READ, "features"),
            step("tokens", lambda r: 64 + 10 * r, "relevance"),
        ],
        [
            site("encoder.pixels", "image patch channel"),
            site("knowing.features", "image patch channel"),
            site("balancing.relevance", "image patch", "relevance"),
            site("attending.tokens", "image patch", "tokens"),
        ],
        **declared,
    )


def conserved() -> Model:
    """Return tokens = multiplier x demand, where the multiplier makes them add up to TOTAL."""
    return build(
        [
            step("pixels", pixels, "images"),
            step("demand", lambda x: 1 + x.sum(-1), "pixels"),
            step("multiplier", lambda d: TOTAL / d.sum(1), "demand"),
            step("tokens", lambda d, m: d * m[:, None], "demand", "multiplier"),
        ],
        [
            site("attending.demand", "image patch", "demand"),
            site("attending.multiplier", "image", "multiplier"),
            site("attending.tokens", "image patch", "tokens"),
        ],
        conserved_total=True,
        total=TOTAL,
    )


def repairing() -> Model:
    """Return two scorers that agree, mixed by a softmax that drops one which falls silent."""

    def weights(first: Tensor, second: Tensor) -> Tensor:
        mass = torch.stack([first.abs().sum(1), second.abs().sum(1)], dim=1)
        return mass.log().softmax(1)

    def mixed(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        return first * weight[:, :1] + second * weight[:, 1:]

    return build(
        [
            step("pixels", pixels, "images"),
            step("information", lambda x: x.mean(-1), "pixels"),
            step("salience", lambda x: x.mean(-1), "pixels"),
            step("weights", weights, "information", "salience"),
            step("relevance", mixed, "information", "salience", "weights"),
            step("tokens", lambda r: 64 + 100 * r, "relevance"),
        ],
        [
            site("knowing.information", "image patch", "information"),
            site("knowing.salience", "image patch", "salience"),
            site("balancing.weights", "image channel", "weights"),
            site("balancing.relevance", "image patch", "relevance"),
            site("attending.tokens", "image patch", "tokens"),
        ],
    )


def region(count: int, *patches: int) -> Tensor:
    """Return the mask `[image, patch]` of the same patches in each of `count` images."""
    mask = torch.zeros(count, 4, dtype=torch.bool)
    mask[:, list(patches)] = True
    return mask


def scenes(count: int, *, query: str = "query") -> list[tuple[Image.Image, str, str, str, str]]:
    """Return scenes as tuples (image, query, unit, role, name)."""
    roles = ("train", "select", "assert")
    return [
        (picture(i), f"{query} {i}", f"photo {i // 2}", roles[i % 3], f"scene {i}")
        for i in range(count)
    ]


def changed(model: Model, name: str, run: Callable[..., Any]) -> Model:
    """Return the model with another function behind one step."""
    steps = tuple(replace(one, run=run) if one.name == name else one for one in model.steps)
    return replace(model, steps=steps)


def slowed(model: Model, visit: Callable[[int], None]) -> Model:
    """Return the model with `visit(number of images)` called whenever its first step runs."""

    def watched(images: list[Image.Image]) -> Tensor:
        visit(len(images))
        return pixels(images)

    return changed(model, "pixels", watched)
