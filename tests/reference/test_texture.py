"""The texture array against the formulas of docs/analytic.md in plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arrcoc_verify.reference.lexicon import COLOURS
from arrcoc_verify.reference.texture import (
    CELL,
    CHANNELS,
    GRID,
    SIZE,
    categories,
    category_centres,
    cells,
    pixels,
    texture,
)
from arrcoc_verify.scenes.colour import TINTS

LEVEL = st.integers(0, 255)


def picture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def flat(rgb):
    return Image.new("RGB", (SIZE, SIZE), tuple(rgb))


def centres_by_hand():
    def at(radius, degrees):
        return radius * np.cos(np.deg2rad(degrees)), radius * np.sin(np.deg2rad(degrees))

    pale = [at(0.06, angle) for angle in (0, 72, 144, 216, 288)]
    return np.array([(0, 0), *pale, *(at(0.15, angle) for angle in (45, 135, 225, 315))])


def texture_by_hand(image):
    r, g, b = np.moveaxis(np.asarray(image, dtype=np.float64) / 255, 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b
    near = np.stack(
        [np.exp(-((cb - x) ** 2 + (cr - z) ** 2) / (2 * 0.03**2)) for x, z in centres_by_hand()]
    )
    return np.stack([y, cb, cr, *(near / near.sum(0))])


def test_thirteen_channels_have_thirteen_names():
    assert 13 == len(CHANNELS) == texture(pixels([picture(0)])).shape[1]
    assert SIZE == CELL * GRID == 256


@pytest.mark.parametrize("seed", range(3))
def test_the_texture_is_what_the_document_says(seed):
    made = texture(pixels([picture(seed)]))[0].numpy()
    np.testing.assert_allclose(texture_by_hand(picture(seed)), made, rtol=0, atol=2e-5)


def test_category_centres_are_where_the_document_puts_them():
    np.testing.assert_allclose(centres_by_hand(), category_centres(), atol=1e-7)


def test_each_colour_word_stands_at_the_centre_of_its_quadrant():
    for index, name in enumerate(COLOURS):
        assert np.sign(TINTS[name]).tolist() == torch.sign(category_centres()[6 + index]).tolist()


def test_categories_partition_unity():
    made = texture(pixels([picture(0)]))[:, 3:]
    np.testing.assert_allclose(1, made.sum(1), rtol=0, atol=1e-6)
    assert float(made.min()) >= 0


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_every_chroma_belongs_to_the_categories_in_whole(blue, red):
    shares = categories(torch.tensor([blue, red], dtype=torch.float64).reshape(1, 2, 1, 1))
    np.testing.assert_allclose(1, float(shares.sum()), rtol=1e-12)
    assert bool(torch.isfinite(shares).all())


def test_a_pixel_at_a_centre_belongs_there():
    centres = category_centres().double().T.reshape(1, 2, 1, 10)
    shares = categories(centres)[0, :, 0]
    assert list(range(10)) == shares.argmax(0).tolist()
    # Neutral: five neighbours at two widths and four at five; the strong ones are nearly alone.
    np.testing.assert_allclose(
        1 / (1 + 5 * np.exp(-2) + 4 * np.exp(-12.5)), shares[0, 0], rtol=1e-6
    )
    assert float(shares.diagonal()[6:].min()) > 0.98


@given(st.tuples(LEVEL, LEVEL, LEVEL), st.integers(-255, 255))
def test_an_equal_shift_of_red_green_and_blue_moves_luminance_and_nothing_else(rgb, wanted):
    shift = int(np.clip(wanted, -min(rgb), 255 - max(rgb)))
    one, other = (
        torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) / 255
        for values in (rgb, [level + shift for level in rgb])
    )
    before, after = texture(one), texture(other)
    np.testing.assert_allclose(shift / 255, float(after[0, 0] - before[0, 0]), atol=1e-6)
    np.testing.assert_allclose(before[0, 1:], after[0, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "luminance"),
    [((0, 0, 0), 0), ((255, 255, 255), 1), ((255, 0, 0), 0.299), ((0, 255, 0), 0.587)],
)
def test_luminance_of_pure_colours(rgb, luminance):
    made = texture(pixels([flat(rgb)]))
    np.testing.assert_allclose(luminance, made[0, 0].numpy(), atol=1e-6)


def test_greys_have_no_chroma_and_are_neutral():
    made = texture(pixels([flat((90, 90, 90))]))
    np.testing.assert_allclose(0, made[0, 1:3].numpy(), atol=1e-6)
    assert 0 == int(made[0, 3:, 0, 0].argmax())


def test_pixels_are_shares_of_the_full_range_in_order():
    image = picture(1)
    planes = pixels([image, flat((0, 128, 255))])
    assert (2, 3, SIZE, SIZE) == tuple(planes.shape)
    np.testing.assert_allclose(np.asarray(image).transpose(2, 0, 1) / 255, planes[0], atol=1e-7)
    np.testing.assert_allclose([0, 128 / 255, 1], planes[1, :, 5, 7], atol=1e-7)


def test_larger_pictures_are_averaged_by_area():
    fine = np.kron(np.asarray(picture(2)), np.ones((2, 2, 1), dtype=np.uint8))
    assert torch.equal(pixels([picture(2)]), pixels([Image.fromarray(fine)]))


def test_cells_are_means_in_reading_order():
    ramp = torch.arange(SIZE * SIZE, dtype=torch.float64).reshape(1, 1, SIZE, SIZE)
    tiles = ramp[0, 0].numpy().reshape(GRID, CELL, GRID, CELL)
    np.testing.assert_allclose(tiles.mean((1, 3)).ravel(), cells(ramp)[0, :, 0])


def test_blocks_of_a_cell_average_to_the_cell():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((2, 3, SIZE, SIZE)))
    blocks = cells(values, parts=4)
    assert (2, GRID * GRID, 16, 3) == tuple(blocks.shape)
    np.testing.assert_allclose(cells(values), blocks.mean(2), rtol=1e-12)
    corner = values[1, 2, CELL : CELL + 4, 2 * CELL + 4 : 2 * CELL + 8].mean()
    np.testing.assert_allclose(corner, blocks[1, GRID + 2, 1, 2], rtol=1e-12)
