"""A transformers vision-language model as backbone: Qwen3-VL and InternVL classes.

Patches are those that the model hands to its language model, so patches and words lie in one space;
a query is the mean of its words' last hidden states.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location, ModuleOutput
from arrcoc_verify.reference.backbones import towers
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.trained.realising import GLANCE

QWEN = ("qwen3_vl",)
INTERN = ("internvl",)


def build(folder: Path, *, size: int | None = None) -> Backbone:
    """Return a vision-language model of a local folder as a backbone.

    Args:
        folder: as `save_pretrained` writes it: config.json, safetensors, tokenizer.
        size: side of the picture in pixels; None takes the model's own.

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
    see, sites = (_qwen if kind in QWEN else _intern)(model, size)
    reader = model.language_model
    sites |= towers.block_sites("query.layers", "query", towers.blocks_of(reader))

    def patches(glance: Tensor) -> Tensor:
        return towers.to_grid(towers.square(see(glance)))

    def query(queries: list[str]) -> Tensor:
        words, mask = towers.pieces(tok, queries)
        hidden = reader(input_ids=words, attention_mask=mask, use_cache=False).last_hidden_state
        return towers.mean_of_words(hidden, mask)

    with torch.no_grad():
        channels = patches(torch.zeros(1, 3, GLANCE, GLANCE)).shape[2]
    return Backbone(
        module=model, channels=channels, embed=channels, patches=patches, query=query,
        met=lambda patches: patches, sites=sites,
    )  # fmt: skip


def _intern(model: Any, size: int | None) -> tuple[Any, dict[str, Location]]:
    vision = model.config.vision_config
    given = vision.image_size
    side = size or int(given[0] if isinstance(given, list | tuple) else given)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def see(glance: Tensor) -> Tensor:
        seen: Tensor = model.get_image_features(
            towers.scaled(glance, side, mean, std)
        ).pooler_output
        return seen

    blocks = towers.blocks_of(model.vision_tower.encoder)
    return see, towers.block_sites("encoder.tower", "patches", blocks)


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


def _qwen(model: Any, size: int | None) -> tuple[Any, dict[str, Location]]:
    vision = model.config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    unit = patch * merge
    side = size or 16 * unit
    if side % unit:
        raise BadModel(f"size must be a multiple of {unit} pixels for this model, got {side}")
    count = side // patch
    grid = torch.tensor([[1, count, count]])

    def packed(glance: Tensor) -> Tensor:
        """Return `[image * patch, values]` in the order that the merger wants."""
        seen = towers.scaled(glance, side, (0.5,) * 3, (0.5,) * 3)
        b, c = seen.shape[:2]
        cells = seen.reshape(b, c, count // merge, merge, patch, count // merge, merge, patch)
        order = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
        return order.expand(*order.shape[:-3], frames, patch, patch).reshape(b * count**2, -1)

    def see(glance: Tensor) -> Tensor:
        found = model.visual(packed(glance), grid_thw=grid.repeat(len(glance), 1))
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
    return see, sites
