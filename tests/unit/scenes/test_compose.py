"""Composed scenes are what they say they are, wherever they are made."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arrcoc_verify.errors import BadRegion, UnknownName, UsageError
from arrcoc_verify.scenes import Layer, compose, fixtures, scenes, swap_positions
from arrcoc_verify.scenes.colour import luma
from arrcoc_verify.scenes.compose import block_of, move

SKY = Layer(image=fixtures.photograph("p009"), label="sky", id="p009")
FIRST, SECOND = (
    Layer(image=fixtures.cutout(c.id), label=c.label, id=c.id)
    for c in fixtures.manifest().pairs("assert")["pair01"]
)
GRIDS = st.sampled_from([(16, 16), (14, 14), (8, 8), (4, 4), (8, 4), (3, 3), (2, 2), (1, 2)])


@settings(max_examples=30)
@given(GRIDS, st.integers(0, 2**31))
def test_objects_sit_on_whole_cells_apart_from_each_other(grid, seed: int) -> None:
    size = 8 * int(np.lcm(*grid))
    scene = compose(SKY, FIRST, SECOND, grid=grid, size=size, seed=seed)
    taken = []
    for region in (scene.target, scene.distractor):
        covered = region.coverage(grid, scene.image.size)
        assert set(np.unique(covered)) <= {0.0, 1.0}
        assert covered.sum() == np.prod(block_of(grid, size))
        assert not region.mask[
            ~np.isin(np.arange(size), range(*region.slices[0].indices(size)))
        ].any()
        taken.append(region.cells(grid, scene.image.size))
    assert not (taken[0] & taken[1]).any()


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_the_seed_decides_every_pixel_and_word(seed: int) -> None:
    one, same = (compose(SKY, FIRST, SECOND, seed=seed) for _ in range(2))
    assert np.array_equal(one.pixels, same.pixels)
    assert (one.query, one.nonsense, one.target.box) == (same.query, same.nonsense, same.target.box)


def test_only_the_masks_pixels_differ_from_the_background() -> None:
    scene = compose(SKY, FIRST, SECOND, seed=3)
    differs = (scene.pixels != np.asarray(scene.parts.background)).any(-1)
    outside = np.ones_like(differs)
    for region in (scene.target, scene.distractor):
        outside[region.slices] = False
        assert (differs & region.mask).sum() >= 0.8 * region.mask.sum()
    assert not (differs & outside).any()


def test_luma_leaves_headroom_for_edits() -> None:
    for scene in scenes("select", per_cluster=1):
        light = luma(scene.pixels)
        assert 60 <= light.min()
        assert light.max() <= 196


def test_swapping_twice_gives_the_scene_back_and_moves_both_objects() -> None:
    scene = compose(SKY, FIRST, SECOND, seed=1)
    swapped = swap_positions(scene)
    assert swapped.target.box == scene.distractor.box
    assert swapped.distractor.box == scene.target.box
    assert swapped.target.label == scene.target.label
    assert swapped.query == scene.query
    assert np.array_equal(scene.pixels, swap_positions(swapped).pixels)
    assert not np.array_equal(scene.pixels, swapped.pixels)


def test_objects_cannot_be_moved_onto_each_other_or_out_of_the_grid() -> None:
    scene = compose(SKY, FIRST, SECOND)
    for places in (((0, 0), (2, 2)), ((0, 0), (0, 14)), ((-1, 0), (8, 8))):
        with pytest.raises(BadRegion, match="separate blocks"):
            move(scene, places)


def test_all_scenes_of_a_role_are_nested_in_their_clusters() -> None:
    made = scenes("assert", size=64, grid=(8, 8))
    manifest = fixtures.manifest()
    assert 66 == len(made)
    assert 22 == len({scene.cluster for scene in made})
    assert len(made) == len({scene.name for scene in made}) == len({scene.unit for scene in made})
    for scene in made:
        assert scene.unit in {one.id for one in manifest.backgrounds(scene.cluster)}
        assert "assert" == scene.role


def test_places_are_spread_over_the_image_and_both_objects_are_asked_for() -> None:
    made = scenes("assert", size=128)
    quarters = Counter(
        (scene.target.box[0] + 19 > 64, scene.target.box[1] + 19 > 64) for scene in made
    )
    assert 4 == len(quarters)
    assert max(quarters.values()) <= 2 * min(quarters.values())
    asked: dict[str, set[str]] = {}
    for scene in made:
        asked.setdefault(scene.cluster, set()).add(scene.target.label.split(" ", 1)[1])
    assert {2} == {len(labels) for labels in asked.values()}


def test_queries_name_what_they_ask_for() -> None:
    for scene in scenes("select", size=64, grid=(8, 8)):
        assert scene.target.label in scene.query
        assert scene.distractor.label in scene.other_query
        assert scene.query != scene.paraphrase
        assert scene.target.label not in scene.absent_query


def test_per_cluster_and_seed_choose_scenes() -> None:
    assert 8 == len(scenes("select", per_cluster=1, size=64, grid=(8, 8)))
    one, other = (scenes("train", size=64, grid=(8, 8), seed=seed)[0] for seed in (0, 1))
    assert one.name == other.name
    assert one.target.box != other.target.box or one.query != other.query


def test_own_photographs_serve_one_pair_each() -> None:
    own = [Layer(image=Image.new("RGB", (90, 60), (i, 99, 99)), label="", id=str(i))
           for i in range(30)]  # fmt: skip
    made = scenes("assert", size=64, grid=(8, 8), per_cluster=9, backgrounds=own)
    assert {str(i) for i in range(30)} == {scene.unit for scene in made}
    assert 30 == len(made)
    assert 22 == len({scene.cluster for scene in made})


@pytest.mark.parametrize(
    ("grid", "size", "words"),
    [((16, 16), 250, "such as 240"), ((1, 1), 64, "two objects"), ((0, 4), 64, "whole pixels"),
     ((7, 5), 20, "such as 35")],
)  # fmt: skip
def test_impossible_grids_say_what_would_be_possible(grid, size, words) -> None:
    with pytest.raises(BadRegion, match=words):
        block_of(grid, size)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UnknownName, match="role"):
        scenes("asserted")
    with pytest.raises(UsageError, match="per_cluster"):
        scenes("train", per_cluster=0)
    with pytest.raises(UsageError, match="background"):
        scenes("train", backgrounds=[])
