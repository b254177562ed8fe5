"""The reference model's allocator on encoders of timm, open_clip and transformers."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from arrcoc_verify.adapters import load
from arrcoc_verify.adapters.conformance import check
from arrcoc_verify.edit import Edit
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.graph import run
from arrcoc_verify.reference import backbones
from arrcoc_verify.reference.trained import assembly
from arrcoc_verify.reference.trained.realising import GLANCE, SIZE
from tests.reference import small_backbones as small
from tests.reference.small_backbones import open_clip, transformers

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
        ({"weights": 3}, BadModel, "as text"),
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
