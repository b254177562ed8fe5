"""The published parts, by a double: found wherever they are defined, wired as published."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arrcoc_verify.adapters import load
from arrcoc_verify.adapters.arrcoc01 import PARTS, Settings, embed, find, published
from arrcoc_verify.adapters.pictures import QUERIES, pictures
from arrcoc_verify.errors import BadModel
from arrcoc_verify.graph import Edit, run

DOUBLE = Path(__file__).parent / "arrcoc01_double"
SMALL = Settings(query_dim=24, hidden_dim=16, keep=50)
IMAGES, ASKED = pictures(2, (128, 128)), list(QUERIES[:2])


@pytest.fixture(autouse=True)
def clean_modules():
    """Forget packages that a test loaded, so that each loads its own folder."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("arrcoc01_double", "copied", "_arrcoc01")):
            del sys.modules[name]


@pytest.fixture
def copied(tmp_path):
    """A copy of the double that a test may spoil."""
    return Path(shutil.copytree(DOUBLE, tmp_path / "copied"))


@pytest.fixture(scope="module")
def model():
    return published(DOUBLE, SMALL)


@pytest.fixture(scope="module")
def found(model):
    return run(model, IMAGES, ASKED, read=list(model.sites))


def test_the_folder_can_be_named_like_any_model():
    made = load(f"arrcoc01:{DOUBLE}")
    assert ("arrcoc01", "keep_mask", None) == (
        made.adapter, made.declaration.budget_kind, made.declaration.lod,
    )  # fmt: skip
    assert 1024 == made.declaration.patches


def test_what_the_published_model_lacks_is_declared(model):
    assert not model.declaration.batch_invariant
    assert 1 == model.declaration.batch_size
    said = " ".join(model.declaration.lacks)
    for word in ("level of detail", "batch invariance", "tensions", "language model", "training"):
        assert word in said


def test_the_package_whose_init_needs_a_language_model_is_loaded_without_it():
    parts = find(DOUBLE)
    assert set(PARTS) == set(parts)
    assert not hasattr(sys.modules["arrcoc01_double"], "Wrapper")


def test_an_init_that_works_is_run(copied):
    (copied / "__init__.py").write_text("MARK = 'ran'\n")
    find(copied)
    assert sys.modules["copied"].MARK == "ran"


def test_parts_are_found_in_whichever_file_defines_them(copied):
    (copied / "knowing.py").rename(copied / "ways_of_knowing.py")
    assert "copied.ways_of_knowing" == find(copied)["information_score"].__module__


def test_a_folder_named_like_another_package_gets_a_name_of_its_own(copied):
    other = copied.rename(copied.parent / "json")
    assert find(other)["TokenAllocator"].__module__.startswith("_arrcoc01_")
    assert "dumps" in vars(sys.modules["json"])


def test_a_part_that_is_missing_is_named(copied):
    (copied / "attending.py").unlink()
    with pytest.raises(BadModel, match="defines TokenAllocator; wanted the folder that holds"):
        find(copied)


def test_a_file_that_cannot_be_imported_is_told(copied):
    (copied / "texture.py").write_text("import a_library_nobody_has\n"
                                       "def generate_texture_array(image): ...\n")  # fmt: skip
    with pytest.raises(BadModel, match=r"cannot be imported.*a_library_nobody_has"):
        find(copied)


def test_a_part_of_another_interface_is_told(copied):
    text = (copied / "balancing.py").read_text()
    (copied / "balancing.py").write_text(text.replace("image_size: tuple = (32, 32)", "depth_map"))
    made = published(copied, SMALL)
    with pytest.raises(BadModel, match=r"wants 'depth_map', which ARR-COC 0.1 does not have"):
        run(made, IMAGES[:1], ASKED[:1])


def test_the_weights_are_those_that_the_predictor_applies(found):
    weights = found["balancing.weights"]
    assert torch.allclose(torch.ones(2), weights.sum(1))
    scores = [
        found.role(role).flatten(1) for role in ("information", "salience", "query_relevance")
    ]
    mixed = (weights[:, :, None] * torch.stack(scores, 1)).sum(1)
    low, high = mixed.amin(1, keepdim=True), mixed.amax(1, keepdim=True)
    assert torch.allclose((mixed - low) / (high - low), found.role("relevance"), atol=1e-6)


def test_the_reported_tensions_are_the_placeholders(model, found):
    assert 0.5 * torch.ones(2, 3) == pytest.approx(found.role("reported_tensions"))
    assert not model.role("reported_tensions").writable
    assert model.role("tensions") is None


def test_the_most_relevant_patches_are_kept(found):
    kept = found.allocation.membership
    assert [50, 50] == kept.sum(1).tolist()
    relevance = found.allocation.relevance
    assert (
        relevance.masked_fill(~kept, 2).amin(1) >= relevance.masked_fill(kept, -1).amax(1)
    ).all()


def test_scorers_that_are_functions_can_be_written(model, found):
    edit = Edit(site="knowing.salience", write=torch.zeros_like)
    moved = run(model, IMAGES, ASKED, edits=[edit]).allocation
    assert not torch.equal(found.allocation.relevance, moved.relevance)
    assert find(DOUBLE)["perspectival_score"].__name__ == "perspectival_score"


def test_initial_weights_follow_the_seed_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    one, same, other = (
        published(DOUBLE, Settings(query_dim=24, hidden_dim=16, seed=seed)).digest
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other
    assert torch.equal(state, torch.get_rng_state())


def test_named_weights_are_loaded(tmp_path, model):
    held = {f"scorer.{k}": v + 1 for k, v in model.modules[0].state_dict().items()}
    held |= {f"balancer.{k}": v + 1 for k, v in model.modules[1].state_dict().items()}
    save_file(held, tmp_path / "trained.safetensors")
    chosen = Settings(
        query_dim=24, hidden_dim=16, keep=50, weights=tmp_path / "trained.safetensors"
    )
    made = published(DOUBLE, chosen)
    assert torch.equal(held["scorer.texture_proj.0.bias"], made.modules[0].texture_proj[0].bias)
    assert not any("training" in word for word in made.declaration.lacks)
    with pytest.raises(BadModel, match="does not fit"):
        published(DOUBLE, Settings(weights=tmp_path / "trained.safetensors"))


def test_the_query_embedding_is_the_mean_of_its_words_whatever_their_case():
    one, two = embed(["red"], 64), embed(["boat"], 64)
    assert torch.allclose((one + two) / 2, embed(["Red  boat"], 64))
    assert torch.equal(embed(["boat red"], 8), embed(["boat red", "x"], 8)[:1])
    assert 0.8 < float(embed(["word"], 4096).std()) < 1.2
