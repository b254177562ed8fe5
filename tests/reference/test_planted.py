"""Planted features interfere with each other everywhere but along the readout."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.reference.analytic import FEATURES, PLANTED
from arrcoc_verify.reference.planted import DIMENSIONS, Planted, hats

NAMES = sorted(FEATURES)


@pytest.mark.parametrize("name", NAMES)
def test_there_are_more_features_than_dimensions(name):
    assert FEATURES[name] > DIMENSIONS
    assert (FEATURES[name], DIMENSIONS) == tuple(PLANTED[name].directions.shape)


@pytest.mark.parametrize("name", NAMES)
def test_directions_have_unit_length_and_fill_all_dimensions(name):
    directions = PLANTED[name].directions
    np.testing.assert_allclose(1, directions.norm(dim=1), rtol=1e-12)
    assert DIMENSIONS == int(torch.linalg.matrix_rank(directions))


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_reads_as_one(name):
    planted = PLANTED[name]
    np.testing.assert_allclose(1, planted.directions @ planted.readout, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_readout_recovers_the_sum_of_any_codes(name):
    codes = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, FEATURES[name])))
    read = PLANTED[name].read(PLANTED[name].embed(codes))
    np.testing.assert_allclose(codes.sum(-1), read, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_features_interfere(name):
    directions = PLANTED[name].directions
    products = directions @ directions.T
    others = products[~torch.eye(len(products), dtype=torch.bool)]
    assert float(others.abs().min()) > 0
    assert float(others.std()) > 0.05
    # Along the readout each shares 0.5 * 0.5; the rest, spread over 47 dimensions, averages out.
    np.testing.assert_allclose(0.25, float(others.mean()), atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_codes_cannot_be_told_from_the_vector_by_projection_alone(name):
    """One code put in, many come out: what a dictionary has to sort out."""
    planted = PLANTED[name]
    one = torch.zeros(FEATURES[name], dtype=torch.float64)
    one[0] = 1
    seen = planted.directions @ planted.embed(one)
    assert int((seen.abs() > 0.05).sum()) > FEATURES[name] / 2


def test_no_coordinate_is_special():
    for planted in PLANTED.values():
        assert float(planted.readout.abs().max() / planted.readout.norm()) < 0.6
        assert int((planted.readout.abs() > 1e-3).sum()) > DIMENSIONS * 0.9


def test_the_same_seed_gives_the_same_directions_and_another_seed_others():
    assert torch.equal(Planted.make(60, 3).directions, Planted.make(60, 3).directions)
    assert not torch.equal(Planted.make(60, 3).directions, Planted.make(60, 4).directions)


def test_making_features_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Planted.make(60, 3)
    assert torch.equal(before, torch.get_rng_state())


@given(st.floats(-3, 3), st.integers(2, 70))
def test_the_codes_of_a_value_add_up_to_it_and_at_most_two_are_not_zero(value, count):
    codes = hats(torch.tensor([value], dtype=torch.float64), count, 1.0)
    np.testing.assert_allclose(value, float(codes.sum()), rtol=0, atol=1e-12)
    assert int((codes != 0).sum()) <= 2
    kept = codes[0].nonzero().flatten()
    assert len(kept) < 2 or int(kept[1] - kept[0]) == 1


def test_hats_at_and_between_knots():
    values = torch.tensor([0.0, 0.5, 0.625, 1.0, 1.5, -0.5], dtype=torch.float64)
    expected = [
        [0, 0, 0, 0, 0],
        [0, 0, 0.5, 0, 0],
        [0, 0, 0.3125, 0.3125, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1.5],
        [-0.5, 0, 0, 0, 0],
    ]
    assert expected == hats(values, 5, 1.0).tolist()


def test_hats_know_the_top_of_their_range():
    assert [[0, 10, 0]] == hats(torch.tensor([10.0]), 3, 20.0).tolist()
