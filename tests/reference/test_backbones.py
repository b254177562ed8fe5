"""The reference model's allocator on encoders of timm, open_clip and transformers."""

import json
import tomllib

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from arrcoc_verify.adapters import load
from arrcoc_verify.adapters.conformance import check
from arrcoc_verify.edit import Edit
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.graph import run
from arrcoc_verify.reference import backbones
from arrcoc_verify.reference.backbones import open_clip_towers
from arrcoc_verify.reference.trained import assembly
from arrcoc_verify.reference.trained.realising import GLANCE, SIZE
from tests.reference import small_backbones as small
from tests.reference.small_backbones import open_clip, timm, transformers

HEADS = {"timm_and_reader", "clip", "qwen", "internvl"}
"""Kinds whose image tower has attention heads."""


@pytest.fixture(scope="module", params=small.KINDS)
def kind(request, tmp_path_factory):
    """Name, folder and model of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, load(str(small.made(request.param, folder)))


@pytest.fixture
def pictures():
    drawn = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=drawn)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def test_it_spends_the_budget_exactly_and_its_sites_are_there(kind, pictures):
    name, _, model = kind
    blocks = [s for s in model.sites if s.startswith(("encoder.tower.", "query.layers."))]
    clean = run(model, pictures, ["a dog", "the red cup"], read=["attending.tokens", *blocks])
    tokens = clean["attending.tokens"]

    assert tokens.sum(1).tolist() == [assembly.TOTAL] * 2
    assert tokens.min() >= 64 and tokens.max() <= 400  # noqa: PT018 - one range
    assert {"encoder.tower.0", "encoder.tower.1", "query.layers.0"} <= set(blocks)
    assert ("encoder.tower.1.heads" in blocks) == (name in HEADS)
    assert all(len(clean[site]) == 2 for site in blocks)


def test_a_query_relevance_that_was_not_trained_is_the_similarity(kind, pictures):
    _, _, model = kind
    reads = ["encoder.met", "query.embedding", "encoder.evidence", "knowing.query_relevance"]
    found = run(model, pictures, ["a dog", "the red cup"], read=reads)
    near = torch.einsum("bne,be->bn", found["encoder.met"], found["query.embedding"])

    assert torch.allclose(20 * near.clamp(min=0), found["encoder.evidence"], atol=1e-5)
    score, evidence = found["knowing.query_relevance"], found["encoder.evidence"]
    order = evidence.argsort(1)
    assert (score.gather(1, order).diff(dim=1) >= -1e-6).all()


def test_an_edit_at_the_last_block_reaches_the_patches(kind, pictures):
    _, _, model = kind
    last = max(s for s in model.sites if s.startswith("encoder.tower.") and s.count(".") == 2)
    clean = run(model, pictures, ["a dog"] * 2, read=["encoder.patches", last])
    edit = Edit(site=last, value=torch.zeros_like(clean[last]))
    edited = run(model, pictures, ["a dog"] * 2, edits=[edit], read=["encoder.patches"])

    assert not edited["encoder.patches"].equal(clean["encoder.patches"])


@pytest.mark.slow
def test_it_keeps_the_contract_of_adapters(kind):
    _, _, model = kind
    assert [] == [(r.id, r.reason) for r in check(model) if r.passed is False]


def test_clip_patches_are_those_before_the_pooling_and_attention_is_unchanged(tmp_path):
    small.made("clip", tmp_path)
    ours = backbones.open_clip("clip.json", tmp_path / "w.safetensors", folder=tmp_path)
    whole = open_clip.CLIP(**small.CLIP).eval()
    whole.load_state_dict(load_file(tmp_path / "w.safetensors"))
    text = open_clip.SimpleTokenizer(context_length=24)(["a dog", "two red cups"])

    with torch.no_grad():
        assert torch.allclose(
            whole.encode_text(text), ours.query(["a dog", "two red cups"]), atol=1e-5
        )
        picture = torch.rand(1, 3, 64, 64)
        assert torch.allclose(
            whole.encode_image(picture), ours.module.encode_image(picture), atol=1e-5
        )


@pytest.mark.parametrize("name", ["timm_alone", "timm_and_reader"])
def test_timm_patches_are_the_trunks_own(name, tmp_path):
    made = backbones.read(
        tomllib.loads(small.made(name, tmp_path).read_text())["backbone"], tmp_path
    )
    trunk, side = made.modules[1][0], 128 if name == "timm_alone" else 224
    glance = torch.rand(2, 3, GLANCE, GLANCE, generator=torch.manual_seed(0))
    big = torch.nn.functional.interpolate(
        glance, (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    mean, std = (torch.tensor(trunk.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        own = trunk.forward_intermediates((big - mean) / std, intermediates_only=True, norm=True)
        ours = step(made, "patches")(glance)
    wanted = torch.nn.functional.interpolate(own[-1], (16, 16), mode="bilinear")

    assert torch.allclose(wanted.flatten(2).transpose(1, 2), ours, atol=1e-5)


def step(model, name):
    return next(one.run for one in model.steps if one.name == name)


def test_clip_patches_are_the_librarys_in_its_own_colours(tmp_path):
    colours = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    small.clip(tmp_path)
    (tmp_path / "clip.json").write_text(
        json.dumps({"model_cfg": small.CLIP, "preprocess_cfg": colours})
    )
    ours = backbones.open_clip("clip.json", tmp_path / "w.safetensors", folder=tmp_path)
    whole = open_clip.CLIP(**small.CLIP).eval()
    whole.load_state_dict(load_file(tmp_path / "w.safetensors"))
    glance = torch.rand(2, 3, GLANCE, GLANCE, generator=torch.manual_seed(0))
    big = torch.nn.functional.interpolate(
        glance, (64, 64), mode="bilinear", align_corners=False, antialias=True
    )
    mean, std = (torch.tensor(colours[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        found = whole.visual.forward_intermediates((big - mean) / std, normalize_intermediates=True)
        plane = found["image_intermediates"][-1]
        wanted = torch.nn.functional.interpolate(plane, (16, 16), mode="bilinear")
        wanted = wanted.flatten(2).transpose(1, 2)
        patches = ours.patches(glance)
        assert torch.allclose(wanted, patches, atol=1e-4)
        assert torch.allclose(wanted @ whole.visual.proj, ours.met(patches), atol=1e-4)


@pytest.mark.parametrize(
    ("trunk", "projection", "embed"),
    [
        ("resnet10t", "linear", 64), ("convnext_atto", "linear", 320), ("vit_tiny_patch16_224",
        "linear", 192), ("vit_tiny_patch16_224", None, 48), ("swin_tiny_patch4_window7_224",
        "linear", 64), ("vit_base_patch16_siglip_224", "none", 768),
    ],
)  # fmt: skip
def test_a_patch_is_projected_as_the_picture_is_when_all_its_patches_are_that_patch(
    trunk, projection, embed, tmp_path
):
    """Pooling equal patches gives that patch, so both must land in the same place."""
    pool = "avg" if projection == "linear" else "map" if "siglip" in trunk else "token"
    vision = {
        "timm_model_name": trunk, "timm_pool": pool, "timm_proj": projection, "image_size": 224,
    }  # fmt: skip
    config = {"embed_dim": embed, "vision_cfg": vision, "text_cfg": small.CLIP["text_cfg"]}
    torch.manual_seed(1)
    whole = open_clip.CustomTextCLIP(**config).eval()
    for one in whole.visual.modules():
        if isinstance(one, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(one.weight)
            torch.nn.init.normal_(one.bias)
    small.put(whole, tmp_path / "w.safetensors")
    (tmp_path / "clip.json").write_text(json.dumps(config))
    ours = backbones.open_clip("clip.json", tmp_path / "w.safetensors", folder=tmp_path)
    inner = whole.visual.trunk
    with torch.no_grad():
        raw = inner.forward_features(torch.zeros(1, 3, 224, 224))
        patch = torch.randn(raw.shape[-1] if raw.ndim == 3 else inner.num_features)
        if raw.ndim == 3:
            same = patch.expand_as(raw)
        else:
            last = raw.shape[-1] == inner.num_features
            same = patch.expand_as(raw) if last else patch[:, None, None].expand_as(raw)
        pooled = whole.visual.head(inner.forward_head(same))
        met = ours.met(patch.expand(1, 3, -1))
        zero = ours.met(torch.zeros(1, 1, len(patch)))

    assert torch.allclose(pooled.expand(3, -1), met[0], atol=1e-4)
    assert 1e-2 < float((zero - met[:, :1]).abs().max())


@pytest.mark.parametrize("name", ["timm_alone", "clip", "qwen", "internvl"])
def test_a_change_in_one_corner_moves_the_patches_there_most(name, tmp_path):
    """Residual towers keep what a patch sees in its place: no axis is exchanged or turned over."""
    encoders = load(str(small.made(name, tmp_path)))
    glance = torch.full((1, 3, GLANCE, GLANCE), 0.5)
    changed = glance.clone()
    changed[:, :, 8:32, 96:120] = torch.rand(3, 24, 24, generator=torch.manual_seed(2))
    with torch.no_grad():
        moved = (step(encoders, "patches")(changed) - step(encoders, "patches")(glance)).norm(dim=2)
    apart = moved.reshape(16, 16) - moved.median()
    row, column = divmod(int(apart.argmax()), 16)

    assert 0 <= row <= 5
    assert 10 <= column <= 15


def test_the_same_weights_with_other_settings_are_another_model(tmp_path):
    toml = small.made("clip", tmp_path)
    first = load(str(toml))
    assert first.digest == load(str(toml)).digest

    config = json.loads((tmp_path / "clip.json").read_text())
    config["text_cfg"]["heads"] = 4
    (tmp_path / "clip.json").write_text(json.dumps(config))
    assert first.digest != load(str(toml)).digest

    config["text_cfg"]["heads"] = 2
    (tmp_path / "clip.json").write_text(json.dumps(config))
    toml.write_text(toml.read_text() + "mean = [0.1, 0.1, 0.1]\n")
    assert first.digest != load(str(toml)).digest


@pytest.mark.parametrize("kept", ["x", "language"])
def test_weights_that_are_missing_are_never_made_up(kept, tmp_path):
    small.made("internvl", tmp_path)
    path = tmp_path / "vlm" / "model.safetensors"
    held = {k: v for k, v in load_file(path).items() if kept == "language" and kept not in k}
    save_file(held or {"x": torch.zeros(1)}, path, metadata={"format": "pt"})

    with pytest.raises(BadModel, match="lacks weights"):
        load(str(tmp_path / "model.toml"))


@pytest.mark.parametrize("name", ["clip_of_two_libraries", "internvl"])
def test_code_that_a_folder_names_is_never_run(name, tmp_path):
    small.made(name, tmp_path)
    folder = tmp_path / ("vlm" if name == "internvl" else "text")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "code.C"}})
    )
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    with pytest.raises(BadModel, match="auto_map"):
        load(str(tmp_path / "model.toml"))
    assert not (tmp_path / "ran").exists()


def test_shards_outside_of_the_folder_are_refused(tmp_path):
    small.made("internvl", tmp_path)
    index = {"weight_map": {"a": "../out.safetensors"}}
    (tmp_path / "vlm" / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(BadModel, match="outside of it"):
        load(str(tmp_path / "model.toml"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_cfg": {**small.CLIP["text_cfg"], "hf_tokenizer_name": "a/b"}}, "as `tokenizer`"),
        ({"text_cfg": {**small.CLIP["text_cfg"], "vocab_size": 99}}, "text tower does not run"),
        ({"text_cfg": None}, "needs `vision_cfg` and `text_cfg`"),
        ({"multimodal_cfg": {}}, "two towers alone"),
        ({"vision_cfg": {**small.CLIP["vision_cfg"], "attentional_pool": True}}, "not supported"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:a/b", "image_size": 64}}, "no architecture"),
        ({"vision_cfg": {**small.CLIP["vision_cfg"], "image_size": [64, 96]}}, "square"),
        ({"vision_cfg": {**small.CLIP["vision_cfg"], "image_size": 128}}, "does not fit"),
    ],
)
def test_open_clip_configurations_that_cannot_be_are_said(change, says, tmp_path):
    config = {**small.CLIP, **change}
    toml = small.made("clip", tmp_path)
    if "square" in says or "run" in says:
        small.put(open_clip.CLIP(**config), tmp_path / "w.safetensors")
    (tmp_path / "clip.json").write_text(json.dumps(config))

    with pytest.raises(BadModel, match=says):
        load(str(toml))


def test_hub_names_of_open_clip_are_refused(tmp_path):
    small.made("clip", tmp_path)
    with pytest.raises(BadModel, match="no configuration"):
        backbones.open_clip("hf-hub:laion/x", tmp_path / "w.safetensors", folder=tmp_path)


@pytest.mark.parametrize("kind", ["none", "float", "bool", "heads"])
def test_attention_is_torchs_own_with_any_mask(kind):
    torch.manual_seed(0)
    whole = torch.nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x, hidden = torch.randn(2, 5, 12), torch.ones(5, 5, dtype=torch.bool).triu(1)
    masks = {
        "none": None, "bool": hidden, "float": torch.zeros(5, 5).masked_fill(hidden, -torch.inf),
        "heads": torch.randn(6, 5, 5),
    }  # fmt: skip
    with torch.no_grad():
        wanted, _ = whole(x, x, x, need_weights=False, attn_mask=masks[kind])
        ours, _ = open_clip_towers.Attention(whole)(x, x, x, attn_mask=masks[kind])

    assert torch.allclose(wanted, ours, atol=1e-6)


def test_a_tower_of_one_vector_for_the_picture_is_refused(tmp_path):
    small.put(timm.create_model("pit_ti_224", pretrained=False), tmp_path / "w.safetensors")
    with pytest.raises(BadModel, match="wanted patches"):
        backbones.timm("pit_ti_224", tmp_path / "w.safetensors")


def test_an_argument_that_reads_elsewhere_is_refused(tmp_path):
    with pytest.raises(BadModel, match="checkpoint_path"):
        backbones.timm("resnet10t", tmp_path / "w", arguments={"checkpoint_path": "/etc/passwd"})


def test_qwen_sees_what_its_own_processor_gives_it(tmp_path):
    """Pixels packed here and by transformers' image processor give the same patches."""
    small.made("qwen", tmp_path)
    ours = backbones.transformers(tmp_path / "vlm")
    glance = torch.randint(0, 256, (2, 3, GLANCE, GLANCE), generator=torch.manual_seed(0)) / 255
    processor = transformers.Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, temporal_patch_size=2, do_resize=True,
        size={"shortest_edge": 256 * 256, "longest_edge": 256 * 256}, resample=2,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    plain = transformers.Qwen3VLModel.from_pretrained(tmp_path / "vlm").eval()
    big = torch.nn.functional.interpolate(
        glance, (256, 256), mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)
    given = processor(list(big), return_tensors="pt", do_rescale=False)

    with torch.no_grad():
        seen = plain.get_image_features(given["pixel_values"], given["image_grid_thw"])
        theirs = torch.stack(list(seen.pooler_output))
        assert (2, 256, 64) == tuple(theirs.shape)
        assert torch.allclose(theirs, ours.patches(glance), atol=1e-4)


def test_allocator_weights_are_read_back_exactly(tmp_path):
    toml = small.made("timm_alone", tmp_path)
    encoders = backbones.timm("resnet10t", tmp_path / "w.safetensors", size=128)
    net = backbones.Fitted(encoders, seed=5)
    small.put(net, tmp_path / "allocator.safetensors")
    toml.write_text(toml.read_text() + 'allocator = "allocator.safetensors"\n')

    held = load(str(toml)).modules[0].state_dict()
    assert all(held[key].equal(value) for key, value in net.state_dict().items())


def test_shared_parts_have_the_shipped_weights(tmp_path):
    small.made("timm_alone", tmp_path)
    net = backbones.Fitted(backbones.timm("resnet10t", tmp_path / "w.safetensors", size=128))
    shipped = load_file(assembly.shipped())
    shared = [k for k in shipped if k.startswith(("information.", "salience.", "head."))]

    assert 20 < len(shared)
    assert all(net.state_dict()[k].equal(shipped[k].float()) for k in shared)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "timmy"}, UnknownName, "timm"),
        ({"nam": "x"}, UnknownName, "name"),
        ({"name": "resnet10"}, BadModel, "resnet10t"),
        ({"weights": "missing.safetensors"}, BadModel, "there is no file"),
        ({"weights": "../w.safetensors"}, BadModel, "leaves the folder"),
        ({"name": "resnet18"}, BadModel, "does not fit"),
        ({"text": "words"}, BadModel, "there is no folder"),
        ({"weights": 3}, BadModel, "must be text"),
        ({"size": 0}, BadModel, "32 to 4096"),
        ({"size": True}, BadModel, "32 to 4096"),
        ({"seed": 2.5}, BadModel, "whole number"),
        ({"mean": [0.5]}, BadModel, "three numbers"),
        ({"name": "hf-hub:timm/resnet10t.c3_in1k"}, BadModel, "no architecture"),
        ({"name": "local-dir:/tmp"}, BadModel, "no architecture"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, change, error, says):
    folder = tmp_path / "m"
    folder.mkdir()
    small.made("timm_alone", folder)
    table = {"kind": "timm", "name": "resnet10t", "weights": "w.safetensors", "size": 128}
    small.declare(folder, **{**table, **change})

    with pytest.raises(error, match=says):
        load(str(folder / "model.toml"))


def test_a_pickle_is_refused_for_every_kind(tmp_path):
    small.made("clip", tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04.")

    with pytest.raises(BadModel, match="pickle"):
        load(str(tmp_path / "model.toml"))


def test_a_text_tower_on_a_hub_is_refused(tmp_path):
    text = {"hf_model_name": "someone/something", "context_length": 24}
    (tmp_path / "clip.json").write_text(json.dumps({**small.CLIP, "text_cfg": text}))
    (tmp_path / "w.safetensors").write_bytes(b"")
    small.declare(tmp_path, kind="open_clip", name="clip.json", weights="w.safetensors")

    with pytest.raises(BadModel, match="there is no folder"):
        load(str(tmp_path / "model.toml"))


def test_another_kind_of_transformers_model_is_refused(tmp_path):
    small.reader(tmp_path / "vlm")
    small.declare(tmp_path, kind="transformers", folder="vlm")

    with pytest.raises(BadModel, match="bert"):
        load(str(tmp_path / "model.toml"))
