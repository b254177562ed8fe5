"""The trained reference model keeps what it declares."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from arrcoc_verify.adapters import load
from arrcoc_verify.adapters.conformance import check
from arrcoc_verify.errors import ArrcocError, BadModel
from arrcoc_verify.graph import Edit, resume, run
from arrcoc_verify.reference.trained import assembly, tower


def test_tokens_are_whole_in_range_and_spend_the_budget_exactly(model, clean, noise):
    odd = run(model, [noise(1), noise(2)], ["?", "blorvex quimdra"])

    for made in (clean, odd):
        tokens = made["attending.tokens"]
        assert torch.equal(tokens, tokens.round())
        assert 64 <= float(tokens.min()) <= float(tokens.max()) <= 400
        assert [88 * 256] * len(tokens) == tokens.sum(1).tolist()


def test_floor_and_ceiling_are_met_exactly(model, clean):
    """88 * 256 tokens pay for 18 patches at 400, one at 160, and 237 at 64."""
    demand = torch.full_like(clean["attending.demand"], 1e-6)
    demand[:, :18], demand[:, 18] = 1e12, 1e3
    pushed = resume(clean, edits=[Edit(site="attending.demand", value=demand)])
    tokens = pushed["attending.tokens"]

    assert {400.0} == set(tokens[:, :18].flatten().tolist())
    assert {160.0} == set(tokens[:, 18].tolist())
    assert {64.0} == set(tokens[:, 19:].flatten().tolist())


def test_a_picture_gets_the_same_alone_and_among_others(model, shown):
    images, queries = [s.image for s in shown], [s.query for s in shown]
    together = run(model, images, queries, batch_size=3)["attending.lod"]
    alone = run(model, images, queries, batch_size=1)["attending.lod"]

    assert float(((together - alone).abs() / alone).max()) < 1e-5


def test_knowing_sees_the_glance_and_nothing_else(model, clean):
    """With the glance written back, no other pixel reaches the tokens."""
    inputs = {name: step.inputs for name, step in ((s.name, s) for s in model.steps)}
    readers = {name for name, read in inputs.items() if "pixels" in read or "images" in read}

    assert {"pixels", "glance", "realised"} == readers
    assert {"answer"} == {name for name, read in inputs.items() if "realised" in read}
    assert ("realised", "tokens") == inputs["answer"]


def test_vectors_are_long_enough_and_inner_sites_are_there(model, clean):
    for site in ("information_features", "salience_features", "query_features"):
        assert 64 <= clean[f"knowing.{site}"].shape[2]
    for wanted in ("encoder.tower.0", "encoder.blocks.0.heads", "encoder.blocks.0.mlp",
                   "query.layers.0", "realising.answer"):  # fmt: skip
        assert wanted in model.sites


def test_everything_declared_is_true(model):
    findings = check(model)

    assert [] == [one for one in findings if one.passed is False]
    assert 10 <= len(findings)


def test_the_towers_are_those_of_open_clip_and_what_is_read_is_their_own(model):
    """Folding normalisations and another memory layout change no feature beyond rounding."""
    net = assembly.load()
    state = load_file(assembly.shipped())
    plain = assembly.Reference(assembly.text_folder())
    wanted = plain.state_dict()
    plain.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})
    glance = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        one, two = net.patches(glance), tower.patch_features(plain.eval().trunk, glance)

    assert "open_clip" in type(net.towers).__module__
    assert float((one - two).abs().max() / two.abs().max()) < 1e-4


def test_other_weights_are_refused_with_words(tmp_path):
    cases = {
        "none.safetensors": ({"towers.nothing": torch.zeros(2)}, "another model"),
        "shape.safetensors": ({"classes": torch.zeros(2)}, "another model"),
    }
    for name, (state, said) in cases.items():
        save_file(state, tmp_path / name)
        with pytest.raises(BadModel, match=said):
            load(f"reference:trained@{tmp_path / name}")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArrcocError, match="cannot read"):
        load(f"reference:trained@{tmp_path / 'broken.safetensors'}")


def test_a_checkpoint_holds_what_learns_and_the_rest_is_the_shipped(tmp_path, model, shown):
    path = tmp_path / "step.safetensors"
    state = load_file(assembly.shipped())
    save_file({k: v for k, v in state.items() if k.startswith("balancer.")}, path)
    other = load(f"reference:trained@{path}")
    image, query = [shown[0].image], [shown[0].query]

    assert torch.equal(
        run(model, image, query)["attending.tokens"], run(other, image, query)["attending.tokens"]
    )


def test_text_comes_from_local_folders(tmp_path):
    """The tokenizer is read from a folder anywhere, with no network (every test runs without)."""
    folder = tmp_path / "text"
    shutil.copytree(assembly.text_folder(), folder)
    pieces = tower.pieces(tower.tokenizer(folder), ["the red cup", ""])

    assert torch.equal(pieces, tower.pieces(tower.tokenizer(assembly.text_folder()),
                                            ["the red cup", ""]))  # fmt: skip
