"""What a backbone gives the scorers and the allocator, whichever library it comes from.

A backbone sees the glance, as the trained reference model does, and gives patch features, a space
in which patches and queries meet, and the query's place in it. Its weights come from local files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location, ModuleInput, ModuleOutput
from arrcoc_verify.reference.trained.realising import GRID

CONTEXT = 64
"""Word pieces of a query; longer ones are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """An image encoder and a text encoder, ready to run.

    Attributes:
        module: holds both, in evaluation mode.
        channels: of a patch.
        embed: width in which patches and queries meet.
        patches: glance `[image, 3, 128, 128]` in 0..1 -> `[image, patch, channels]`.
        met: patches -> `[image, patch, embed]`; None where nothing was ever trained to make them
            meet, so that a projection has to be learned.
        query: queries -> `[image, embed]`.
        sites: `<stage>.<word>` -> where in the modules, beside what the steps give.
    """

    module: nn.Module
    channels: int
    embed: int
    patches: Callable[[Tensor], Tensor]
    query: Callable[[list[str]], Tensor]
    met: Callable[[Tensor], Tensor] | None = None
    sites: Mapping[str, Location] = field(default_factory=dict)


def scaled(glance: Tensor, side: int, mean: Any, std: Any) -> Tensor:
    """Return the glance at a tower's side, in the tower's scale.

    Args:
        glance: `[image, 3, 128, 128]` in 0..1.
        side: in pixels.
        mean: of each colour, in 0..1.
        std: of each colour.
    """
    big = F.interpolate(glance, (side, side), mode="bilinear", align_corners=False, antialias=True)
    shift, scale = (big.new_tensor([float(v) for v in x])[:, None, None] for x in (mean, std))
    return (big - shift) / scale


def to_grid(plane: Tensor) -> Tensor:
    """Return `[image, patch, channel]` of `[image, channel, row, column]` at any resolution."""
    if plane.shape[-2:] != (GRID, GRID):
        plane = F.interpolate(plane, (GRID, GRID), mode="bilinear", align_corners=False)
    return plane.flatten(2).transpose(1, 2).contiguous()


def square(tokens: Tensor) -> Tensor:
    """Return `[image, channel, row, column]` of `[image, token, channel]`."""
    b, n, c = tokens.shape
    side = round(n**0.5)
    if side * side != n:
        raise BadModel(f"wanted a square of patches from the image tower, got {n} tokens")
    return tokens.transpose(1, 2).reshape(b, c, side, side)


def blocks_of(module: Any) -> list[nn.Module]:
    """Return a tower's blocks in order, whatever its library calls them; none if it has none."""
    for path in ("blocks", "stages", "layers", "layer", "resblocks"):
        found = getattr(module, path, None)
        if isinstance(found, nn.ModuleList | nn.Sequential):
            return list(found)
    numbered = [getattr(module, f"layer{n}", None) for n in (1, 2, 3, 4)]
    return [layer for layer in numbered if isinstance(layer, nn.Module)]


_MLP = ("mlp", "feed_forward", "ffn")
_MIXED = (
    "attn.proj", "attn.out_proj", "self_attn.o_proj", "attention.o_proj",
    "attention.projection_layer", "attention.output.dense",
)  # fmt: skip
"""What reads the heads' outputs side by side, in the libraries at hand."""


def block_sites(prefix: str, step: str, blocks: list[nn.Module]) -> dict[str, Location]:
    """Return sites at blocks, at what their attention heads wrote and at their MLPs."""
    found: dict[str, Location] = {}
    for number, block in enumerate(blocks):
        found[f"{prefix}.{number}"] = ModuleOutput(step=step, module=block)
        inside = dict(block.named_modules())
        for path in _MIXED:
            if path in inside:
                found[f"{prefix}.{number}.heads"] = ModuleInput(step=step, module=inside[path])
                break
        for path in _MLP:
            if path in inside:
                found[f"{prefix}.{number}.mlp"] = ModuleOutput(step=step, module=inside[path])
                break
    return found


def tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a local folder; nothing is fetched.

    Raises:
        BadModel: there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if (folder / "tokenizer_config.json").is_file():
            made: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        else:
            fast: Any = PreTrainedTokenizerFast
            made = fast(
                tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]",
                unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            )  # fmt: skip
    except Exception as error:
        raise BadModel(
            f"wanted a tokenizer (tokenizer.json) in {folder}, cannot read one: {error}"
        ) from error
    if made.pad_token is None:
        made.pad_token = made.eos_token
    made.padding_side = "right"
    return made


def pieces(tok: Any, queries: list[str], length: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Return word pieces and where they are words, `[image, length]` each."""
    made = tok([" ".join(q.split()) for q in queries], padding="max_length", truncation=True,
               max_length=length, return_tensors="pt")  # fmt: skip
    return torch.as_tensor(made["input_ids"]), torch.as_tensor(made["attention_mask"])


def mean_of_words(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return `[image, channel]`: hidden states averaged over the words of each query."""
    weight = mask.to(hidden)[..., None]
    total: Tensor = (hidden * weight).sum(1)
    return total / weight.sum(1).clamp(min=1)


def pretrained(folder: Path) -> Any:
    """Return the transformers model of a local folder, in float32, without its task heads.

    Raises:
        BadModel: there is none, its weights are no safetensors, or it wants code of its own.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not (folder / "config.json").is_file():
        raise BadModel(f"wanted a folder with config.json and model.safetensors, got {folder}")
    try:
        model: Any = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=torch.float32,
        )  # fmt: skip
    except Exception as error:
        first = str(error).strip().splitlines()[0][:300]
        raise BadModel(f"transformers cannot load {folder}: {first}") from error
    return model.eval()
