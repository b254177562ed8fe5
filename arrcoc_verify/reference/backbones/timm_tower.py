"""Any timm backbone as the image tower, with a transformers text encoder beside it."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify import _torchvision
from arrcoc_verify.adapters.weights import fill
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location
from arrcoc_verify.reference.backbones import towers
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.trained import assembly, tower
from arrcoc_verify.reference.trained.realising import GLANCE


class Shipped(nn.Module):
    """The text tower that the package ships."""

    def __init__(self) -> None:
        super().__init__()
        net, folder = assembly.load(), assembly.text_folder()
        self.tower = net.towers.text
        self.tokenizer, self.embed = towers.tokenizer(folder), tower.EMBED
        self.layers = [layer.output for layer in self.tower.transformer.encoder.layer]

    def forward(self, queries: list[str]) -> Tensor:
        """Return `[image, 384]`."""
        words, _ = towers.pieces(self.tokenizer, queries)
        made: Tensor = self.tower(words)
        return made


class Folder(nn.Module):
    """A transformers text encoder from a local folder; a query is the mean of its words."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tower = towers.pretrained(folder)
        self.tokenizer = towers.tokenizer(folder)
        self.embed: int = self.tower.config.hidden_size
        self.layers = towers.blocks_of(getattr(self.tower, "encoder", self.tower))

    def forward(self, queries: list[str]) -> Tensor:
        """Return `[image, hidden]`."""
        words, mask = towers.pieces(self.tokenizer, queries)
        hidden = self.tower(input_ids=words, attention_mask=mask).last_hidden_state
        return towers.mean_of_words(hidden, mask)


def build(
    name: str,
    weights: Path,
    *,
    text: Path | None = None,
    size: int | None = None,
    arguments: dict[str, Any] | None = None,
) -> Backbone:
    """Return a timm model's patches beside a text encoder.

    Args:
        name: of the architecture, as timm calls it.
        weights: local file with every tensor of it.
        text: folder of a transformers text encoder with its tokenizer; None takes the shipped one.
        size: side of the picture in pixels; None takes the architecture's own.
        arguments: more for `timm.create_model`, such as `num_classes`.

    Raises:
        BadModel: there is no such architecture, or the weights are not of it.
    """
    _torchvision.prepare()
    import timm

    try:
        trunk: Any = timm.create_model(name, pretrained=False, **(arguments or {}))
    except Exception as error:
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise BadModel(
            f"timm cannot make {name!r}: {error}; near it: {near or 'nothing'}"
        ) from error
    fill(trunk, weights)
    trunk.eval()
    reader = Folder(text) if text else Shipped()
    scale = trunk.default_cfg
    side = size or int(scale["input_size"][-1])

    def patches(glance: Tensor) -> Tensor:
        seen = trunk.forward_features(towers.scaled(glance, side, scale["mean"], scale["std"]))
        return towers.to_grid(plane(trunk, seen))

    sites: dict[str, Location] = towers.block_sites(
        "encoder.tower", "patches", towers.blocks_of(trunk)
    )
    sites |= towers.block_sites("query.layers", "query", reader.layers)
    both = nn.ModuleList([trunk, reader]).eval()
    with torch.no_grad():
        channels = patches(torch.zeros(1, 3, GLANCE, GLANCE)).shape[2]
    return Backbone(
        module=both, channels=channels, embed=reader.embed, patches=patches, query=reader,
        sites=sites,
    )  # fmt: skip


def plane(trunk: Any, seen: Tensor) -> Tensor:
    """Return a timm trunk's features as `[image, channel, row, column]`."""
    if seen.ndim == 3:
        return towers.square(seen[:, getattr(trunk, "num_prefix_tokens", 0) :])
    if seen.ndim != 4:
        raise BadModel(f"wanted features of 3 or 4 axes, {type(trunk).__name__} gives {seen.ndim}")
    last = seen.shape[-1] == trunk.num_features and seen.shape[1] != trunk.num_features
    if last or str(getattr(trunk, "output_fmt", "")).endswith("NHWC"):
        return seen.permute(0, 3, 1, 2)
    return seen
