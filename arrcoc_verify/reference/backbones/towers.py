"""What a backbone gives the scorers and the allocator, whichever library it comes from.

A backbone sees the glance, as the trained reference model does, and gives patch features, a space
in which patches and queries meet, and the query's place in it. Its weights come from local files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify import provenance
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location, ModuleInput, ModuleOutput
from arrcoc_verify.reference.trained.realising import GLANCE, GRID


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
        identity: what weights and code do not tell of it: names, settings, files; part of the
            model's digest.
    """

    module: nn.Module
    channels: int
    embed: int
    patches: Callable[[Tensor], Tensor]
    query: Callable[[list[str]], Tensor]
    met: Callable[[Tensor], Tensor] | None = None
    sites: Mapping[str, Location] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """What a tower subtracts from its colours and divides them by, in 0..1.

    Attributes:
        mean: red, green, blue.
        std: red, green, blue.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def or_given(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> "Colours":
        """Return these, or what a user says instead."""
        return Colours(mean=mean or self.mean, std=std or self.std)


def scaled(glance: Tensor, side: int, colours: Colours) -> Tensor:
    """Return the glance at a tower's side, in the tower's scale.

    Args:
        glance: `[image, 3, 128, 128]` in 0..1.
        side: in pixels.
        colours: of the tower.
    """
    big = F.interpolate(glance, (side, side), mode="bilinear", align_corners=False, antialias=True)
    shift = big.new_tensor([float(v) for v in colours.mean])[:, None, None]
    scale = big.new_tensor([float(v) for v in colours.std])[:, None, None]
    return (big - shift) / scale


def to_grid(plane: Tensor) -> Tensor:
    """Return `[image, patch, channel]` of `[image, channel, row, column]` at any resolution.

    Raises:
        BadModel: it is one cell for the whole picture.
    """
    if min(plane.shape[-2:]) < 2:
        raise BadModel("the image tower gives one vector for the whole picture, wanted patches")
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


_BLOCKS = ("blocks", "stages", "layers", "layer", "resblocks", "encoder.layer", "transformer.layer",
           "h", "features")  # fmt: skip
_NUMBERED = (tuple(f"layer{n}" for n in range(1, 5)), tuple(f"s{n}" for n in range(1, 5)))
_MLP = ("mlp", "feed_forward", "ffn", "output.dense", "ff")
_MIXED = (
    "attn.proj", "attn.out_proj", "self_attn.o_proj", "self_attn.out_proj", "attention.o_proj",
    "attention.projection_layer", "attention.output.dense", "attention.out_lin", "attn.Wo",
    "attn.c_proj",
)  # fmt: skip
"""What reads the heads' outputs side by side, in the libraries at hand."""


def blocks_of(module: Any) -> list[nn.Module]:
    """Return a tower's blocks in order, whatever its library calls them; none if it has none."""
    for path in _BLOCKS:
        found = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.ModuleList | nn.Sequential):
            nested = [list(one) if isinstance(one, nn.ModuleList) else [one] for one in found]
            return [one for each in nested for one in each]
    for names in _NUMBERED:
        layers = [getattr(module, name, None) for name in names]
        if all(isinstance(layer, nn.Module) for layer in layers):
            return [layer for layer in layers if layer is not None]
    return []


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


def shapes(sites: Mapping[str, Location], ran: Callable[[], object]) -> dict[str, list[Any]]:
    """Return what each site met while something ran: shapes, or None for what is no tensor."""
    met: dict[str, list[Any]] = {name: [] for name in sites}

    def watch(name: str, at: Any) -> Any:
        def entered(_: nn.Module, args: tuple[Any, ...]) -> None:
            met[name].append(args[0].shape if args and isinstance(args[0], Tensor) else None)

        def left(_: nn.Module, __: Any, out: Any) -> None:
            met[name].append(out.shape if isinstance(out, Tensor) else None)

        if isinstance(at, ModuleInput):
            return at.module.register_forward_pre_hook(entered)
        return at.module.register_forward_hook(left)

    handles = [watch(name, at) for name, at in sites.items()]
    try:
        with torch.no_grad():
            ran()
    finally:
        for handle in handles:
            handle.remove()
    return met


def two_glances() -> Tensor:
    """Return two pictures of noise to try a tower on, the same ones each time."""
    return torch.rand(2, 3, GLANCE, GLANCE, generator=torch.Generator().manual_seed(0))


def usable(
    sites: Mapping[str, Location],
    patches: Callable[[Tensor], Tensor],
    query: Callable[[list[str]], Tensor],
) -> dict[str, Location]:
    """Return the sites that fire once, with a tensor whose first axis is the image.

    In towers that attend within windows, or hand on several tensors, some modules do otherwise.
    """
    glance = two_glances()
    met = shapes(sites, lambda: (patches(glance), query(["one", "two words"])))
    good = {
        name for name, found in met.items()
        if len(found) == 1 and found[0] is not None and len(found[0]) in (3, 4)
        and found[0][0] == len(glance)
    }  # fmt: skip
    return {name: at for name, at in sites.items() if name in good}


_PADS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")


def tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a local folder; nothing is fetched.

    Raises:
        BadModel: there is none, or none of its words can fill up a short query.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    refuse_code(folder)
    try:
        if (folder / "tokenizer_config.json").is_file():
            made: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        else:
            fast: Any = PreTrainedTokenizerFast
            made = fast(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:
        raise BadModel(
            f"wanted a tokenizer (tokenizer.json) in {folder}, cannot read one: {first(error)}"
        ) from error
    if made.pad_token is None:
        words = made.get_vocab()
        pad = made.eos_token or next((word for word in _PADS if word in words), None)
        if pad is None:
            raise BadModel(
                f"the tokenizer in {folder} names no padding word: add `pad_token` to its "
                "tokenizer_config.json"
            )
        made.pad_token = pad
    made.padding_side = "right"
    return made


def refuse_code(folder: Path) -> None:
    """Refuse a folder whose configuration names code to run, or files outside of it.

    Raises:
        BadModel: it does.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in read_json(folder / name):
            raise BadModel(
                f"{folder / name} names code to run (`auto_map`); only models that transformers "
                "has itself are loaded: take the entry out if it has this one"
            )
    shards = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    if outside := sorted({v for v in shards.values() if Path(str(v)).name != v}):
        raise BadModel(f"{folder} names weights outside of it: {outside[0]}")


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing if there is none.

    Raises:
        BadModel: it holds anything but a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadModel(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadModel(f"{path} holds a {type(found).__name__}, wanted an object")
    return found


def first(error: BaseException) -> str:
    """Return the first line of what an error says, with its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no reason given'}"


def tried(what: str, run: Callable[[], Tensor]) -> Tensor:
    """Return what something gives on a test input, any failure as a `BadModel`."""
    try:
        with torch.no_grad():
            return run()
    except BadModel:
        raise
    except Exception as error:
        raise BadModel(f"{what} does not run on a test input: {first(error)}") from error


def mean_of_words(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return `[image, channel]`: hidden states averaged over the words of each query."""
    weight = mask.to(hidden)[..., None]
    total: Tensor = (hidden * weight).sum(1)
    return total / weight.sum(1).clamp(min=1)


def pretrained(folder: Path) -> Any:
    """Return the transformers model of a local folder, in float32, without its task heads.

    Raises:
        BadModel: there is none, its weights are no safetensors or not all of them, or it wants
            code of its own.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not (folder / "config.json").is_file():
        raise BadModel(f"wanted a folder with config.json and model.safetensors, got {folder}")
    refuse_code(folder)
    try:
        model, found = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        raise BadModel(f"transformers cannot load {folder}: {first(error)}") from error
    # A pooler is often not kept, and nothing here reads one.
    lost = sorted(str(key) for key in found["missing_keys"] if "pooler" not in str(key))
    if lost or found["mismatched_keys"]:
        raise BadModel(
            f"{folder} lacks weights of its model: {', '.join(lost[:5]) or 'shapes differ'}"
        )
    return model.eval()


def files_identity(folder: Path) -> str:
    """Return a digest of a folder's configuration and tokenizer."""
    return provenance.files_digest(sorted(folder.glob("*.json")), folder)
