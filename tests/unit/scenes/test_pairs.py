"""Contrast pairs differ in one factor; controls differ in the words only."""

import dataclasses

import numpy as np
import pytest

from arrcoc_verify.errors import BadQuery, UnknownName
from arrcoc_verify.scenes import scenes
from arrcoc_verify.scenes.isolation import isolate_pairs
from arrcoc_verify.scenes.pairs import (
    KINDS,
    contrast_pairs,
    doses,
    information_pair,
    query_pair,
    salience_pair,
)  # fmt: skip

MADE = scenes("select", per_cluster=1)


@pytest.mark.parametrize("kind", ["query", "paraphrase", "nonsense", "absent"])
def test_query_pairs_share_every_pixel_and_differ_in_words(kind: str) -> None:
    pair = query_pair(MADE[0], kind)
    assert pair.high.image is pair.low.image
    assert pair.high.query != pair.low.query
    assert pair.high.target is pair.low.target


@pytest.mark.parametrize("make", [information_pair, salience_pair])
def test_picture_pairs_share_the_words_and_differ_in_pixels(make) -> None:
    pair = make(MADE[0])
    assert pair.high.query == pair.low.query
    assert not np.array_equal(pair.high.pixels, pair.low.pixels)


def test_all_kinds_are_made_in_their_order() -> None:
    assert list(KINDS) == [pair.kind for pair in contrast_pairs(MADE[0])]
    assert ["query"] == [pair.kind for pair in contrast_pairs(MADE[0], kinds=["query"])]


def test_kinds_without_words_are_left_out_or_refused_by_name() -> None:
    alone = dataclasses.replace(MADE[0], distractor=None, other_query=None)
    assert "query" not in [pair.kind for pair in contrast_pairs(alone)]
    with pytest.raises(BadQuery, match="has none"):
        query_pair(alone)


def test_unknown_kinds_and_factors_are_refused() -> None:
    with pytest.raises(UnknownName, match="paraphrase"):
        query_pair(MADE[0], "paraphrased")
    with pytest.raises(UnknownName, match="salience"):
        contrast_pairs(MADE[0], kinds=["saliense"])
    with pytest.raises(UnknownName, match="information"):
        doses(MADE[0], "informations", [0.0])


def test_pairs_pass_isolation_and_broken_ones_do_not() -> None:
    pairs = [pair for scene in MADE for pair in contrast_pairs(scene)]
    kept, dropped, rows = isolate_pairs(pairs)
    assert [] == dropped
    assert pairs == kept
    assert {"information", "salience", "query"} == {row.factor for row in rows}
    mixed = dataclasses.replace(pairs[0], low=salience_pair(MADE[0]).low)
    still = dataclasses.replace(pairs[1], low=pairs[1].high)
    kept, dropped, _ = isolate_pairs([mixed, still])
    assert [] == kept
    assert ["information", "salience"] == [one.factor for one in dropped]


@pytest.mark.parametrize("factor", ["information", "salience"])
def test_doses_are_edits_of_one_scene(factor: str) -> None:
    three = doses(MADE[0], factor, [0.0, 0.5, 1.0])
    pictures = {scene.pixels.tobytes() for scene in three}
    assert 3 == len(pictures)
