"""Any timm backbone as the image tower, with a transformers text encoder beside it."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrcoc_verify import _torchvision, provenance
from arrcoc_verify.adapters.weights import fill
from arrcoc_verify.errors import BadModel
from arrcoc_verify.reference.backbones import towers
from arrcoc_verify.reference.backbones.towers import Backbone, Colours
from arrcoc_verify.reference.trained import assembly, tower
from arrcoc_verify.reference.trained.realising import GLANCE

REFUSED = ("pretrained", "checkpoint_path", "cache_dir", "features_only", "scriptable")
"""How arguments of `timm.create_model` begin that would fetch, read elsewhere or change kind."""


class Shipped(nn.Module):
    """The text tower that the package ships."""

    def __init__(self) -> None:
        super().__init__()
        net, folder = assembly.load(), assembly.text_folder()
        self.tower = net.towers.text
        self.tokenizer, self.embed = towers.tokenizer(folder), tower.EMBED
        self.layers = towers.blocks_of(self.tower.transformer.encoder)
        self.identity = "shipped"

    def forward(self, queries: list[str]) -> Tensor:
        """Return `[image, 384]`."""
        words, _ = tower.encoded(self.tokenizer, queries)
        made: Tensor = self.tower(words.to(_device(self)))
        return made


class Folder(nn.Module):
    """A transformers text encoder from a local folder; a query is the mean of its words."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tower = towers.pretrained(folder)
        self.tokenizer = towers.tokenizer(folder)
        self.embed: int = self.tower.config.hidden_size
        self.layers = towers.blocks_of(getattr(self.tower, "encoder", self.tower))
        self.identity = towers.files_identity(folder)
        places = getattr(self.tower.config, "max_position_embeddings", None)
        self.length = min(tower.CONTEXT, places or tower.CONTEXT)

    def forward(self, queries: list[str]) -> Tensor:
        """Return `[image, hidden]`."""
        words, mask = (x.to(_device(self)) for x in tower.encoded(
            self.tokenizer, queries, self.length))  # fmt: skip
        hidden = self.tower(input_ids=words, attention_mask=mask).last_hidden_state
        return towers.mean_of_words(hidden, mask)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def build(  # noqa: PLR0913 - each is named at the call
    name: str,
    weights: Path,
    *,
    text: Path | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Backbone:
    """Return a timm model's patches beside a text encoder.

    Args:
        name: of the architecture, as timm calls it.
        weights: local file with every tensor of it.
        text: folder of a transformers text encoder with its tokenizer; None takes the shipped one.
        size: side of the picture in pixels; None takes the architecture's own.
        mean: of each colour in 0..1 that the weights were trained with; None takes timm's for the
            architecture, which may be of other weights.
        std: the same.
        arguments: more for `timm.create_model`, such as `num_classes`.

    Raises:
        BadModel: there is no such architecture, the weights are not of it, or it gives no patches.
    """
    trunk = made(name, arguments or {})
    fill(trunk, weights)
    trunk.eval()
    if size and hasattr(trunk, "set_input_size"):
        towers.tried(f"timm's {name} at {size} pixels", lambda: trunk.set_input_size((size, size)))
    reader = Folder(text) if text else Shipped()
    found = trunk.default_cfg
    colours = Colours(mean=found["mean"], std=found["std"]).or_given(mean, std)
    side = size or (arguments or {}).get("img_size") or int(found["input_size"][-1])

    def patches(glance: Tensor) -> Tensor:
        return towers.to_grid(plane(trunk, trunk.forward_features(
            towers.scaled(glance, side, colours))))  # fmt: skip

    blank = torch.zeros(1, 3, GLANCE, GLANCE)
    channels = towers.tried(f"timm's {name}", lambda: patches(blank)).shape[2]
    towers.tried("the text encoder", lambda: reader(["a"]))
    sites = towers.block_sites("encoder.tower", "patches", towers.blocks_of(trunk))
    sites |= towers.block_sites("query.layers", "query", reader.layers)
    said = [name, side, list(colours.mean), list(colours.std), repr(arguments), reader.identity]
    return Backbone(
        module=nn.ModuleList([trunk, reader]).eval(), channels=channels, embed=reader.embed,
        patches=patches, query=reader, sites=towers.usable(sites, patches, reader),
        identity=provenance.json_digest(said),
    )  # fmt: skip


def made(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return an untrained timm model that nothing was fetched for.

    Raises:
        BadModel: timm has no such architecture, or an argument that is not taken.
    """
    require_known(name)
    import timm

    if bad := [key for key in arguments if key.startswith(REFUSED)]:
        raise BadModel(f"argument {bad[0]!r} is not taken: weights come from `weights` alone")
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:
        raise BadModel(f"timm cannot make {name!r}: {towers.first(error)}") from error


def require_known(name: str) -> None:
    """Refuse what timm would look for on a hub or in a folder.

    Raises:
        BadModel: timm has no such architecture.
    """
    _torchvision.prepare()
    import timm

    if name.partition(".")[0] not in timm.list_models():
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise BadModel(f"timm has no architecture {name!r}; near it: {near or 'nothing'}")


def channels_last(trunk: Any, seen: Tensor) -> bool:
    """Return whether a timm trunk's features of four axes have channels last."""
    told = str(getattr(trunk, "output_fmt", "")).endswith("NHWC")
    return told or (seen.shape[-1] == trunk.num_features != seen.shape[1])


def plane(trunk: Any, seen: Any) -> Tensor:
    """Return a timm trunk's features as `[image, channel, row, column]`."""
    if not isinstance(seen, Tensor) or seen.ndim not in (3, 4):
        what = f"{seen.ndim} axes" if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
        raise BadModel(f"wanted features of 3 or 4 axes, {type(trunk).__name__} gives {what}")
    if seen.ndim == 3:
        return towers.square(seen[:, getattr(trunk, "num_prefix_tokens", 0) :])
    return seen.permute(0, 3, 1, 2) if channels_last(trunk, seen) else seen
