"""Gates and mediation on models whose fault, or soundness, is known."""

from dataclasses import replace

import pytest
import torch

from arrcoc_verify.lab import Lab, scene_size
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from arrcoc_verify.suite.balancing import maps_mediate_everything
from arrcoc_verify.suite.gates import batch_invariance


def lab_of(model):
    place = {"grid": model.declaration.grid, "size": scene_size(model)}
    return Lab(model, scenes("select", per_cluster=2, **place))


def with_query(model, change):
    """Return the model with its embedded queries changed."""

    def changed(step):
        if step.name != "query":
            return step
        return replace(step, run=lambda *inputs: change(step.run(*inputs)))

    return replace(model, steps=tuple(map(changed, model.steps)))


@pytest.fixture(scope="module")
def model():
    return analytic.model()


def test_a_query_that_only_the_ninth_picture_of_a_batch_loses_fails_the_gate(model):
    def lose(embedded):
        return torch.cat([embedded[:8], torch.zeros_like(embedded[8:])])

    model = replace(model, declaration=replace(model.declaration, batch_size=12))
    assert batch_invariance(lab_of(model)).passed
    found = batch_invariance(lab_of(with_query(model, lose)))
    assert not found.passed
    assert found.measured > 0.1


def test_weights_mediate_where_a_model_shows_no_tensions(model):
    sites = {name: s for name, s in model.sites.items() if s.role != "tensions"}
    lab = lab_of(replace(model, sites=sites))
    found = maps_mediate_everything(lab)
    assert float(found.values.max()) < 1e-9
    assert found.exercise["inputs that move relevance when free"] == len(lab)


def test_where_most_maps_are_flat_the_others_give_the_size(model):
    def lose_most(embedded):
        return torch.cat([embedded[:4], torch.zeros_like(embedded[4:])])

    lab = lab_of(with_query(model, lose_most))
    each = lab.map(lab.clean, "query_relevance").std(1, unbiased=False)
    assert float(each.median()) == 0.0
    assert lab.spread("query_relevance") == pytest.approx(float(each.max()) / 100)
