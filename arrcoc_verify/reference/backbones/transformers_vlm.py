"""A transformers vision-language model as backbone: Qwen3-VL and InternVL classes.

Patches are those that the model hands to its language model, so patches and words lie in one space;
a query is the mean of its words' last hidden states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify import provenance
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location, ModuleOutput
from arrcoc_verify.reference.backbones import towers
from arrcoc_verify.reference.backbones.towers import Backbone, Colours
from arrcoc_verify.reference.trained import tower
from arrcoc_verify.reference.trained.realising import GLANCE

QWEN = ("qwen3_vl",)
INTERN = ("internvl",)
FAMILY = {
    "qwen3_vl": Colours(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "internvl": Colours(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}
"""Colours that each family was trained with, where a folder does not say."""


def build(
    folder: Path,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Return a vision-language model of a local folder as a backbone.

    Args:
        folder: as `save_pretrained` writes it: config.json, safetensors, tokenizer.
        size: side of the picture in pixels; None takes the model's own.
        mean: of each colour in 0..1; None takes the folder's preprocessor_config.json, else that of
            the model's family.
        std: the same.

    Raises:
        BadModel: the folder is incomplete or of another kind of model.
    """
    model: Any = towers.pretrained(folder)
    kind = model.config.model_type
    if kind not in QWEN + INTERN:
        raise BadModel(
            f"{folder} holds a {kind!r}, wanted one of {', '.join(QWEN + INTERN)}; for another "
            "model declare its steps yourself (docs/your-own-model.md)"
        )
    tok = towers.tokenizer(folder)
    told = towers.read_json(folder / "preprocessor_config.json")
    own = FAMILY[kind]
    colours = Colours(
        mean=told.get("image_mean") or own.mean, std=told.get("image_std") or own.std
    ).or_given(mean, std)
    see, sites, side = (_qwen if kind in QWEN else _intern)(model, size, colours)
    reader = model.language_model
    sites |= towers.block_sites("query.layers", "query", towers.blocks_of(reader))

    def patches(glance: Tensor) -> Tensor:
        return towers.to_grid(towers.square(see(glance)))

    def query(queries: list[str]) -> Tensor:
        at = next(reader.parameters()).device
        words, mask = (x.to(at) for x in tower.encoded(tok, queries))
        hidden = reader(input_ids=words, attention_mask=mask, use_cache=False).last_hidden_state
        return towers.mean_of_words(hidden, mask)

    blank = torch.zeros(1, 3, GLANCE, GLANCE)
    channels = towers.tried("the image tower", lambda: patches(blank)).shape[2]
    towers.tried("the language model", lambda: query(["a"]))
    said = [side, list(colours.mean), list(colours.std), towers.files_identity(folder)]
    return Backbone(
        module=model, channels=channels, embed=channels, patches=patches, query=query,
        met=lambda patches: patches, sites=towers.usable(sites, patches, query),
        identity=provenance.json_digest(said),
    )  # fmt: skip


Eyes = tuple[Any, dict[str, Location], int]
"""glance -> tokens, the tower's sites, and its side in pixels."""


def _intern(model: Any, size: int | None, colours: Colours) -> Eyes:
    vision = model.config.vision_config
    given = vision.image_size
    side = size or int(given[0] if isinstance(given, list | tuple) else given)
    patch = vision.patch_size
    unit = 2 * int(patch[0] if isinstance(patch, list | tuple) else patch)
    _fits(side, unit)

    def see(glance: Tensor) -> Tensor:
        seen: Tensor = model.get_image_features(towers.scaled(glance, side, colours)).pooler_output
        return seen

    blocks = towers.blocks_of(model.vision_tower.encoder)
    return see, towers.block_sites("encoder.tower", "patches", blocks), side


def _fits(side: int, unit: int) -> None:
    if side < 2 * unit or side % unit:
        raise BadModel(f"`size` must be a multiple of {unit} pixels for this model, got {side}")


class Rows(nn.Module):
    """A module that works on all pictures' tokens in one row, seen picture by picture."""

    def __init__(self, module: nn.Module, tokens: int) -> None:
        super().__init__()
        self.module, self.tokens = module, tokens
        self.before, self.after = nn.Identity(), nn.Identity()

    def _seen(self, at: nn.Module, rows: Tensor) -> Tensor:
        found: Tensor = at(rows.unflatten(0, (-1, self.tokens)))
        return found.flatten(0, 1)

    def forward(self, rows: Tensor, *args: Any, **more: Any) -> Tensor:
        """Return what the module makes of `[image * token, channel]`."""
        return self._seen(self.after, self.module(self._seen(self.before, rows), *args, **more))


def _qwen(model: Any, size: int | None, colours: Colours) -> Eyes:
    vision = model.config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    unit = patch * merge
    side = size or 16 * unit
    _fits(side, unit)
    count = side // patch
    grid = torch.tensor([[1, count, count]])

    def packed(glance: Tensor) -> Tensor:
        """Return `[image * patch, values]` in the order that the merger wants."""
        seen = towers.scaled(glance, side, colours)
        b, c = seen.shape[:2]
        cells = seen.reshape(b, c, count // merge, merge, patch, count // merge, merge, patch)
        order = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
        return order.expand(*order.shape[:-3], frames, patch, patch).reshape(b * count**2, -1)

    def see(glance: Tensor) -> Tensor:
        found = model.visual(packed(glance), grid_thw=grid.to(glance.device).repeat(len(glance), 1))
        merged: Tensor = found.pooler_output
        return merged.reshape(len(glance), -1, merged.shape[-1])

    sites: dict[str, Location] = {}
    for number, block in enumerate(model.visual.blocks):
        whole = Rows(block, count**2)
        block.attn.proj, block.mlp = Rows(block.attn.proj, count**2), Rows(block.mlp, count**2)
        model.visual.blocks[number] = whole
        name = f"encoder.tower.{number}"
        sites[name] = ModuleOutput(step="patches", module=whole.after)
        sites[f"{name}.heads"] = ModuleOutput(step="patches", module=block.attn.proj.before)
        sites[f"{name}.mlp"] = ModuleOutput(step="patches", module=block.mlp.after)
    return see, sites, side
