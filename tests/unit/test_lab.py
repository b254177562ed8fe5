"""The bench: shared runs, readings in natural units, models of other forms."""

import dataclasses

import numpy as np
import pytest
import torch

from arrcoc_verify.adapters.callables import describe
from arrcoc_verify.graph import run
from arrcoc_verify.lab import Lab, NotApplicable, by_cluster
from arrcoc_verify.model import SCORERS
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes


@pytest.fixture(scope="module")
def lab():
    return Lab(analytic.model(), scenes("assert", per_cluster=1)[:4])


def mean_map(image):
    return torch.nn.functional.adaptive_avg_pool2d(image.mean(1, keepdim=True), 8)[:, 0].double()


def other(**declared):
    steps = {
        "information": mean_map,
        "weights": lambda information: torch.tensor([[0.2, 0.3, 0.5]]).repeat(len(information), 1),
        "relevance": lambda information, weights: information * weights[:, :1, None],
        "membership": lambda relevance: relevance > relevance.mean(),
    }
    given = {"grid": (8, 8), "image_size": (256, 256), "lod": None, "budget_kind": "keep_mask"}
    return describe("other", steps, batch_size=1, integer=False, **given | declared)


def test_clusters_are_averaged_in_order_of_first_appearance():
    np.testing.assert_array_equal(
        [2.0, 5.0], by_cluster(np.array([1.0, 5.0, 3.0]), ["b", "a", "b"])
    )


def test_target_distractor_and_placebo_never_overlap(lab):
    assert not (lab.target & lab.distractor).any()
    assert not (lab.elsewhere & (lab.target | lab.distractor)).any()
    assert torch.equal(lab.target.sum(1), lab.elsewhere.sum(1))


def test_a_run_is_made_once(lab):
    assert lab.clean is lab.clean
    assert lab.asked("other") is lab.asked("other")


def test_asking_again_equals_running_anew(lab):
    queries = [scene.other_query for scene in lab.scenes]
    anew = run(lab.model, [scene.image for scene in lab.scenes], queries)

    assert torch.equal(anew.allocation.tokens, lab.asked("other").allocation.tokens)


def test_a_shift_of_one_spread_reads_as_one_on_the_region(lab):
    result = lab.shifted("salience", lab.spread("salience"), lab.target)

    moved = lab.over(result, "salience", lab.target) - lab.over(lab.clean, "salience", lab.target)

    torch.testing.assert_close(torch.ones(4, dtype=torch.float64), moved)


def test_spreads_come_from_the_scale_lab_when_there_is_one(lab):
    scaled = Lab(lab.model, lab.scenes[:2], scale=lab)

    assert lab.spread("information") == scaled.spread("information")
    assert scaled.subset([0]).scale is lab


def test_margins_in_tokens_mean_the_same_share_of_every_range(lab):
    tiles = dataclasses.replace(
        lab.model, declaration=dataclasses.replace(lab.model.declaration, lod=(64.0, 256.0))
    )

    assert 1.0 == lab.token_scale
    assert 336 / 192 == Lab(tiles, lab.scenes).token_scale
    assert 336.0 == Lab(other(), lab.scenes).token_scale


def test_channels_go_by_the_sites_own_names_where_it_has_them(lab):
    site = lab.model.role("weights")
    turned = dataclasses.replace(site, channels=("salience", "query_relevance", "information"))
    model = dataclasses.replace(lab.model, sites={**lab.model.sites, site.name: turned})

    read = Lab(model, lab.scenes).vector(lab.clean, "weights", SCORERS)

    plain = lab.vector(lab.clean, "weights", SCORERS)
    torch.testing.assert_close(plain[:, [2, 0, 1]], read)


def test_what_a_model_lacks_is_said_by_role(lab):
    bare = Lab(other(), lab.scenes)

    with pytest.raises(NotApplicable, match="no site with role 'tensions'"):
        bare.need("tensions")
    with pytest.raises(NotApplicable, match="3 channels without names, the claim needs 2"):
        bare.vector(bare.clean, "weights", SCORERS[:2])


def test_rolling_by_whole_cells_rolls_a_local_map(lab):
    before = lab.map(lab.clean, "information").reshape(-1, 16, 16)
    after = lab.map(lab.rolled(3, 5), "information").reshape(-1, 16, 16)

    torch.testing.assert_close(before.roll((3, 5), (1, 2)), after)
