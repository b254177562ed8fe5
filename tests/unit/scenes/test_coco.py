"""COCO files become natural scenes with masks; what is malformed is named."""

import json

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.errors import BadTable
from arrcoc_verify.scenes.load import Limits, load, load_coco


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file with one picture of 40x30 pixels; takes annotations."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def write(*annotations: object, **parts: object):
        data = {
            "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": 10 + i, "image_id": 1, "category_id": 1, **one}
                if isinstance(one, dict) else one
                for i, one in enumerate(annotations)
            ],
        }  # fmt: skip
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({**data, **parts}))
        return path

    return write


def test_the_largest_of_each_category_is_a_target_and_others_distract(coco) -> None:
    path = coco(
        {"bbox": [0, 0, 4, 4]}, {"bbox": [1.5, 2.0, 10.2, 8.0]},
        {"bbox": [20, 10, 20, 20], "category_id": 2},
    )  # fmt: skip
    cat, dog = load_coco(path).scenes
    assert ((1, 2, 11, 8), "cat", "dog") == (
        cat.target.box, cat.target.label, cat.distractor.label
    )  # fmt: skip
    assert "cat" in cat.query
    assert "dog" in cat.other_query
    assert "a.png" == dog.unit
    assert load(path).scenes[0].name == cat.name == "coco.json/annotation 11"


def test_polygons_and_run_lengths_become_masks(coco) -> None:
    square = [[2, 2, 9, 2, 9, 9, 2, 9]]
    # Column by column: rows 0 to 4 of the column 3.
    runs = {"counts": [3 * 30, 5, 40 * 30 - 95], "size": [30, 40]}
    first, second = load_coco(
        coco(
            {"bbox": [2, 2, 8, 8], "segmentation": square},
            {"bbox": [3, 0, 1, 5], "segmentation": runs, "category_id": 2},
        )
    ).scenes
    expected = np.zeros((30, 40), dtype=bool)
    expected[2:10, 2:10] = True
    assert np.array_equal(expected, first.target.mask)
    expected[:] = False
    expected[0:5, 3] = True
    assert np.array_equal(expected, second.target.mask)


def test_compressed_run_lengths_leave_the_box(coco) -> None:
    outline = {"counts": "eg]2", "size": [30, 40]}
    (scene,) = load_coco(coco({"bbox": [2, 2, 8, 8], "segmentation": outline})).scenes
    assert scene.target.mask is None


def test_crowds_are_left_out_and_noted(coco) -> None:
    found = load_coco(coco({"bbox": [0, 0, 40, 30], "iscrowd": 1}, {"bbox": [2, 2, 8, 8]}))
    assert (2, 2, 8, 8) == found.scenes[0].target.box
    assert ("1 crowds left out: they are no single objects",) == found.notes


def test_all_bad_annotations_are_named(coco) -> None:
    path = coco(
        {"bbox": [2, 2, 8, 8]},
        {"bbox": [30, 2, 20, 8]},
        {"bbox": [2, 2, 0, 8]},
        {"bbox": [2, 2]},
        {"bbox": [2, 2, 8, 8], "image_id": 7},
        {"bbox": [2, 2, 8, 8], "category_id": [9]},
        "text",
        {"bbox": [2, 2, 8, 8], "category_id": 2, "segmentation": [[1, 2, 3]]},
    )
    with pytest.raises(BadTable) as caught:
        load_coco(path)
    message = str(caught.value)
    assert "7 are not" in message
    for name, words in (
        (11, "inside 40x30"), (12, "above 0"), (13, "four numbers"), (14, "image_id 7"),
        (15, "category"), ("number 6", "object with"), (17, "polygon of 3"),
    ):  # fmt: skip
        (found,) = [text for text in message.splitlines() if f"annotation {name}:" in text]
        assert words in found
    found = load_coco(path, limits=Limits(skip_bad=True))
    assert (1, 7) == (len(found.scenes), len(found.skipped))


def test_images_of_another_size_or_place_are_refused(coco) -> None:
    image = {"id": 1, "file_name": "a.png", "width": 80, "height": 60}
    with pytest.raises(BadTable, match="do not belong together"):
        load_coco(coco({"bbox": [0, 0, 9, 9]}, images=[image]))
    image = {"id": 1, "file_name": "../a.png", "width": 40, "height": 30}
    with pytest.raises(BadTable, match="without leaving it"):
        load_coco(coco({"bbox": [0, 0, 9, 9]}, images=[image]))


def test_images_may_lie_in_another_folder(coco, tmp_path) -> None:
    path = coco({"bbox": [0, 0, 9, 9]})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    assert 1 == len(load_coco(path, tmp_path / "elsewhere").scenes)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not valid json"), ("[]", "has no images"), ('{"images": []}', "annotations")],
)
def test_other_json_is_refused(tmp_path, text, words) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadTable, match=words):
        load_coco(tmp_path / "c.json")
