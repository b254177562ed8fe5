"""What is swept: edits over a model, with the same model as a plain torch module for the rivals.

- `stages`: every per-patch site of the analytic reference model, in four quarters of the picture.
- `vit_blocks`: the output of every block of a ViT, one step a block, four quarters of the picture.
- `vit_nodes`: every head and every MLP of the same ViT, whole; the even sweep of the literature.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from arrcoc_verify._torchvision import prepare
from arrcoc_verify.graph import Edit
from arrcoc_verify.model import Declaration, Model, Output, Site, Step

DEPTH, WIDTH, HEADS, GRID = 6, 192, 3, 14


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One intervention, for us by its site and for rivals by the module's path.

    Attributes:
        site: where we write.
        path: module whose output (or input) rivals write.
        write: what is written, for any number of images.
        at: which side of the module.
    """

    site: str
    path: str
    write: Callable[[Tensor], Tensor]
    at: Literal["input", "output"] = "output"

    @property
    def edit(self) -> Edit:
        """Return the intervention as ours."""
        return Edit(site=self.site, write=self.write)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A model twice, inputs, and the interventions.

    Attributes:
        name: how reports call it.
        model: ours.
        module: the same computation as a torch module, called with `inputs(rows)`.
        images: pictures for ours.
        queries: texts for ours.
        inputs: (first, last) -> what the module is called with for these images.
        result: site that is compared; the module returns it.
        probes: the interventions.
        config: sizes, for the report.
        bound: most times faster than full forwards that skipping upstream work can be, if known.
    """

    name: str
    model: Model
    module: nn.Module
    images: Sequence[Image.Image]
    queries: Sequence[str]
    inputs: Callable[[int, int], tuple[Any, ...]]
    result: str
    probes: tuple[Probe, ...]
    config: dict[str, Any]
    bound: float | None = None


class Staged(nn.Module):
    """The steps of a model as modules `step_<name>`, called one after the other."""

    def __init__(self, model: Model, result: str) -> None:
        super().__init__()
        self.steps, self.result = model.steps, result
        for step in model.steps:
            self.add_module(f"step_{step.name}", Stage(step.run))

    def forward(self, images: list[Image.Image], queries: list[str]) -> Tensor:
        """Return the result for all images."""
        values: dict[str, Any] = {"images": images, "queries": queries}
        for step in self.steps:
            module = self.get_submodule(f"step_{step.name}")
            values[step.name] = module(*(values[source] for source in step.inputs))
        result: Tensor = values[self.result]
        return result


class Stage(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        """Return what the function returns."""
        return self.function(*inputs)


def quarters(rows: int, columns: int) -> list[Tensor]:
    """Return masks `[patch]` of the four quarters of a grid."""
    masks = []
    for top in (0, rows // 2):
        for left in (0, columns // 2):
            mask = torch.zeros(rows, columns, dtype=torch.bool)
            mask[top : top + rows // 2, left : left + columns // 2] = True
            masks.append(mask.flatten())
    return masks


def zero_patches(mask: Tensor, prefix: int = 0) -> Callable[[Tensor], Tensor]:
    """Return a write of zeros into the patches of `mask`, after `prefix` other tokens."""
    full = torch.cat([torch.zeros(prefix, dtype=torch.bool), mask])

    def write(old: Tensor) -> Tensor:
        return torch.where(full.reshape(1, -1, *[1] * (old.ndim - 2)), torch.zeros_like(old), old)

    return write


def zero_head(head: int, width: int) -> Callable[[Tensor], Tensor]:
    """Return a write of zeros into one head's channels, the last axis being all heads'."""

    def write(old: Tensor) -> Tensor:
        new = old.clone()
        new[..., head * width : (head + 1) * width] = 0
        return new

    return write


def stages(*, quick: bool) -> Sweep:
    """Return the sweep over the stages of the analytic reference model."""
    from arrcoc_verify.reference import analytic

    model, count = analytic.model(), 2 if quick else 8
    images = pictures(count, model.declaration.image_size)
    queries = [("red car", "green leaves", "blue sky", "brown dog")[i % 4] for i in range(count)]
    rows, columns = model.declaration.grid
    sites = [
        site
        for site in model.sites.values()
        if site.per_patch and site.writable and isinstance(site.at, Output) and site.at.key is None
        and site.stage in ("knowing", "balancing", "attending") and site.role != "tokens"
    ]  # fmt: skip
    probes = tuple(
        Probe(site=site.name, path=f"step_{site.at.step}", write=zero_patches(mask))
        for site in (sites[::4] if quick else sites)
        for mask in quarters(rows, columns)
    )
    result = model.role("lod") or model.role("tokens")
    if result is None:
        raise RuntimeError("the analytic model has neither lod nor tokens")
    return Sweep(
        name="stages",
        model=model,
        module=Staged(model, result.at.step).eval(),
        images=images,
        queries=queries,
        inputs=lambda first, last: (images[first:last], queries[first:last]),
        result=result.name,
        probes=probes,
        config={"model": model.name, "images": count, "sites": len(probes) // 4,
                "interventions": len(probes) * count, "patches": rows * columns},
    )  # fmt: skip


def vit_blocks(*, quick: bool) -> Sweep:
    """Return the sweep over the outputs of all blocks: ours has one step a block."""
    module, depth = vit(quick=quick), 2 if quick else DEPTH
    steps = [_embed(module)]
    for index, block in enumerate(module.blocks):
        steps.append(_step(f"block{index}", block, steps[-1].name))
    steps.append(_step("head", lambda x: module.forward_head(module.norm(x)), steps[-1].name))
    probes = tuple(
        Probe(
            site=f"encoder.block{index}", path=f"blocks.{index}",
            write=zero_patches(mask, module.num_prefix_tokens),
        )
        for index in range(depth)
        for mask in quarters(GRID, GRID)
    )  # fmt: skip
    after = sum(depth - 1 - index for index in range(depth)) * 4
    return _of_vit("vit_blocks", module, steps, probes, depth * len(probes) / (depth + after))


def vit_nodes(*, quick: bool) -> Sweep:
    """Return the sweep over every head and MLP: ours has four steps a block."""
    module, depth = vit(quick=quick), 2 if quick else DEPTH
    steps, probes = [_embed(module)], []
    for index, block in enumerate(module.blocks):
        before = steps[-1].name
        steps += _halves(index, block, before)
        probes += [
            Probe(
                site=f"encoder.heads{index}", path=f"blocks.{index}.attn.proj", at="input",
                write=zero_head(head, WIDTH // HEADS),
            )
            for head in range(HEADS)
        ]  # fmt: skip
        mlp = f"blocks.{index}.mlp"
        probes.append(Probe(site=f"encoder.mlp{index}", path=mlp, write=torch.zeros_like))
    steps.append(_step("head", lambda x: module.forward_head(module.norm(x)), steps[-1].name))
    # Of a block's work the attention before the heads' output is about a third, the MLP the rest.
    own = {"heads": 0.67, "mlp": 0.0}
    after = sum(
        (depth - 1 - index) * (HEADS + 1) + own["heads"] * HEADS + own["mlp"]
        for index in range(depth)
    )
    return _of_vit("vit_nodes", module, steps, tuple(probes), depth * len(probes) / (depth + after))


def _of_vit(
    name: str, module: Any, steps: list[Step], probes: tuple[Probe, ...], bound: float
) -> Sweep:
    count = 2 if len(module.blocks) < DEPTH else 16
    images = pictures(count, (16 * GRID, 16 * GRID))
    pixels = decoded(images)
    named = dict.fromkeys(probe.site for probe in probes)
    sites = [
        Site(name=site, stage="encoder", axes=("image", "token", "channel"),
             at=Output(step=site.split(".")[1]))
        for site in named
    ]  # fmt: skip
    head = Site(
        name="attending.tokens", stage="attending", axes=("image", "channel"),
        at=Output(step="head"), role="tokens",
    )  # fmt: skip
    model = Model(
        name="vit", steps=tuple(steps), sites={site.name: site for site in (*sites, head)},
        declaration=Declaration(
            grid=(GRID, GRID), image_size=(16 * GRID, 16 * GRID), query_path="none", lod=None,
            batch_size=count,
        ),
        modules=(module,),
    )  # fmt: skip
    return Sweep(
        name=name, model=model, module=module, images=images, queries=["none"] * count,
        inputs=lambda first, last: (pixels[first:last],),
        result=head.name, probes=probes, bound=bound,
        config={"model": "vit_tiny_patch16_224", "depth": len(module.blocks), "width": WIDTH,
                "patches": GRID**2, "images": count, "sites": len(named),
                "interventions": len(probes) * count},
    )  # fmt: skip


def _step(name: str, function: Callable[..., Any], *inputs: str) -> Step:
    return Step(name=name, run=function, inputs=inputs, pure=True)


def _embed(module: Any) -> Step:
    def embed(images: Sequence[Image.Image]) -> Tensor:
        tokens = module._pos_embed(module.patch_embed(decoded(images)))  # noqa: SLF001
        embedded: Tensor = module.norm_pre(module.patch_drop(tokens))
        return embedded

    return _step("embed", embed, "images")


def _halves(index: int, block: Any, before: str) -> list[Step]:
    """Return a block as attention per head, residual, MLP, residual."""

    def heads(x: Tensor) -> Tensor:
        attention, normed = block.attn, block.norm1(x)
        images, tokens, width = normed.shape
        qkv = attention.qkv(normed).reshape(images, tokens, 3, HEADS, width // HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(images, tokens, width)

    named = [f"{part}{index}" for part in ("heads", "middle", "mlp", "block")]
    return [
        _step(named[0], heads, before),
        _step(named[1], lambda x, z: x + block.attn.proj(z), before, named[0]),
        _step(named[2], lambda x: block.mlp(block.norm2(x)), named[1]),
        _step(named[3], torch.add, named[1], named[2]),
    ]


@functools.cache
def vit(*, quick: bool) -> Any:
    """Return the ViT with random weights, the same in every process."""
    prepare()
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        depth = 2 if quick else DEPTH
        return timm.create_model("vit_tiny_patch16_224", depth=depth, num_classes=16).eval()


def pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Return coloured noise of several scales, the same in every process."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        fine = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        large = coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        made.append(Image.blend(large, fine, 0.3))
    return made


def decoded(images: Sequence[Image.Image]) -> Tensor:
    """Return `[image, channel, height, width]` in -1..1."""
    stack = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


SWEEPS = {"stages": stages, "vit_blocks": vit_blocks, "vit_nodes": vit_nodes}
