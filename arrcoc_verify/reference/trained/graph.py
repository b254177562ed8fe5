"""The trained reference model as a graph of steps with sites."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify import provenance
from arrcoc_verify.model import (
    SCORERS,
    TENSIONS,
    ClaimProfile,
    Declaration,
    Location,
    Model,
    ModuleOutput,
    Output,
    Site,
    Step,
)
from arrcoc_verify.reference import allocator
from arrcoc_verify.reference.trained import assembly, realising, tower
from arrcoc_verify.reference.trained.assembly import HIGH, LOW, TOTAL, Allocator, Reference

_PATCH, _VECTOR, _THREE = ("image", "patch"), ("image", "patch", "channel"), ("image", "channel")
_PLANE = ("image", "channel", "height", "width")


def pixels(images: list[Image.Image]) -> Tensor:
    """Return pictures as RGB, whole numbers 0..255 in float32, at 320 x 320."""
    planes = []
    side = realising.SIZE
    for image in images:
        sized = image.convert("RGB")
        if sized.size != (side, side):
            sized = sized.resize((side, side), Image.Resampling.BOX)
        raw = torch.frombuffer(bytearray(sized.tobytes()), dtype=torch.uint8)
        planes.append(raw.reshape(side, side, 3).permute(2, 0, 1))
    return torch.stack(planes).float()


def balanced(weight: Tensor, *scores: Tensor) -> Tensor:
    """Return each scorer's part of the mix, `[image, patch, scorer]`."""
    return torch.stack(scores, 2) * weight[:, None, :]


def normaliser(mixed: Tensor) -> Tensor:
    """Return the mean of the mix over the image."""
    return mixed.mean(1)


def relevance(mixed: Tensor, level: Tensor) -> Tensor:
    """Return the mix divided by itself plus the image's level, 0..1."""
    below = (mixed + level[:, None]).clamp(min=torch.finfo(mixed.dtype).tiny)
    return mixed / below


def report(tension: Tensor, weight: Tensor) -> Mapping[str, Tensor]:
    """Return what the model says of itself; nothing reads it."""
    return {"tensions": tension.clone(), "weights": weight.clone()}


_Made = tuple[str, Any, tuple[str, ...], dict[str, bool]]
"""A step: its name, what it runs, its inputs and fields of `Step`."""


def encoders(net: Reference, tokenizer: Any) -> tuple[_Made, ...]:
    """Return the steps in which patches and queries are made to meet."""

    def embed(queries: list[str]) -> Tensor:
        return net.query(tower.pieces(tokenizer, queries).to(net.classes.device))

    return (
        ("met", net.met, ("patches",), {}),
        ("logits", net.classifier, ("patches",), {}),
        ("query", embed, ("queries",), {}),
        ("evidence", net.evidence, ("logits", "query"), {}),
    )


def steps(net: Allocator, patches: Any, meeting: tuple[_Made, ...]) -> tuple[Step, ...]:
    """Return the steps of a network; those after the tokens run only when they are asked for.

    Args:
        net: scorers, balancer, curve and task head.
        patches: glance -> `[image, patch, channel]`.
        meeting: steps that give `met`, `query` and `evidence`.
    """

    def placed(images: list[Image.Image]) -> Tensor:
        return pixels(images).to(net.curve.raw.device)

    def coupled(context: Tensor, glance: Tensor, met: Tensor, evidence: Tensor, query: Tensor):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return net.query_relevance.features(net.seen(context, glance), met, evidence, query)

    def surveyed(query: Tensor, context: Tensor, *scores: Tensor) -> Tensor:
        return net.balancer.context(query, context, torch.stack(scores, 2))

    def carried(weight: Tensor, i: Tensor, s: Tensor, q: Tensor, *features: Tensor) -> Tensor:
        parts = balanced(weight, i, s, q)
        made: Tensor = net.superposition(parts, torch.stack(features, 2), net.values())
        return made

    scores = ("information", "salience", "query_relevance")
    vectors = ("information_features", "salience_features", "query_features")
    made: tuple[_Made, ...] = (
        ("pixels", placed, ("images",), {"transient": True}),
        ("glance", realising.glance, ("pixels",), {}),
        ("patches", patches, ("glance",), {}),
        ("context_blocks", net.context, ("patches",), {}),
        *meeting,
        ("information_features", net.information.features, ("glance",), {}),
        ("information", net.information.read, ("information_features",), {}),
        ("salience_features", net.salience.features, ("glance",), {}),
        ("salience", net.salience.read, ("salience_features",), {}),
        ("query_features", coupled,
         ("context_blocks", "glance", "met", "evidence", "query"), {}),
        ("query_relevance", net.query_relevance.read, ("query_features",), {}),
        ("context", surveyed, ("query", "context_blocks", *scores), {}),
        ("tensions", net.balancer.tensions, ("context",), {}),
        ("weights", net.balancer.weights, ("tensions",), {}),
        ("report", report, ("tensions", "weights"), {}),
        ("balancing_features", carried, ("weights", *scores, *vectors), {}),
        ("mix", net.mix, ("balancing_features",), {}),
        ("normaliser", normaliser, ("mix",), {}),
        ("relevance", relevance, ("mix", "normaliser"), {}),
        ("attending_features", net.attending_features, ("relevance", "balancing_features"), {}),
        ("demand", net.demand, ("attending_features",), {}),
        ("multiplier", net.multiplier, ("demand",), {}),
        ("lod", net.lod, ("demand", "multiplier"), {}),
        ("tokens", allocator.whole_tokens, ("lod",), {}),
        ("realised", realising.realise, ("pixels", "tokens"), {"lazy": True}),
        ("answer", net.head, ("realised", "tokens"), {"lazy": True}),
    )  # fmt: skip
    return tuple(
        Step(name=name, run=run, inputs=inputs, pure=True, **more)
        for name, run, inputs, more in made
    )


_SITES = (
    ("encoder.glance", _PLANE, "glance", None, None),
    ("encoder.patches", _VECTOR, "patches", None, None),
    ("encoder.context", _VECTOR, "context_blocks", None, None),
    ("encoder.met", _VECTOR, "met", None, None),
    ("encoder.evidence", _PATCH, "evidence", None, None),
    ("query.embedding", _THREE, "query", None, "query"),
    ("knowing.information_features", _VECTOR, "information_features", None, "information_features"),
    ("knowing.information", _PATCH, "information", None, "information"),
    ("knowing.salience_features", _VECTOR, "salience_features", None, "salience_features"),
    ("knowing.salience", _PATCH, "salience", None, "salience"),
    ("knowing.query_features", _VECTOR, "query_features", None, "query_relevance_features"),
    ("knowing.query_relevance", _PATCH, "query_relevance", None, "query_relevance"),
    ("balancing.context", _THREE, "context", None, None),
    ("balancing.tensions", _THREE, "tensions", None, "tensions"),
    ("balancing.weights", _THREE, "weights", None, "weights"),
    ("balancing.reported_tensions", _THREE, "report", "tensions", "reported_tensions"),
    ("balancing.reported_weights", _THREE, "report", "weights", "reported_weights"),
    ("balancing.features", _VECTOR, "balancing_features", None, "balancing_features"),
    ("balancing.mix", _PATCH, "mix", None, "mix"),
    ("balancing.normaliser", ("image",), "normaliser", None, "normaliser"),
    ("balancing.relevance", _PATCH, "relevance", None, "relevance"),
    ("attending.features", _VECTOR, "attending_features", None, "attending_features"),
    ("attending.demand", _PATCH, "demand", None, "demand"),
    ("attending.multiplier", ("image",), "multiplier", None, "multiplier"),
    ("attending.lod", _PATCH, "lod", None, "lod"),
    ("attending.tokens", _PATCH, "tokens", None, "tokens"),
    ("realising.patches", ("image", "patch", "channel", "height", "width"), "realised", None, None),
    ("realising.answer", _THREE, "answer", None, None),
)  # fmt: skip
_CHANNELS = {
    "balancing.tensions": TENSIONS,
    "balancing.reported_tensions": TENSIONS,
    "balancing.weights": SCORERS,
    "balancing.reported_weights": SCORERS,
}


_Inner = dict[str, tuple[tuple[str, ...], Location]]


def inner(net: Allocator) -> _Inner:
    """Return the sites at heads and MLPs of the blocks over patches."""
    found: _Inner = {}
    blocks: Any = net.context.blocks
    for number, block in enumerate(blocks):
        for name, module in (("", block), (".heads", block.heads), (".mlp", block.mlp)):
            at = ModuleOutput(step="context_blocks", module=module)
            found[f"encoder.blocks.{number}{name}"] = (_VECTOR, at)
    return found


def _towers(net: Reference) -> _Inner:
    """Return the sites inside the two towers: convolution stages and text layers."""
    found: _Inner = {}
    for number, stage in enumerate(net.trunk.blocks):
        at = ModuleOutput(step="patches", module=stage)
        found[f"encoder.tower.{number}"] = (_PLANE, at)
    for number, layer in enumerate(net.towers.text.transformer.encoder.layer):
        at = ModuleOutput(step="query", module=layer.output)
        found[f"query.layers.{number}"] = (("image", "token", "channel"), at)
    return found


def declaration() -> Declaration:
    """Return what every model with this allocator declares."""
    side = realising.SIZE
    return Declaration(
        grid=(realising.GRID, realising.GRID), image_size=(side, side), lod=(LOW, HIGH),
        conserved_total=True, total=TOTAL, batch_size=8,
    )  # fmt: skip


def sites(inside: _Inner) -> dict[str, Site]:
    """Return the sites at the steps' results, and those given."""
    found = {
        name: Site(
            name=name, stage=name.split(".")[0], axes=axes, role=role,
            at=Output(step=step, key=key), channels=_CHANNELS.get(name, ()), writable=key is None,
        )
        for name, axes, step, key, role in _SITES
    }  # fmt: skip
    for name, (axes, at) in inside.items():
        found[name] = Site(name=name, stage=name.split(".")[0], axes=axes, at=at)
    return found


def _digest(weights: Path) -> str:
    """Return one digest of code, weights, text configuration and tokenizer."""
    code = provenance.folder_digest(Path(__file__).parent)
    text = provenance.folder_digest(assembly.text_folder())
    return provenance.json_digest([code, text, provenance.file_digest(weights)])


def model(weights: Path | None = None) -> Model:
    """Return the trained reference model.

    Args:
        weights: a file of weights or a checkpoint of training; those shipped by default.

    Raises:
        BadModel: there are no such weights, or they are of another model.
    """
    net = assembly.load(weights)
    tokenizer = tower.tokenizer(assembly.text_folder())
    return Model(
        name="reference:trained",
        steps=steps(net, net.patches, encoders(net, tokenizer)),
        sites=sites(_towers(net) | inner(net)),
        declaration=declaration(),
        profile=ClaimProfile(name="trained reference"),
        modules=(net,),
        adapter="reference",
        digest=_digest(weights or assembly.shipped()),
        spec="reference:trained" if weights is None else f"reference:trained@{weights}",
    )
