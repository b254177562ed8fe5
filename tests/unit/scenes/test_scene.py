"""Regions know their cells; scenes refuse what cannot be true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arrcoc_verify.errors import BadQuery, BadRegion
from arrcoc_verify.scenes import Region, Scene

IMAGE = Image.new("RGB", (64, 48))


def scene(**changes) -> Scene:
    fields = {
        "image": IMAGE, "query": "find the cat", "target": Region(box=(0, 0, 16, 16), label="cat"),
        "unit": "u", "cluster": "c", "role": "assert", "name": "n",
    }  # fmt: skip
    return Scene(**{**fields, **changes})


def test_a_block_of_whole_cells_is_exactly_those_cells() -> None:
    cells = Region(box=(16, 12, 32, 24)).cells((4, 4), (64, 48)).reshape(4, 4)
    expected = np.zeros((4, 4), dtype=bool)
    expected[1:3, 1:3] = True
    assert np.array_equal(expected, cells)


def test_a_cell_covered_by_exactly_half_counts_and_by_less_does_not() -> None:
    assert [True, True, False, False] == Region(box=(0, 0, 24, 8)).cells((1, 4), (64, 8)).tolist()
    assert [True, False, False, False] == Region(box=(0, 0, 23, 8)).cells((1, 4), (64, 8)).tolist()


def test_a_tiny_region_is_the_one_cell_it_covers_most() -> None:
    cells = Region(box=(30, 30, 1, 1)).cells((4, 4), (64, 64)).reshape(4, 4)
    assert 1 == cells.sum()
    assert cells[1, 1]


def test_a_tiny_region_between_cells_is_one_of_them() -> None:
    assert 1 == Region(box=(31, 31, 2, 2)).cells((2, 2), (64, 64)).sum()


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_coverage_adds_up_to_the_area_of_the_box(rows: int, columns: int, data) -> None:
    x, y = data.draw(st.integers(0, 63)), data.draw(st.integers(0, 47))
    box = (x, y, data.draw(st.integers(1, 64 - x)), data.draw(st.integers(1, 48 - y)))
    covered = Region(box=box).coverage((rows, columns), (64, 48))
    cell_area = 64 * 48 / (rows * columns)
    assert box[2] * box[3] == pytest.approx(covered.sum() * cell_area)
    assert Region(box=box).cells((rows, columns), (64, 48)).any()


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, -2)])
def test_impossible_boxes_are_refused(box) -> None:
    with pytest.raises(BadRegion, match="x,y,w,h"):
        Region(box=box)


def test_a_box_outside_the_image_is_refused_with_its_end() -> None:
    with pytest.raises(BadRegion, match="ends at 70,10: is it x,y,w,h and not x0,y0,x1,y1"):
        scene(target=Region(box=(40, 0, 30, 10)))
    with pytest.raises(BadRegion, match="inside the image of 64x48"):
        scene(distractor=Region(box=(0, 40, 10, 30)), other_query="?")


def test_masks_must_fit_the_image_be_bool_and_show_something() -> None:
    with pytest.raises(BadRegion, match="48 rows and 64 columns"):
        scene(target=Region(box=(0, 0, 5, 5), mask=np.ones((64, 48), dtype=bool)))
    with pytest.raises(BadRegion, match="true pixel"):
        Region(box=(0, 0, 5, 5), mask=np.zeros((48, 64), dtype=bool))


def test_queries_are_needed_for_what_is_there() -> None:
    with pytest.raises(BadQuery, match="target"):
        scene(query="  ")
    with pytest.raises(BadQuery, match="distractor"):
        scene(distractor=Region(box=(20, 20, 8, 8)))


def test_images_become_rgb_and_pixels_are_a_copy() -> None:
    one = scene(image=Image.new("L", (64, 48), 7))
    pixels = one.pixels
    pixels[:] = 0
    assert "RGB" == one.image.mode
    assert (7, 7, 7) == one.image.getpixel((0, 0))


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(BadRegion, match="1x1"):
        Region(box=(0, 0, 5, 5)).cells((0, 4), (64, 48))
