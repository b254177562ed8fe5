"""Small random encoders of each library, written to a folder as a user would have them."""

import json
import shutil

import torch
from safetensors.torch import save_file

from arrcoc_verify import _torchvision
from arrcoc_verify.reference.trained import assembly

_torchvision.prepare()
import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402

WORDS = 30522
CLIP = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 24, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2,
    },
}  # fmt: skip
TEXT = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


def put(module, path):
    save_file({k: v.clone().contiguous() for k, v in module.state_dict().items()}, path)


def declare(at, /, **table):
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    (at / "model.toml").write_text("[backbone]\n" + "\n".join(lines) + "\n")


def reader(folder):
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    words(folder)


def words(folder):
    shutil.copy(assembly.text_folder() / "tokenizer.json", folder)


def timm_alone(folder):
    put(timm.create_model("resnet10t", pretrained=False), folder / "w.safetensors")
    declare(folder, kind="timm", name="resnet10t", weights="w.safetensors", size=128)


def timm_and_reader(folder):
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=2)
    put(vit, folder / "w.safetensors")
    reader(folder / "text")
    declare(folder, kind="timm", name="vit_tiny_patch16_224", weights="w.safetensors", text="text")
    with (folder / "model.toml").open("a") as file:
        file.write("[backbone.arguments]\nnum_classes = 0\ndepth = 2\n")


def clip(folder, config=CLIP):
    (folder / "clip.json").write_text(json.dumps(config))
    put(open_clip.CLIP(**config), folder / "w.safetensors")
    declare(folder, kind="open_clip", name="clip.json", weights="w.safetensors")


def clip_resnet(folder):
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    clip(folder, {**CLIP, "vision_cfg": vision})


def clip_of_two_libraries(folder):
    reader(folder / "text")
    text = {
        "hf_model_name": "text", "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear",
        "context_length": 24,
    }  # fmt: skip
    vision = {
        "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear",
        "image_size": 128,
    }  # fmt: skip
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
    (folder / "clip.json").write_text(json.dumps(config))
    local = {**text, "hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
    put(open_clip.CustomTextCLIP(**{**config, "text_cfg": local}), folder / "w.safetensors")
    declare(folder, kind="open_clip", name="clip.json", weights="w.safetensors")


def qwen(folder):
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0}
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 32, "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 48, "intermediate_size": 64, "num_heads": 2,
            "patch_size": 8, "out_hidden_size": 64, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    )  # fmt: skip
    _vlm(transformers.Qwen3VLModel(config), folder)


def internvl(folder):
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": [128, 128], "patch_size": [8, 8],
        },
    )  # fmt: skip
    _vlm(transformers.InternVLModel(config), folder)


def _vlm(model, folder):
    model.save_pretrained(folder / "vlm")
    words(folder / "vlm")
    declare(folder, kind="transformers", folder="vlm")


KINDS = {
    make.__name__: make
    for make in (
        timm_alone, timm_and_reader, clip, clip_resnet, clip_of_two_libraries, qwen, internvl,
    )
}  # fmt: skip


def made(name, folder, seed=0):
    """Write one kind of encoders into `folder` and return the TOML file that names them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        KINDS[name](folder)
    return folder / "model.toml"
