"""Colour arithmetic against known values, and the headroom it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from arrcoc_verify.scenes.colour import CHROMA, RANGE, TINTS, compress, luma, tint, to_lab

PIXELS = hnp.arrays(np.uint8, (4, 4, 3), elements=st.integers(0, 255))


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # sRGB primaries, D65, as tabulated by Lindbloom
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_the_primaries(rgb, lab) -> None:
    assert lab == pytest.approx(tuple(to_lab(np.array(rgb, dtype=float))), abs=0.02)


@given(PIXELS, st.integers(-100, 100))
def test_equal_shifts_move_luma_by_their_size(pixels, shift) -> None:
    moved = luma(pixels.astype(int) + shift) - luma(pixels)
    assert np.allclose(shift, moved)


@given(PIXELS)
def test_compressed_pictures_have_headroom(pixels) -> None:
    small = compress(pixels)
    light = luma(small)
    assert np.all(np.abs(light - 128) <= RANGE + 1)
    assert np.all(np.abs(small - light[..., None]) <= CHROMA + 1)


def test_compression_keeps_grey_grey_and_order() -> None:
    grey = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    small = compress(grey)
    assert np.array_equal(small[:, 0], small[:, 2])
    assert np.all(np.diff(small[:, 0].astype(int)) >= 0)
    assert (64, 192) == (small.min(), small.max())


@pytest.mark.parametrize("name", sorted(TINTS))
def test_tints_move_grey_into_their_quadrant_and_keep_luma(name: str) -> None:
    grey = np.full((1, 1, 3), 128, dtype=np.uint8)
    coloured = tint(grey, name).astype(float)[0, 0]
    blue, red = TINTS[name]
    light = luma(coloured)
    assert float(light) == pytest.approx(128, abs=1)
    assert np.sign(blue) == np.sign(coloured[2] - light)
    assert np.sign(red) == np.sign(coloured[0] - light)
