"""Words of queries: every kind says what it should, and bad ones are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.errors import BadQuery
from arrcoc_verify.scenes import fixtures, queries


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
def test_empty_queries_are_refused(query: str) -> None:
    with pytest.raises(BadQuery, match="at least one word"):
        queries.check_query(query)


def test_control_characters_are_refused_with_their_place() -> None:
    with pytest.raises(BadQuery, match=r"U\+0007 at position 4"):
        queries.check_query("find\x07 it")
    with pytest.raises(BadQuery, match=r"U\+D800"):
        queries.check_query("lone \ud800")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(BadQuery, match="got int"):
        queries.check_query(3)


@pytest.mark.parametrize("script", sorted(queries.SCRIPTS))
def test_other_scripts_are_fine(script: str) -> None:
    query = queries.in_script("hammer", script)
    assert query == queries.check_query(query)
    assert "hammer" in query


def test_ten_thousand_words_are_fine_and_kept() -> None:
    query = queries.pad("find the hammer", 10_000)
    assert 10_000 == len(queries.check_query(query).split())
    assert query.startswith("find the hammer ")


def test_padding_shortens_nothing() -> None:
    assert "a b c" == queries.pad("a b c", 2)


@given(st.text(st.characters(whitelist_categories=("L", "N")), min_size=1), st.integers(0, 99))
def test_nonsense_has_as_many_words_and_none_of_them(label: str, seed: int) -> None:
    query = queries.ask(label, seed)
    made = queries.nonsense(query, np.random.default_rng(seed))
    assert len(query.split()) == len(made.split())
    assert "where" not in made.split()


def test_paraphrases_use_other_words() -> None:
    labels = {one.label for one in fixtures.manifest().cutouts}
    for label in labels:
        for template in range(len(queries.TEMPLATES)):
            assert queries.ask(label, template) != queries.paraphrase(label, template)


def test_absent_objects_are_in_no_photograph() -> None:
    labels = {one.label.lower() for one in fixtures.manifest().photographs}
    assert not labels & set(queries.ABSENT)


def test_the_seed_decides() -> None:
    kinds = (queries.unspecific, queries.anomaly, queries.ask_absent)
    for kind in kinds:
        one, same = (kind(np.random.default_rng(5)) for _ in range(2))
        assert one == same
    assert "hammer" in queries.ask_attribute("hammer", np.random.default_rng(0))
