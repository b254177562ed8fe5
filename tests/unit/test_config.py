"""Settings from several places become one, and nothing unknown or impossible gets in."""

import pytest

from arrcoc_verify.config import Config, Layer, from_pyproject, settle
from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.verdict import Waiver

WAIVER = {"claim": "a.b", "reason": "known", "author": "A. Nonymous", "expires": "2999-01-01"}


def layer(**values):
    return Layer(name="a test", values=values)


def test_nothing_set_is_the_default():
    assert Config() == settle()


def test_later_layers_win_and_where_a_value_came_from_is_kept():
    first = Layer(name="first", values={"seed": 1, "alpha": 0.05})
    second = Layer(name="second", values={"seed": 2, "alpha": None})

    settled = settle(first, second)

    assert (2, 0.05) == (settled.seed, settled.alpha)
    assert {"seed": "second", "alpha": "first"} == settled.origin


def test_text_is_read_as_what_the_key_holds():
    settled = settle(layer(seed="3", alpha="0.05", claims="a.*, b.*", skip_bad_rows="true"))

    assert (3, 0.05, ("a.*", "b.*"), True) == (
        settled.seed, settled.alpha, settled.claims, settled.skip_bad_rows
    )  # fmt: skip


def test_an_unknown_key_suggests_the_nearest():
    with pytest.raises(UnknownName, match="unknown key of a test 'sed': did you mean 'seed'"):
        settle(layer(sed=1))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"seed": -1}, "a whole number of at least 0"),
        ({"seed": 1.5}, "a whole number of at least 0"),
        ({"seed": True}, "a number"),
        ({"seed": "inf"}, "a whole number"),
        ({"alpha": 0}, "a number between 0 and 1"),
        ({"alpha": "nan"}, "a number between 0 and 1"),
        ({"per_cluster": 0}, "a whole number of at least 1"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"inconclusive": ["skip"]}, "fail or skip"),
        ({"claims": []}, "at least one pattern"),
        ({"claims": [1]}, "patterns of claim ids"),
        ({"model": ""}, "text"),
        ({"model": 3}, "text"),
        ({"skip_bad_rows": "perhaps"}, "true or false"),
        ({"skip_bad_rows": []}, "true or false"),
        ({"waivers": "all"}, "tables"),
        ({"waivers": ["all"]}, "tables"),
    ],
)
def test_a_wrong_value_says_what_was_wanted(values, wanted):
    [key] = values
    with pytest.raises(BadConfig, match=f"{key} in a test: wanted .*{wanted}"):
        settle(layer(**values))


def test_a_waiver_is_whole_or_refused():
    assert (Waiver(**WAIVER),) == settle(layer(waivers=[WAIVER])).waivers
    with pytest.raises(BadConfig, match="lacks author"):
        settle(layer(waivers=[{**WAIVER, "author": ""}]))
    with pytest.raises(BadConfig, match="wanted a date such as"):
        settle(layer(waivers=[{**WAIVER, "expires": "soon"}]))
    with pytest.raises(UnknownName, match="did you mean 'reason'"):
        settle(layer(waivers=[{**WAIVER, "reasn": "x"}]))


def test_paths_in_pyproject_start_from_its_folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.arrcoc_verify]\nmodel = "my/router.toml"\nimages = "pictures"\nprofile = "p.toml"\n'
    )
    (tmp_path / "deep").mkdir()

    settled = settle(from_pyproject(tmp_path / "deep"))

    assert str(tmp_path / "my/router.toml") == settled.model
    assert tmp_path / "pictures" == settled.images
    assert str(tmp_path / "p.toml") == settled.profile


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("reference:analytic", "reference:analytic"),
        ("package.module:factory", "package.module:factory"),
        ("code/router.py:model", "{folder}/code/router.py:model"),
        ("arrcoc01:ARR_COC", "arrcoc01:{folder}/ARR_COC"),
    ],
)
def test_a_model_s_file_is_named_from_there_and_a_module_is_not(tmp_path, spec, names):
    settled = settle(Layer(name="x", values={"model": spec}, folder=tmp_path))

    assert names.format(folder=tmp_path) == settled.model


def test_the_nearest_pyproject_counts_even_without_a_table(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.arrcoc_verify]\nseed = 1\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "pyproject.toml").write_text("[project]\nname = 'x'\n")

    assert {} == from_pyproject(tmp_path / "inner").values


@pytest.mark.parametrize("text", ["[tool", "[tool]\narrcoc_verify = 3\n"])
def test_a_pyproject_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(BadConfig, match="pyproject"):
        from_pyproject(tmp_path)
