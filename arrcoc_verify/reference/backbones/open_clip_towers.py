"""Any open_clip model as both towers: patch features before the pooling, projected as the pooled.

A patch goes through pool and projection alone, as if it were the whole picture, as dense uses of
CLIP do; that patches meet the query this way is a claim to verify, not a fact.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify import _torchvision, provenance
from arrcoc_verify.adapters.locate import inside
from arrcoc_verify.adapters.weights import load_weights
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Location
from arrcoc_verify.reference.backbones import timm_tower, towers
from arrcoc_verify.reference.backbones.towers import Backbone, Colours
from arrcoc_verify.reference.trained import tower
from arrcoc_verify.reference.trained.realising import GLANCE

_UNREAD = ("multimodal_cfg", "audio_cfg")
"""Parts of configurations whose models are of another kind."""


def build(
    name: str,
    weights: Path,
    *,
    folder: Path = Path(),
    tokenizer: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Return an open_clip model as a backbone.

    Args:
        name: of a configuration in open_clip, or a JSON file in `folder`. A transformers text tower
            (`hf_model_name`) is a folder beside that file with configuration and tokenizer.
        weights: local checkpoint with every tensor of it.
        folder: where files and folders are looked for.
        tokenizer: folder of the tokenizer, where the configuration names one that is not CLIP's.
        mean: of each colour in 0..1 that the weights were trained with; None takes the
            configuration's, else OpenAI's.
        std: the same.

    Raises:
        BadModel: no such configuration, it names a model on a hub, or other weights.
    """
    _torchvision.prepare()
    import open_clip

    settings, scale = _settings(name, folder)
    text = settings["text_cfg"]
    custom = "timm_model_name" in settings["vision_cfg"] or "hf_model_name" in text
    custom = settings.pop("custom_text", False) or custom
    make: Any = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        model = make(**settings)
    except Exception as error:
        raise BadModel(f"open_clip cannot make {name!r}: {towers.first(error)}") from error
    _fill(model, weights, name)
    apart(model)
    words = _words(text, model, tokenizer, folder)
    colours = Colours(
        mean=scale.get("mean") or open_clip.OPENAI_DATASET_MEAN,
        std=scale.get("std") or open_clip.OPENAI_DATASET_STD,
    ).or_given(mean, std)
    files = [towers.files_identity(Path(at)) for at in (text.get("hf_model_name"), tokenizer) if at]
    said = [settings, list(colours.mean), list(colours.std), files]
    identity = provenance.json_digest(_without_paths(said))
    return _backbone(model.eval(), words, colours, identity)


def _settings(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a configuration with every folder resolved and nothing left to fetch; its colours."""
    import open_clip

    if name.endswith(".json"):
        found = towers.read_json(inside(name, folder))
        scale = found.get("preprocess_cfg") or {}
        found = found.get("model_cfg", found)
    elif name in open_clip.list_models():
        found, scale = open_clip.get_model_config(name), {}
    else:
        raise BadModel(
            f"open_clip has no configuration {name!r}; name one of open_clip.list_models(), or a "
            "JSON file"
        )
    vision, text = found.get("vision_cfg"), found.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise BadModel(f"the configuration {name!r} needs `vision_cfg` and `text_cfg`")
    if other := [key for key in _UNREAD if key in found]:
        raise BadModel(f"the configuration {name!r} has `{other[0]}`: wanted two towers alone")
    if vision.get("attentional_pool"):
        raise BadModel(f"the configuration {name!r} pools by attention of its own: not supported")
    if "timm_model_name" in vision:
        timm_tower.require_known(vision["timm_model_name"])
        vision = {**vision, "timm_model_pretrained": False}
    if "hf_model_name" in text:
        text = {**text, **_local(str(text["hf_model_name"]), folder)}
    kept = {key: value for key, value in found.items() if key != "preprocess_cfg"}
    return {**kept, "vision_cfg": vision, "text_cfg": text}, scale


def _local(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of a transformers text tower in a local folder."""
    local = inside(name, folder, is_folder=True)
    if not (local / "config.json").is_file():
        raise BadModel(
            f"the text tower {name!r} must be a local folder with config.json and tokenizer.json, "
            f"looked in {local}; nothing is fetched"
        )
    towers.refuse_code(local)
    return {"hf_model_name": str(local), "hf_model_pretrained": False}


def _without_paths(said: Any) -> Any:
    """Return settings without the folders of this machine."""
    if isinstance(said, dict):
        return {key: _without_paths(v) for key, v in said.items() if key != "hf_model_name"}
    return [_without_paths(v) for v in said] if isinstance(said, list) else said


def _fill(model: nn.Module, weights: Path, name: str) -> None:
    """Load a checkpoint, every tensor exactly."""
    from open_clip.model import convert_to_custom_text_state_dict

    state = {key.removeprefix("module."): value for key, value in load_weights(weights).items()}
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    wrong = [key for key, value in wanted.items()
             if not key.endswith("position_ids")
             and (key not in state or state[key].shape != value.shape)]  # fmt: skip
    if wrong or state.keys() - wanted.keys():
        more = sorted(state.keys() - wanted.keys())
        raise BadModel(
            f"{weights} does not fit open_clip's {name!r}: missing or of another shape "
            f"{wrong[:5]}, not wanted {more[:5]}"
        )
    model.load_state_dict(state, strict=False)


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
        self, x: Tensor, _k: Tensor, _v: Tensor, *,
        need_weights: bool = False,  # noqa: ARG002 - open_clip passes it
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Return `[image, token, channel]` and no weights."""
        b, n, c = x.shape
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # True hides in torch's module, and shows in its function
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.reshape(b, self.count, n, n)
        q, k, v = self.into(x).reshape(b, n, 3, self.count, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(b, n, c)), None


def apart(module: nn.Module) -> None:
    """Put `Attention` where open_clip's self-attention blocks have torch's own, in place."""
    from open_clip.transformer import ResidualAttentionBlock

    for block in list(module.modules()):
        if not isinstance(block, ResidualAttentionBlock) or hasattr(block, "ln_1_kv"):
            continue
        whole = block.attn
        if isinstance(whole, nn.MultiheadAttention) and whole.batch_first and whole.bias_k is None:
            block.attn = Attention(whole)


def _words(text: dict[str, Any], model: Any, folder: Path | None, beside: Path) -> Any:
    """Return queries -> word pieces."""
    import open_clip

    length, named = int(model.context_length), text.get("hf_tokenizer_name")
    if folder is None and named and "hf_model_name" not in text:
        local = beside / str(named)
        if not local.is_dir():
            raise BadModel(
                f"the configuration wants the tokenizer {named!r}: name its folder as `tokenizer`; "
                "nothing is fetched"
            )
        folder = inside(str(named), beside, is_folder=True)
    if folder is not None and not (text.get("tokenizer_kwargs") or "hf_model_name" in text):
        tok = towers.tokenizer(folder)
        return lambda queries: tower.encoded(tok, queries, length)[0]
    if folder is not None and text.get("tokenizer_kwargs"):
        towers.refuse_code(folder)
        return open_clip.HFTokenizer(
            str(folder), context_length=length, local_files_only=True, **text["tokenizer_kwargs"]
        )
    if "hf_model_name" in text:
        own = towers.tokenizer(folder or Path(text["hf_model_name"]))
        return lambda queries: tower.encoded(own, queries, length)[0]
    return open_clip.SimpleTokenizer(context_length=length)


def _backbone(model: Any, words: Any, colours: Colours, identity: str) -> Backbone:
    visual = model.visual
    given = visual.image_size
    height, width = given if isinstance(given, list | tuple) else (given, given)
    if height != width:
        raise BadModel(f"wanted a tower for square pictures, got {height} x {width}")
    seen, met = _timm(visual, colours, height) if hasattr(visual, "trunk") else _own(
        visual, colours, height)  # fmt: skip

    def patches(glance: Tensor) -> Tensor:
        return towers.to_grid(seen(glance))

    def query(queries: list[str]) -> Tensor:
        at = next(model.parameters()).device
        found: Tensor = model.encode_text(words(queries).to(at))
        return found

    blank = torch.zeros(1, 3, GLANCE, GLANCE)
    first = towers.tried("the image tower", lambda: patches(blank))
    embed = towers.tried("the text tower", lambda: query(["a"])).shape[1]
    pooled = towers.tried("the projection of a patch", lambda: met(first)).shape
    if tuple(pooled) != (*first.shape[:2], embed):
        raise BadModel(f"patches are projected to {tuple(pooled)}, queries have {embed} channels")
    return Backbone(
        module=model, channels=first.shape[2], embed=embed, patches=patches, query=query, met=met,
        sites=towers.usable(_sites(model), patches, query), identity=identity,
    )  # fmt: skip


Maps = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""glance -> `[image, channel, row, column]`, and patches -> `[image, patch, embed]`."""


def _own(visual: Any, colours: Colours, side: int) -> Maps:
    """Return the maps of open_clip's own towers."""

    def seen(glance: Tensor) -> Tensor:
        found = visual.forward_intermediates(
            towers.scaled(glance, side, colours),
            indices=1, normalize_intermediates=True, intermediates_only=True,
        )  # fmt: skip
        plane: Tensor = found["image_intermediates"][-1]
        return plane

    pool = getattr(visual, "attnpool", None)
    if pool is not None:
        return seen, lambda patches: pool.c_proj(pool.v_proj(patches))
    proj = getattr(visual, "proj", None)

    def met(patches: Tensor) -> Tensor:
        found: Tensor = patches if proj is None else patches @ proj
        return found

    return seen, met


def _timm(visual: Any, colours: Colours, side: int) -> Maps:
    """Return the maps of a timm tower: what it pools, and each patch pooled alone."""
    trunk = visual.trunk
    with torch.no_grad():
        raw = towers.tried("the image tower", lambda: trunk.forward_features(
            torch.zeros(1, 3, side, side)))  # fmt: skip
    again = getattr(trunk, "num_prefix_tokens", 0) + 1
    last = raw.ndim == 4 and timm_tower.channels_last(trunk, raw)

    def seen(glance: Tensor) -> Tensor:
        return timm_tower.plane(trunk, trunk.forward_features(
            towers.scaled(glance, side, colours)))  # fmt: skip

    def met(patches: Tensor) -> Tensor:
        flat = patches.flatten(0, 1)
        if raw.ndim == 3:  # prefix tokens are what some pools read: the patch stands for them, too
            alone = flat[:, None].expand(-1, again, -1)
        else:
            alone = flat[:, None, None] if last else flat[..., None, None]
        found: Tensor = visual.head(trunk.forward_head(alone))
        return found.reshape(*patches.shape[:2], -1)

    return seen, met


def _sites(model: Any) -> dict[str, Location]:
    visual = model.visual
    trunk = getattr(visual, "trunk", getattr(visual, "transformer", visual))
    found = towers.block_sites("encoder.tower", "patches", towers.blocks_of(trunk))
    text = getattr(model, "text", model)
    reader = getattr(text, "transformer", text)
    reader = getattr(reader, "encoder", reader)
    return found | towers.block_sites("query.layers", "query", towers.blocks_of(reader))
