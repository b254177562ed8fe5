"""What queries mean to the analytic model."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.reference import lexicon
from arrcoc_verify.reference.lexicon import BROAD, COLOURS, ODD, meaning, table, words
from arrcoc_verify.scenes import fixtures, scenes

KNOWN = {
    "fish": (0.0,) * 7 + (1.0, 0.0, 0.0),
    "red panda": (0.25, 0.75) + (0.0,) * 8,
    "glass": (1.0,) + (0.0,) * 9,
    "cat": (0.0, 1.0) + (0.0,) * 8,
}
NOTHING = [0.0] * 12


def said(query):
    return meaning(query, KNOWN).tolist()


def only(index):
    return [float(index == one) for one in range(12)]


def test_known_limits_a_label_inside_another_is_heard_too_and_es_is_no_plural():
    both = {**KNOWN, "panda": (0.0, 0.0, 1.0) + (0.0,) * 7}
    expected = np.sqrt([0.125, 0.375, 0.5, *[0] * 9])
    np.testing.assert_allclose(expected, meaning("the red panda", both))
    assert NOTHING == said("fishes")


@pytest.mark.parametrize(("index", "colour"), list(enumerate(COLOURS)))
def test_a_colour_word_means_its_category(index, colour):
    assert only(6 + index) == said(f"where is the {colour} thing?")


def test_a_colour_word_beats_the_label():
    assert only(6) == said("the purple fish")


def test_two_colours_share_alike():
    expected = np.sqrt([0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0.5, 0, 0])
    np.testing.assert_allclose(expected, said("the blue or purple one"))


def test_a_colour_inside_a_word_is_none():
    assert NOTHING == said("greenhouse bluebell")


def test_a_label_means_the_roots_of_its_shares():
    np.testing.assert_allclose([0.5, 0.75**0.5, *[0] * 10], said("find the red panda"))


def test_two_labels_mean_the_mean_of_their_shares():
    expected = np.sqrt([0, 0.5, 0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0])
    np.testing.assert_allclose(expected, said("is the cat near the fish?"))


def test_a_label_inside_a_word_is_none():
    assert NOTHING == said("catalogue of fishery, bobcat, starfish")


def test_a_label_of_two_words_needs_both_side_by_side():
    assert NOTHING == said("a panda that is red")


@pytest.mark.parametrize("query", ["cats", "the CATS!", "Cat's", "cat,", "¿cat?"])
def test_plural_case_and_punctuation_do_not_matter(query):
    assert only(1) == said(query)


def test_a_word_that_ends_in_double_s_is_no_plural():
    assert only(0) == said("the glass")
    assert NOTHING == meaning("a bas", {"bass": KNOWN["cat"]}).tolist()


def test_wording_does_not_matter():
    for scene in scenes("select", per_cluster=1):
        assert meaning(scene.query).tolist() == meaning(scene.paraphrase).tolist()


def test_the_two_objects_of_a_scene_are_told_apart():
    for scene in scenes("select", per_cluster=1):
        assert 0 == float(meaning(scene.query) @ meaning(scene.other_query))


@pytest.mark.parametrize(
    "query",
    ["猫はどこですか", "где кошка", "أين القطة", "गाय", "🐟", "42", "...", " ", "a", "fishx"],
)
def test_what_the_model_cannot_read_means_nothing(query):
    assert NOTHING == said(query)


def test_known_words_among_another_script_are_still_read():
    assert only(1) == said("どこに cat がいますか")


@pytest.mark.parametrize("word", sorted(BROAD))
def test_a_broad_word_is_heard(word):
    assert only(10) == said(f"describe {word}")


@pytest.mark.parametrize("word", sorted(ODD))
def test_an_odd_word_is_heard(word):
    assert only(11) == said(f"see {word} here")


def test_nonsense_and_absent_objects_mean_nothing_in_the_fixtures():
    for scene in scenes("select", per_cluster=1):
        assert NOTHING == meaning(scene.nonsense).tolist()
        assert NOTHING == meaning(scene.absent_query).tolist()


def test_words_are_letters_of_any_script():
    assert ["où", "est", "le", "chat", "猫", "ﬁsh"] == words("Où est le chat_2 猫? ﬁsh")


@given(st.text(max_size=60))
def test_any_text_has_a_meaning_of_length_one_or_zero(query):
    found = meaning(query).numpy()
    assert np.isfinite(found).all()
    assert min(abs(np.linalg.norm(found[:10]) - wanted) for wanted in (0, 1)) < 1e-4
    assert set(found[10:]) <= {0.0, 1.0}


def test_the_table_has_shares_that_add_up_for_every_label():
    labels = {one.label for one in fixtures.manifest().cutouts}
    assert labels == set(table())
    for shares in table().values():
        assert 10 == len(shares)
        assert min(shares) >= 0
        np.testing.assert_allclose(1, sum(shares), atol=1e-5)


def test_the_kept_table_is_what_the_cutouts_give():
    kept = json.loads((fixtures.folder() / lexicon.TABLE).read_text(encoding="utf-8"))
    made = lexicon.measure()
    assert list(made) == list(kept)
    for label, shares in made.items():  # another processor may round the sixth decimal otherwise
        np.testing.assert_allclose(kept[label], shares, rtol=0, atol=2e-6)
