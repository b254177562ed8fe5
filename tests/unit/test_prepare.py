"""A model is made ready as the user asked, or refused with what to do."""

import pytest

from arrcoc_verify.errors import BadConfig, UnknownName, UsageError
from arrcoc_verify.model import ClaimProfile
from arrcoc_verify.prepare import on_device, with_profile
from arrcoc_verify.reference import analytic


def test_no_profile_keeps_the_model_s_own():
    model = analytic.model()

    assert model is with_profile(model, None)


def test_the_default_profile_and_one_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('salience_query_free = false\n[margins]\n"a.b" = 2\n')

    assert ClaimProfile() == with_profile(analytic.model(), "default").profile
    made = with_profile(analytic.model(), str(path)).profile
    assert ("mine", {"a.b": 2}, False) == (made.name, made.margins, made.salience_query_free)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[margin]", UnknownName, "did you mean 'margins'"),
        ("margins = 3", BadConfig, "margins in the profile .*: wanted a table, got 3"),
        ("[margins]\na = 'b'", BadConfig, "margins of a in .*: wanted a number, got 'b'"),
        ("[excluded]\na = 1", BadConfig, "excluded of a in .*: wanted text, got 1"),
        ("[margins", BadConfig, "is not TOML"),
    ],
)
def test_a_profile_that_cannot_be_read_says_why(tmp_path, text, kind, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(kind, match=message):
        with_profile(analytic.model(), str(path))


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert on_device(analytic.model(), "cpu")
    with pytest.raises(UsageError, match="this machine has none: use --device cpu"):
        on_device(analytic.model(), "cuda")


def test_a_model_without_modules_cannot_be_moved(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    with pytest.raises(UsageError, match="has no torch modules"):
        on_device(analytic.model(), "cuda")
