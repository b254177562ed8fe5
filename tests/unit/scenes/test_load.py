"""Folders and tables become scenes; what is bad is named, all of it, and never dropped silently."""

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.errors import BadImage, BadRegion, BadTable, UsageError
from arrcoc_verify.scenes.load import Limits, load, load_csv, load_folder, parse_box

SKIP = Limits(skip_bad=True)


def picture(path, size=(64, 48), seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)


@pytest.fixture
def table(tmp_path):
    """Writes a CSV beside two pictures and gives back its path."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub" / "b.png", seed=1)

    def write(text: str, encoding="utf-8"):
        path = tmp_path / "rows.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_rows_become_natural_scenes(table) -> None:
    found = load_csv(
        table('image,query,box\na.png,find the cat,"8,8,16,16"\nsub/b.png,the dog,"0,0,64,48"\n')
    )
    first, second = found.scenes
    assert ("find the cat", (8, 8, 16, 16), None) == (
        first.query, first.target.box, first.distractor
    )  # fmt: skip
    assert ("a.png", "sub/b.png") == (first.unit, second.unit)
    assert "rows.csv/line 2" == first.name
    assert first.nonsense
    assert first.paraphrase != first.query
    assert () == found.skipped


def test_another_box_of_the_image_is_the_distractor(table) -> None:
    found = load_csv(
        table(
            "image,query,box,label,unit\n"
            'a.png,the cat,"0,0,16,16",cat,visit 1\n'
            'a.png,the dog,"32,0,16,16",dog,visit 1\n'
            'a.png,what is at the left?,"1,1,16,16",,visit 1\n'
        )
    )
    cat, dog, left = found.scenes
    assert ("dog", "the dog") == (cat.distractor.label, cat.other_query)
    assert ("cat", "the cat") == (dog.distractor.label, dog.other_query)
    assert "dog" == left.distractor.label  # the cat's box lies on the same place
    assert {"visit 1"} == {scene.cluster for scene in found.scenes}


def test_spaces_bom_decimals_and_other_scripts_are_fine(table) -> None:
    text = '\ufeffimage , query, box\na.png ,猫はどこですか？," 8.2, 8,15.6,16 "\n'
    (scene,) = load_csv(table(text)).scenes
    assert ("猫はどこですか？", (8, 8, 16, 16)) == (scene.query, scene.target.box)


def test_a_query_of_ten_thousand_words_is_kept(table) -> None:
    words = " ".join(["word"] * 10_000)
    (scene,) = load_csv(table(f'image,query,box\na.png,{words},"0,0,9,9"\n')).scenes
    assert words == scene.query


BAD = (
    "image,query,box\n"
    'a.png,fine,"0,0,9,9"\n'
    'none.png,x,"0,0,9,9"\n'
    'a.png,,"0,0,9,9"\n'
    'a.png,x,"60,0,9,9"\n'
    'a.png,x,"0,0,9"\n'
    "a.png,x,0,0,9,9\n"
    "a.png,x\n"
    '../rows.csv,x,"0,0,9,9"\n'
    'a.png,bell\x07,"0,0,9,9"\n'
)


def test_all_bad_rows_are_named_with_their_lines(table) -> None:
    with pytest.raises(BadTable) as caught:
        load_csv(table(BAD))
    message = str(caught.value)
    assert "8 are not" in message
    for line, words in (
        (3, "found none at"), (4, "at least one word"), (5, "inside the image of 64x48"),
        (6, '"x,y,w,h"'), (7, "quotes around the box"), (8, "quotes around the box"),
        (9, "without leaving it"), (10, "U+0007"),
    ):  # fmt: skip
        (found,) = [text for text in message.splitlines() if f"line {line}:" in text]
        assert words in found


def test_bad_rows_are_skipped_if_asked_and_listed(table) -> None:
    found = load_csv(table(BAD), limits=SKIP)
    assert 1 == len(found.scenes)
    assert [f"line {line}" for line in range(3, 11)] == [one.where for one in found.skipped]


def test_a_link_out_of_the_folder_is_refused(table, tmp_path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    picture(outside)
    (tmp_path / "link.png").symlink_to(outside)
    for name in ("link.png", str(outside)):
        with pytest.raises(BadTable, match="without leaving it"):
            load_csv(table(f'image,query,box\n{name},x,"0,0,9,9"\n'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing image, query, box"),
        ("image,box\n", "missing query"),
        ("image,query,box\n", "at least one row"),
        ("image,query,box,box\na.png,x,1,2\n", "each once"),
        ('image,query,box\na.png,x,"0,0,9,9\n', "is a quote missing"),
    ],
)
def test_tables_without_the_right_form_are_refused(table, text, words) -> None:
    with pytest.raises(BadTable, match=words):
        load_csv(table(text))


def test_a_table_in_another_encoding_or_missing_is_refused(table, tmp_path) -> None:
    with pytest.raises(BadTable, match="save the table as UTF-8"):
        load_csv(table("image,query,box\na.png,käse,\n", encoding="latin-1"))
    with pytest.raises(BadTable, match="cannot read"):
        load_csv(tmp_path / "none.csv")


def test_skipping_everything_is_not_enough(table) -> None:
    with pytest.raises(BadTable, match="usable row"):
        load_csv(table("image,query,box\nnone.png,x,\n"), limits=SKIP)


def test_boxes_shrink_with_their_picture(tmp_path) -> None:
    picture(tmp_path / "big.png", size=(400, 200))
    (tmp_path / "t.csv").write_text('image,query,box\nbig.png,x,"200,100,200,100"\n')
    found = load_csv(tmp_path / "t.csv", limits=Limits(side=100))
    assert (50, 25, 50, 25) == found.scenes[0].target.box
    assert ("big.png: reduced from 400x200 to 100x50",) == found.notes


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "1,2,3,nan", "1,2,3,inf", "1,2,3,4,5"])
def test_boxes_that_are_no_four_numbers_are_refused(text: str) -> None:
    with pytest.raises(BadRegion, match="x,y,w,h"):
        parse_box(text)


def test_a_folder_gives_its_pictures_in_order_and_copies_once(tmp_path) -> None:
    for seed, name in enumerate(["b.png", "a.JPG", "sub/c.png"]):
        picture(tmp_path / name, seed=seed)
    (tmp_path / "copy.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "notes.txt").write_text("not a picture")
    picture(tmp_path / ".hidden.png", seed=9)
    found = load_folder(tmp_path)
    assert ["a.JPG", "b.png", "sub/c.png"] == [layer.id for layer in found.layers]
    assert ("copy.png: the same picture as b.png, counted once",) == found.notes


def test_bad_files_of_a_folder_are_named_or_skipped_if_asked(tmp_path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(BadTable, match=r"bad\.png: wanted a picture"):
        load_folder(tmp_path)
    found = load_folder(tmp_path, limits=SKIP)
    assert ["bad.png"] == [one.where for one in found.skipped]
    assert 1 == len(found.layers)


def test_folders_without_pictures_are_refused(tmp_path) -> None:
    with pytest.raises(BadImage, match="at least one picture"):
        load_folder(tmp_path)
    with pytest.raises(BadImage, match="found none at"):
        load_folder(tmp_path / "none")


def test_a_folder_becomes_composed_scenes_with_its_photographs_as_units(tmp_path) -> None:
    for seed in range(3):
        picture(tmp_path / f"{seed}.png", size=(300, 200), seed=seed)
    made = load(tmp_path, grid=(8, 8), size=64).scenes
    assert {"0.png", "1.png", "2.png"} == {scene.unit for scene in made}
    assert {"assert"} == {scene.role for scene in made}
    assert all(scene.distractor is not None for scene in made)


def test_load_finds_out_what_it_is_given(table, tmp_path) -> None:
    assert 1 == len(load(table('image,query,box\na.png,x,"0,0,9,9"\n')).scenes)
    with pytest.raises(UsageError, match="found nothing"):
        load(tmp_path / "none")
    with pytest.raises(UsageError, match="put photographs into a folder"):
        load(tmp_path / "a.png")
