"""Any open_clip model as both towers: patch features before the pooling, projected as the pooled.

Patches go through the projection that was trained for the pooled picture, as dense uses of CLIP
do; that they meet the query this way is a claim to verify, not a fact.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify import _torchvision
from arrcoc_verify.adapters.locate import inside
from arrcoc_verify.adapters.weights import kind_of, refusal
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location
from arrcoc_verify.reference.backbones import towers
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.trained.realising import GLANCE


def build(name: str, weights: Path, *, folder: Path = Path()) -> Backbone:
    """Return an open_clip model as a backbone.

    Args:
        name: of a configuration in open_clip, or a JSON file in `folder`. A transformers text tower
            (`hf_model_name`) is a folder beside that file with configuration and tokenizer.
        weights: local checkpoint.
        folder: where files and folders are looked for.

    Raises:
        BadModel: no such configuration, it names a model on a hub, or other weights.
    """
    _torchvision.prepare()
    import open_clip

    settings = _settings(name, folder)
    text = settings.get("text_cfg", {})
    custom = "timm_model_name" in settings.get("vision_cfg", {}) or "hf_model_name" in text
    custom = custom or settings.get("custom_text", False)
    made: Any = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    settings = {k: v for k, v in settings.items() if k not in ("custom_text", "preprocess_cfg")}
    try:
        model = made(**settings)
    except Exception as error:
        raise BadModel(f"open_clip cannot make {name!r}: {error}") from error
    kind = kind_of(weights) if weights.is_file() else "missing"
    if kind not in ("safetensors", "torch"):
        raise BadModel(
            f"there is no weights file {weights}" if kind == "missing" else refusal(weights, kind)
        )
    try:
        open_clip.load_checkpoint(model, str(weights), weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200]
        raise BadModel(f"{weights} does not fit open_clip's {name!r}: {first}") from error
    apart(model)
    return _backbone(model.eval(), _words(text, model))


class Attention(nn.Module):
    """Self-attention with the weights of torch's own, whose heads' outputs pass through a module.

    `nn.MultiheadAttention` computes all in one function, where no hook reaches the heads.
    """

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.count = whole.num_heads
        self.into = nn.Linear(whole.embed_dim, 3 * whole.embed_dim)
        self.out_proj = nn.Linear(whole.embed_dim, whole.embed_dim)
        self.into.weight, self.into.bias = whole.in_proj_weight, whole.in_proj_bias
        self.out_proj.weight, self.out_proj.bias = whole.out_proj.weight, whole.out_proj.bias

    def forward(
        self, x: Tensor, _k: Tensor, _v: Tensor, *, need_weights: bool = False,  # noqa: ARG002 - open_clip passes it
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Return `[image, token, channel]` and no weights."""
        b, n, c = x.shape
        q, k, v = self.into(x).reshape(b, n, 3, self.count, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(b, n, c)), None


def apart(module: nn.Module) -> None:
    """Put `Attention` where open_clip's blocks have torch's own, in place."""
    for block in list(module.modules()):
        whole = getattr(block, "attn", None)
        if not isinstance(whole, nn.MultiheadAttention) or not whole.batch_first:
            continue
        if whole.embed_dim == whole.kdim == whole.vdim and whole.bias_k is None:
            block.attn = Attention(whole)


def _settings(name: str, folder: Path) -> dict[str, Any]:
    """Return a configuration with every folder resolved and nothing left to fetch."""
    import open_clip

    if name.endswith(".json"):
        path = inside(name, folder)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadModel(f"cannot read open_clip's configuration {path}: {error}") from error
        found = found.get("model_cfg", found)
    else:
        found = open_clip.get_model_config(name)
        if found is None:
            raise BadModel(
                f"open_clip has no configuration {name!r}; name one of "
                "open_clip.list_models(), or a JSON file"
            )
    text = dict(found.get("text_cfg", {}))
    if "hf_model_name" in text:
        local = inside(text["hf_model_name"], folder, is_folder=True)
        if not (local / "config.json").is_file():
            raise BadModel(
                f"the text tower {text['hf_model_name']!r} must be a local folder with config.json "
                f"and tokenizer.json, looked in {local}; nothing is fetched"
            )
        text |= {"hf_model_name": str(local), "hf_model_pretrained": False}
        text.pop("hf_tokenizer_name", None)
    vision = {**found.get("vision_cfg", {})}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    return {**found, "vision_cfg": vision, "text_cfg": text}


def _words(text: dict[str, Any], model: Any) -> Any:
    """Return queries -> word pieces."""
    import open_clip

    length = int(model.context_length)
    if "hf_model_name" in text:
        tok = towers.tokenizer(Path(text["hf_model_name"]))
        return lambda queries: towers.pieces(tok, queries, length)[0]
    return open_clip.SimpleTokenizer(context_length=length)


def _backbone(model: Any, words: Any) -> Backbone:
    visual = model.visual
    side = visual.image_size
    side = int(side[0] if isinstance(side, list | tuple) else side)
    mean = getattr(visual, "image_mean", None) or (0.48145466, 0.4578275, 0.40821073)
    std = getattr(visual, "image_std", None) or (0.26862954, 0.26130258, 0.27577711)

    def patches(glance: Tensor) -> Tensor:
        seen = towers.scaled(glance, side, mean, std)
        last = visual.forward_intermediates(
            seen, indices=1, normalize_intermediates=True, intermediates_only=True
        )
        return towers.to_grid(last["image_intermediates"][-1])

    def query(queries: list[str]) -> Tensor:
        found: Tensor = model.encode_text(words(queries))
        return found

    with torch.no_grad():
        channels = patches(torch.zeros(1, 3, GLANCE, GLANCE)).shape[2]
        embed = query(["a"]).shape[1]
    return Backbone(
        module=model, channels=channels, embed=embed, patches=patches, query=query,
        met=_projection(visual, channels, embed), sites=_sites(model),
    )  # fmt: skip


def _projection(visual: Any, channels: int, embed: int) -> Any:
    """Return patches -> the space of queries, as the pooled picture goes there."""
    pool = getattr(visual, "attnpool", None)
    if pool is not None and hasattr(pool, "v_proj"):
        return lambda patches: pool.c_proj(pool.v_proj(patches))
    proj = getattr(visual, "proj", None)
    if proj is not None:
        return lambda patches: patches @ proj
    head = getattr(visual, "head", None)
    return head if head is not None and channels != embed else (lambda patches: patches)


def _sites(model: Any) -> dict[str, Location]:
    visual = model.visual
    trunk = getattr(visual, "trunk", getattr(visual, "transformer", visual))
    found = towers.block_sites("encoder.tower", "patches", towers.blocks_of(trunk))
    text = getattr(model, "text", model)
    reader = getattr(text, "transformer", text)
    reader = getattr(reader, "encoder", reader)
    return found | towers.block_sites("query.layers", "query", towers.blocks_of(reader))
