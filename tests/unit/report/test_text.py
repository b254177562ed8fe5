import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from arrcoc_verify.report import text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (41.25, "41.2"),
        (-0.05, "−0.05"),
        (0.999, "0.999"),
        (1312.4, "1\u202f312"),
        (3e-7, "3e−7"),
        (16, "16"),
        (math.nan, "not a number"),
        (-math.inf, "−∞"),
        (None, "–"),
    ],
)
def test_numbers_are_rounded_to_three_digits(value: float | None, said: str) -> None:
    assert said == text.number(value)


def test_only_a_rise_has_a_plus() -> None:
    assert ["+2", "0", "−2"] == [text.signed(value) for value in (2.0, 0.0, -2.0)]


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9))
def test_a_rounded_number_is_near_the_number(value: float) -> None:
    said = text.number(value).replace("\u202f", "").replace("−", "-")
    assert math.isclose(value, float(said), rel_tol=0.06, abs_tol=1e-300)


def test_shares_are_rounded_to_a_tenth_and_levels_never_to_certainty() -> None:
    assert ["31\u202f%", "0.4\u202f%", "0\u202f%"] == [
        text.percent(value) for value in (0.31, 0.0042, -0.0002)
    ]
    assert "99.995\u202f%" == text.level(0.99995)


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    said = text.visible("x" * 1_000_000)
    assert said.startswith("x" * 400 + "…")
    assert "1,000,000 characters" in said


def test_marks_that_turn_text_around_become_visible() -> None:
    assert "a\\u202eb" == text.visible("a\u202eb")
    assert "a\\u0000b" == text.visible("a\0b")
    assert "أين" == text.visible("أين")


def test_what_is_safe_already_is_left_alone() -> None:
    assert Markup("<b>") == text.finalize(Markup("<b>"))
    assert 3 == text.finalize(3)


@given(st.text())
def test_json_for_a_page_has_no_tags(value: str) -> None:
    assert "<" not in text.pretty_json({"key": value})


@given(st.text(min_size=1))
def test_an_anchor_is_plain_and_stays_the_same(name: str) -> None:
    anchor = text.anchor(name)
    assert anchor.isascii()
    assert not set(anchor) & set(" \"'<>&#%")
    assert anchor == text.anchor(name)


def test_a_plain_name_is_its_own_anchor() -> None:
    assert "knowing.query-causes" == text.anchor("knowing.query-causes")


def test_names_beyond_the_first_are_counted() -> None:
    assert "a, b and 2 more" == text.join(["a", "b", "c", "d"], 2)


def test_a_digest_is_shown_by_its_beginning() -> None:
    assert "abcd…" == text.short("sha256:abcdef", 4)
    assert "–" == text.short(None)
