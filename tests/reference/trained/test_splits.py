"""What is held out is never trained on: photographs, cut-outs, labels."""

import numpy as np
import pytest

from arrcoc_verify.errors import UsageError
from arrcoc_verify.reference.trained import evaluation, objects, words
from arrcoc_verify.scenes import fixtures


def test_cutouts_have_the_role_of_their_photograph_and_no_file_twice():
    roles = {one.id: one.role for one in fixtures.manifest().photographs}
    things = [t for role in set(roles.values()) for t in objects.photographed(role)]
    ids = [t.id for t in things]

    assert len(ids) == len(set(ids))
    assert {"train"} == {t.role for t in objects.kept()}
    assert {"train"} == {t.role for t in objects.photographed("train")}


def test_held_out_labels_were_not_trained_on():
    told = evaluation.told()

    assert not set(told["trained"]) & set(told["held_out"])
    assert {t.label for t in objects.photographed("train")} <= set(told["trained"])
    assert 50 <= len(told["held_out"])


def test_held_out_scenes_are_on_photographs_of_role_assert_with_the_things_given():
    things = objects.photographed("select")
    held = evaluation.Held(things, seed=3)
    batch = held.draw(12)
    roles = {one.id: one.role for one in fixtures.manifest().photographs}

    assert {"assert"} == {roles[held.units[said.stage]] for said in batch.said}
    assert {said.label for said in batch.said} <= {t.label for t in things}


def test_the_same_seed_draws_the_same_scenes_and_another_one_others():
    things = objects.photographed("select")
    one, same, other = (evaluation.Held(things, seed=s).draw(4) for s in (3, 3, 4))

    assert one.pixels.equal(same.pixels)
    assert one.queries == same.queries
    assert not one.pixels.equal(other.pixels)


def test_a_paraphrase_asks_for_the_same_thing_and_the_other_query_for_another():
    batch = evaluation.Held(objects.photographed("train"), seed=5).draw(24)

    assert all(said.paraphrase != query for said, query in
               zip(batch.said, batch.queries, strict=True))  # fmt: skip
    assert 20 <= sum(said.other != query for said, query in
                     zip(batch.said, batch.queries, strict=True))  # fmt: skip


def test_names_of_emoji_are_things_only():
    assert "sheep" == objects.thing_name("1f411")
    assert "cat" == objects.thing_name("1f431")
    assert objects.thing_name("1f600") is None  # grinning face
    assert objects.thing_name("1f1e6-1f1e7") is None  # a flag
    assert objects.thing_name("no-code") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("spoon", "spoons", True), ("fish", "goldfish", True), ("teacup", "cup", True),
        ("cutting pliers", "pliers", True), ("red panda", "panda", True),
        ("pan", "panda", False), ("cat", "catfish", False), ("screwdriver", "hammer", False),
    ],
)  # fmt: skip
def test_labels_that_may_stand_for_each_other(one, other, same):
    assert words.alike(one, other) is words.alike(other, one) is same


def test_no_scene_shows_two_things_that_one_name_means():
    labels = ("spoon", "spoons", "hammer", "koala", "wrench")
    few = [t for t in objects.photographed("train") if t.label in labels]
    drawn = evaluation.Held(few, seed=5).draw(24)
    asked = [s for s in drawn.said if s.label.startswith("spoon")]

    assert {"spoon", "spoons"} == {s.label for s in asked}
    assert not [s for s in asked if "spoon" in s.other]


def test_nothing_to_put_beside_is_said_and_does_not_hang():
    few = [t for t in objects.photographed("train") if t.label in ("spoon", "spoons")]
    with pytest.raises(UsageError, match="two labels"):
        evaluation.Held(few, seed=5)

    studio = evaluation.Held(objects.photographed("train"), seed=5).studio
    with pytest.raises(UsageError, match="too few labels"):
        studio._another({t.label for t in studio.things}, np.random.default_rng(0))
