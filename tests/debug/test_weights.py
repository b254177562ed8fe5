"""Rank-one edits of named weights: what they change, what they leave, and that nothing stays."""

from dataclasses import replace

import pytest
import torch

from arrcoc_verify.debug.bench import donor_scenes, make_donors
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.diagnosis import debug
from arrcoc_verify.debug.patching import PatchEdit, applied, load_patch, save_patch
from arrcoc_verify.debug.repair import repair
from arrcoc_verify.debug.weights import _key
from arrcoc_verify.graph import run


def layered(sound, layer):
    """Return the analytic model with a linear layer behind its vectors of query relevance."""

    def with_layer(step):
        return lambda *values: layer(step.run(*values).double())

    steps = [
        replace(one, run=with_layer(one)) if one.name == "query_features" else one
        for one in sound.steps
    ]
    return replace(sound, steps=tuple(steps), modules=(*sound.modules, layer))


def identity(width):
    layer = torch.nn.Linear(width, width, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
    return layer.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def vectors(sound, cases):
    case = cases[0]
    return run(sound, [case.image], [case.query])["knowing.query_features"][0].double()


@pytest.fixture(scope="module")
def blind(sound, cases, vectors):
    """A layer that makes nothing of what is in the first case's region."""
    layer, inside = identity(vectors.shape[1]), cases[0].cells
    with torch.no_grad():
        mean = vectors[inside].mean(0)
        layer.weight -= torch.outer(mean, _key(mean, vectors[~inside]))
    return layer


def test_the_key_answers_one_to_the_region_and_least_to_the_rest():
    torch.manual_seed(0)
    others = torch.randn(500, 8).double() * torch.linspace(0.1, 3, 8).double()
    inside = torch.randn(8).double()
    key, plain = _key(inside, others), inside / (inside @ inside)

    assert float(key @ inside) == pytest.approx(1)
    assert float((others @ key).square().mean()) < float((others @ plain).square().mean())


def test_a_weight_is_edited_while_its_step_runs_and_put_back_to_the_byte(sound, cases, vectors):
    layer = identity(vectors.shape[1])
    model = layered(sound, layer)
    before = layer.weight.clone()
    key = torch.zeros(vectors.shape[1]).double()
    key[3] = 1.0
    edit = PatchEdit(
        kind="weight", target=f"{len(sound.modules)}.weight", words={"step": "query_features"},
        tensors={"key": key, "delta": torch.ones(vectors.shape[1]).double()},
    )  # fmt: skip
    shown = ([cases[0].image], [cases[0].query])
    edited = run(applied(model, [edit]), *shown)["knowing.query_features"][0]

    torch.testing.assert_close(edited, vectors + vectors[:, 3:4])
    assert torch.equal(before, layer.weight)
    assert torch.equal(vectors, run(model, *shown)["knowing.query_features"][0])
    assert applied(model, [edit]).digest != model.digest


def test_a_layer_that_lost_the_region_is_mended_by_a_rank_one_edit(tmp_path, sound, cases, blind):
    model, case = layered(sound, blind), cases[0]
    whole = run(sound, [case.image], [case.query]).allocation.tokens[0, case.cells].mean()
    donors = make_donors(model, donor_scenes(model))
    found = debug(model, case, Goal(tokens=0.7 * float(whole)), donors=donors)
    edits = [row for row in repair(found).tried if row.mends and row.edits[0].kind == "weight"]

    assert "yes" == found.failure.answer
    assert ["scorer_blind"] == [cause.code for cause in found.causes]
    assert edits
    assert min(row.collateral for row in edits) < 0.05
    save_patch(tmp_path / "repair.safetensors", edits[0].edits, {})
    kept, _ = load_patch(tmp_path / "repair.safetensors")
    after = run(applied(model, kept), [case.image], [case.query]).allocation.tokens[0, case.cells]
    assert float(after.mean()) == pytest.approx(edits[0].case_tokens_after)
