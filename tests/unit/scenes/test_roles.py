"""Roles follow from the files alone."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arrcoc_verify.scenes import fixtures, roles


def test_the_manifest_is_what_the_command_makes(capsys) -> None:
    assert 0 == roles.main(["--check"])
    assert "as kept" in capsys.readouterr().out


def test_check_fails_on_a_manifest_that_was_edited_by_hand(tmp_path, monkeypatch) -> None:
    data = json.loads((fixtures.folder() / "manifest.json").read_text(encoding="utf-8"))
    for part in ("photos", "cutouts"):
        (tmp_path / part).symlink_to(fixtures.folder() / part)
    data["photographs"][0]["role"] = "donor"
    data["photographs"][1]["role"] = "donor"
    roles.write(data, tmp_path / "manifest.json")
    monkeypatch.setattr(roles, "folder", lambda: tmp_path)
    assert 1 == roles.main(["--check"])
    assert 0 == roles.main([])
    kept = fixtures.folder() / "manifest.json"
    assert kept.read_bytes() == (tmp_path / "manifest.json").read_bytes()


def test_a_resized_and_reencoded_picture_is_a_near_duplicate(tmp_path) -> None:
    first, other = fixtures.photograph("p001"), fixtures.photograph("p002")
    first.resize((200, 150)).save(tmp_path / "a.jpg", quality=60)
    assert [(0, 1)] == roles.near_duplicates([first, Image.open(tmp_path / "a.jpg"), other])


def test_the_mean_colour_leaves_out_what_is_transparent() -> None:
    image = Image.new("RGBA", (4, 2), (200, 100, 50, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 2))
    assert (200, 100, 50) == roles.mean_colour(image)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_joining_is_a_perfect_matching(half: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    colours = generator.uniform(0, 100, (2 * half, 3))
    pairs = roles.join(colours, [f"kind {i}" for i in range(2 * half)])
    assert list(range(2 * half)) == sorted(i for pair in pairs for i in pair)


def test_joining_keeps_kinds_apart_and_colours_different() -> None:
    colours = np.array([[50.0, 0, 0], [50, 60, 0], [50, 0, 0], [50, 60, 0]])
    pairs = roles.join(colours, ["fish", "fish", "hammer", "hammer"])
    assert {frozenset((0, 3)), frozenset((1, 2))} == {frozenset(pair) for pair in pairs}


@pytest.mark.parametrize(("label", "kind"), [("goldfish", "fish"), ("crab", "crab")])
def test_labels_have_kinds(label: str, kind: str) -> None:
    assert kind == roles.kind_of(label)
