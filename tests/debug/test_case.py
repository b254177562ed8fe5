"""Goals, regions and masks: what is wanted, and errors that say what came."""

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc_verify.debug.bench import donor_scenes, make_donors
from arrcoc_verify.debug.case import (
    Goal,
    make_case,
    most_for,
    parse_goal,
    read_mask,
    region_cells,
    require_reachable,
)
from arrcoc_verify.errors import BadConfig, BadRegion
from arrcoc_verify.scenes.scene import Region


@pytest.fixture
def grey():
    return Image.new("RGB", (64, 64), (128, 128, 128))


@pytest.mark.parametrize(
    ("text", "tokens", "sign"),
    [(">=256", 256, 1), ("<=100", 100, -1), (" 200 ", 200, 1), ("≥ 1.5", 1.5, 1)],
)
def test_a_goal_is_read_with_its_sign(text, tokens, sign):
    found = parse_goal(text)

    assert (tokens, sign) == (found.tokens, found.sign)


@pytest.mark.parametrize("text", ["", "many", ">>3", "=>3", "-4"])
def test_a_goal_that_says_nothing_is_refused(text):
    with pytest.raises(BadConfig, match="put it into quotes"):
        parse_goal(text)


def test_at_most_is_met_below_and_at_least_above():
    tokens = torch.tensor([99.0, 100.0, 101.0])

    assert [False, True, True] == Goal(tokens=100).met(tokens).tolist()
    assert [True, True, False] == Goal(tokens=100, sign=-1).met(tokens).tolist()


def test_a_mask_covers_the_cells_that_it_fills_by_half():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, :6] = True  # the first cell of a 2 x 2 grid whole, the second by half
    region = Region(box=(0, 0, 6, 4), mask=mask)

    assert [True, True, False, False] == region_cells(region, (2, 2), (8, 8)).tolist()


def test_a_mask_that_fills_no_cell_is_the_cell_that_it_fills_most():
    mask = np.zeros((8, 8), dtype=bool)
    mask[6, 6] = True
    region = Region(box=(6, 6, 1, 1), mask=mask)

    assert [False, False, False, True] == region_cells(region, (2, 2), (8, 8)).tolist()


def test_a_region_scales_with_the_picture(sound, grey):
    case = make_case(sound, grey, "find it", "32,0,32,32")

    assert (128, 0, 128, 128) == case.box
    assert 64 == int(case.cells.sum())


def test_a_region_outside_the_picture_is_refused(sound, grey):
    with pytest.raises(BadRegion, match="inside the image of 64x64"):
        make_case(sound, grey, "find it", "32,0,64,32")


def test_without_a_region_it_says_how_to_give_one(sound, grey):
    with pytest.raises(BadRegion, match="--region x,y,w,h, --mask PNG or --label face"):
        make_case(sound, grey, "find it")


def test_nothing_of_the_label_is_said_plainly(sound, grey):
    with pytest.raises(BadRegion, match="no face was found in picture"):
        make_case(sound, grey, "find it", label="face")


def test_a_label_that_nobody_can_find_is_refused(sound, grey):
    with pytest.raises(BadRegion, match="wanted --label face, or --labels FOLDER"):
        make_case(sound, grey, "find it", label="zebra")


def test_a_mask_of_another_size_is_refused(sound, grey):
    with pytest.raises(BadRegion, match="wanted a mask as large as the picture, 64x64, got 3x2"):
        make_case(sound, grey, "find it", mask=np.ones((2, 3), dtype=bool))


def test_region_and_mask_together_are_refused(sound, grey):
    with pytest.raises(BadRegion, match="got both"):
        make_case(sound, grey, "find it", "0,0,9,9", mask=np.ones((64, 64), dtype=bool))


def test_a_box_is_compared_with_boxes(sound, grey, donors):
    masked = np.zeros((64, 64), dtype=bool)
    masked[:8, :8] = True
    found = donor_scenes(sound)[:4]
    boxes = make_donors(sound, found, boxed=True)
    wanted = [region_cells(Region(box=s.target.box), (16, 16), s.image.size) for s in found]

    assert make_case(sound, grey, "find it", "0,0,8,8").boxed
    assert not make_case(sound, grey, "find it", mask=masked).boxed
    assert torch.equal(torch.stack(wanted), boxes.cells)
    assert bool((boxes.cells | ~donors.cells[:4]).all())
    assert bool((boxes.cells & ~donors.cells[:4]).any())


def test_a_mask_with_alpha_is_what_is_opaque(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)  # black throughout
    pixels[1, 2, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "mask.png")
    light = np.full((4, 4), 255, dtype=np.uint8)
    light[0] = 0
    Image.fromarray(light).convert("RGBA").save(tmp_path / "light.png")

    assert [(1, 2)] == [tuple(at) for at in np.argwhere(read_mask(tmp_path / "mask.png"))]
    assert np.array_equal(light > 0, read_mask(tmp_path / "light.png"))


def test_a_region_that_the_whole_budget_cannot_serve_is_refused(sound, grey):
    declared = sound.declaration
    low, high = declared.lod
    whole = make_case(sound, grey, "find it", "0,0,64,64")
    small = make_case(sound, grey, "find it", "0,0,8,8")
    mean = declared.total / declared.patches

    assert most_for(sound, whole) == pytest.approx(mean)
    assert most_for(sound, small) == high
    require_reachable(Goal(tokens=high), sound, small)
    require_reachable(Goal(tokens=low, sign=-1), sound, whole)
    with pytest.raises(BadConfig, match="256 of 256 patches"):
        require_reachable(Goal(tokens=mean + 1), sound, whole)
