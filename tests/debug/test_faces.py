"""The face detector on photographs whose faces are known."""

import json

import pytest
from PIL import Image

from arrcoc_verify.debug import faces
from arrcoc_verify.errors import BadModel
from arrcoc_verify.scenes import fixtures


@pytest.fixture(scope="module")
def astronaut():
    with Image.open(fixtures.folder() / "faces" / "astronaut.webp") as image:
        return image.convert("RGB")


def test_the_astronaut_has_one_face_where_it_is(astronaut):
    (face,) = faces.find_faces(astronaut)

    x, y, wide, high = face.box
    assert face.probability > 0.99
    # In the whole photograph the box is 181, 62 to 268, 172; the crop begins at 64, 0.
    corners = zip((x, y, x + wide, y + high), (117, 62, 204, 172), strict=True)
    assert all(abs(a - b) <= 6 for a, b in corners)


def test_a_face_moves_with_the_picture(astronaut):
    wider = Image.new("RGB", (astronaut.width + 100, astronaut.height + 40), (90, 90, 90))
    wider.paste(astronaut, (100, 40))
    (here,), (there,) = faces.find_faces(astronaut), faces.find_faces(wider)

    assert abs(there.box[0] - here.box[0] - 100) <= 6
    assert abs(there.box[1] - here.box[1] - 40) <= 6


def test_two_faces_come_largest_first(astronaut):
    both = Image.new("RGB", (768, 384), (90, 90, 90))
    both.paste(astronaut.resize((256, 256)), (0, 0))
    both.paste(astronaut, (384, 0))
    found = faces.find_faces(both)

    assert 2 == len(found)
    assert found[0].box[0] > 384 > found[1].box[0]


@pytest.mark.parametrize("name", ["p001", "p005", "p010", "p040"])
def test_photographs_without_people_have_none(name):
    assert [] == faces.find_faces(fixtures.photograph(name))


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (64, 64)])
def test_plain_pictures_of_any_size_have_none(size):
    assert [] == faces.find_faces(Image.new("RGB", size, (200, 150, 120)))


def test_every_file_has_its_digest_and_where_it_came_from():
    folder = fixtures.folder() / "faces"
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]

    assert all({"sha256", "author", "source", "licence"} <= set(one) for one in listed.values())
    assert (folder / "NOTICE.mtcnn.txt").read_text(encoding="utf-8").startswith("MIT License")


def test_other_weights_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    folder.mkdir()
    content = (fixtures.folder() / "faces" / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content)
    (folder / "mtcnn.safetensors").write_bytes(b"other")
    monkeypatch.setattr(fixtures, "folder", lambda: tmp_path)
    faces._networks.cache_clear()
    try:
        with pytest.raises(BadModel, match="not those of the manifest"):
            faces.find_faces(Image.new("RGB", (64, 64)))
    finally:
        faces._networks.cache_clear()
