"""Edits move one factor of whole cells, exactly, and touch nothing else."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arrcoc_verify.errors import BadRegion, UsageError
from arrcoc_verify.scenes import Region, Scene, scenes
from arrcoc_verify.scenes.colour import luma
from arrcoc_verify.scenes.edits import (
    CONTRAST,
    TEXTURE,
    cell_edges,
    cell_map,
    edge_energy,
    edit_information,
    edit_salience,
    make_room,
    pixels_of,
    ring,
)  # fmt: skip

GRID = (16, 16)
MADE = scenes("select")
SCENES = st.sampled_from(MADE)
LEVELS = st.floats(0, 1)


def natural(pixels: np.ndarray, box=(8, 8, 16, 16)) -> Scene:
    return Scene(
        image=Image.fromarray(pixels), query="find it", target=Region(box=box),
        unit="u", cluster="u", role="assert", name="natural",
    )  # fmt: skip


def inside(scene: Scene, grid=GRID) -> np.ndarray:
    return pixels_of(scene.target.cells(grid, scene.image.size), grid, scene.image.size)


def differences(scene: Scene) -> np.ndarray:
    return np.diff(scene.pixels.astype(int), axis=-1)


@settings(max_examples=25)
@given(SCENES, LEVELS)
def test_edits_change_nothing_outside_their_cells_and_no_chroma(scene, level) -> None:
    for edited in (edit_information(scene, level), edit_salience(scene, level)):
        changed = (edited.pixels != scene.pixels).any(-1)
        assert not (changed & ~inside(scene)).any()
        assert np.array_equal(differences(scene), differences(edited))
        same = ("query", "unit", "cluster", "role", "name")
        assert all(getattr(scene, name) == getattr(edited, name) for name in same)


@settings(max_examples=15)
@given(SCENES, st.integers(1, 64), st.integers(1, 64), st.integers(0, 99))
def test_any_cells_of_any_grid_can_be_edited(scene, rows, columns, seed) -> None:
    grid = (rows, columns)
    cells = np.random.default_rng(seed).random(rows * columns) < 0.3
    cells[seed % cells.size] = True
    part = pixels_of(cells, grid, scene.image.size)
    for edited in (
        edit_information(scene, 1.0, grid=grid, where=cells),
        edit_salience(scene, 1.0, grid=grid, where=cells),
    ):
        assert not ((edited.pixels != scene.pixels).any(-1) & ~part).any()
        assert np.array_equal(differences(scene), differences(edited))


@settings(max_examples=20)
@given(SCENES, LEVELS)
def test_salience_is_a_pure_offset(scene, level) -> None:
    part = inside(scene)
    moved = edit_salience(scene, level).pixels.astype(int) - make_room(
        scene, scene.target.cells(GRID, scene.image.size), GRID
    ).pixels.astype(int)
    values = np.unique(moved[part])
    # A pixel at the end of the range stops there; there are hardly any.
    assert (moved[part] != np.median(moved[part])).any(-1).mean() <= 0.01
    assert values.size >= 1


def test_salience_sets_the_distance_to_the_surround() -> None:
    for scene in MADE:
        cells = scene.target.cells(GRID, scene.image.size)
        other = scene.distractor.cells(GRID, scene.image.size)
        around = pixels_of(ring(cells, GRID, other), GRID, scene.image.size)
        for level in (0.0, 0.5, 1.0):
            light = luma(edit_salience(scene, level).pixels)
            distance = abs(light[inside(scene)].mean() - light[around].mean())
            assert level * CONTRAST == pytest.approx(distance, abs=1.0)


def test_information_keeps_mean_variance_and_edge_energy_and_moves_entropy() -> None:
    owner = cell_map(GRID, (256, 256))
    for scene in MADE:
        part = inside(scene)
        light = [luma(edit_information(scene, level).pixels) for level in (0.0, 1.0)]
        assert light[0][part].mean() == pytest.approx(light[1][part].mean(), abs=0.25)
        assert light[0][part].std() == pytest.approx(light[1][part].std(), rel=0.03)
        energy = [edge_energy(one)[part].mean() for one in light]
        assert energy[0] == pytest.approx(energy[1], rel=0.05)
        for cell in np.flatnonzero(scene.target.cells(GRID, scene.image.size)):
            low, high = (_entropy(one[owner == cell]) for one in light)
            # Chroma has fractions of grey levels, so rounding spreads each level over two values.
            assert low <= 2.5
            assert high >= low + 1.5


def _entropy(values: np.ndarray) -> float:
    share = np.unique(np.rint(values), return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum())


def test_entropy_grows_with_the_dose() -> None:
    owner = cell_map(GRID, (256, 256))
    for scene in MADE[:2]:
        cells = np.flatnonzero(scene.target.cells(GRID, scene.image.size))
        bits = []
        for level in np.linspace(0, 1, 6):
            light = luma(edit_information(scene, float(level)).pixels)
            bits.append(np.mean([_entropy(light[owner == cell]) for cell in cells]))
        assert np.all(np.diff(bits) > 0.1)


def test_grey_cells_get_two_levels_of_known_distance() -> None:
    scene = natural(np.full((32, 32, 3), 128, dtype=np.uint8))
    low = edit_information(scene, 0.0, grid=(4, 4)).pixels[8:24, 8:24, 0]
    assert [128 - TEXTURE, 128 + TEXTURE] == np.unique(low).tolist()
    for rows in (slice(0, 8), slice(8, 16)):
        assert 128 == low[rows, :8].mean()
    high = edit_information(scene, 1.0, grid=(4, 4)).pixels[8:24, 8:24, 0]
    assert 16 == np.unique(high[:8, :8]).size
    assert TEXTURE == pytest.approx(high.std(), rel=0.02)


def test_one_pixel_cells_have_no_room_for_texture_and_stay_readable() -> None:
    scene = natural(np.full((32, 32, 3), 90, dtype=np.uint8))
    assert np.array_equal(scene.pixels, edit_information(scene, 1.0, grid=(32, 32)).pixels)


@settings(max_examples=25)
@given(st.integers(0, 2**31), LEVELS)
def test_nothing_wraps_around_in_natural_pictures(seed, level) -> None:
    pixels = np.random.default_rng(seed).choice([0, 255, 128], (32, 32, 3)).astype(np.uint8)
    scene = natural(pixels)
    for edited in (
        edit_information(scene, level, grid=(4, 4)), edit_salience(scene, level, grid=(4, 4)),
    ):  # fmt: skip
        assert np.array_equal(differences(scene), differences(edited))


def test_a_white_region_on_black_can_still_be_set_to_its_surround() -> None:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[8:24, 8:24] = 255
    scene = natural(pixels)
    flat, out = (edit_salience(scene, level, grid=(4, 4)).pixels[16, 16, 0] for level in (0.0, 1.0))
    assert (0, 40) == (flat, out)


def test_the_noise_follows_the_seed_and_the_scenes_name() -> None:
    scene = MADE[0]
    once, again = (edit_information(scene, 0.5, seed=4).pixels for _ in range(2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, edit_information(scene, 0.5, seed=5).pixels)
    renamed = dataclasses.replace(scene, name="other")
    assert not np.array_equal(once, edit_information(renamed, 0.5, seed=4).pixels)


def test_the_distractor_can_be_edited_instead() -> None:
    scene = MADE[0]
    edited = edit_salience(scene, 1.0, where=scene.distractor)
    assert np.array_equal(scene.pixels[scene.target.slices], edited.pixels[scene.target.slices])
    assert not np.array_equal(scene.pixels, edited.pixels)


def test_the_ring_is_one_cell_wide_and_leaves_out_what_is_excluded() -> None:
    cells = np.zeros((4, 4), dtype=bool)
    cells[0, 0] = True
    assert [1, 4, 5] == np.flatnonzero(ring(cells.ravel(), (4, 4))).tolist()
    other = np.zeros(16, dtype=bool)
    other[1] = True
    assert [4, 5] == np.flatnonzero(ring(cells.ravel(), (4, 4), other)).tolist()


def test_edge_energy_of_a_ramp_is_its_slope_squared() -> None:
    ramp = np.arange(12.0)[None, :] * 3 + np.zeros((9, 1))
    assert np.allclose(9.0, edge_energy(ramp)[1:-1, 1:-1])


@given(st.integers(1, 50), st.data())
def test_cells_share_out_all_pixels(cells: int, data) -> None:
    length = data.draw(st.integers(cells, 500))
    sizes = np.diff(cell_edges(length, cells))
    assert length == sizes.sum()
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_bad_requests_are_refused() -> None:
    scene = MADE[0]
    for level in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="0 to 1"):
            edit_information(scene, level)
        with pytest.raises(UsageError, match="0 to 1"):
            edit_salience(scene, level)
    with pytest.raises(BadRegion, match="at least one true"):
        edit_salience(scene, 1.0, where=np.zeros(256, dtype=bool))
    with pytest.raises(BadRegion, match=r"\[256\]"):
        edit_salience(scene, 1.0, where=np.ones(9, dtype=bool))
    with pytest.raises(BadRegion, match="at most"):
        edit_information(natural(np.zeros((32, 32, 3), dtype=np.uint8)), 1.0, grid=(64, 64))
