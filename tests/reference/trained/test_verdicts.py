"""What the suite is expected to say of the trained reference model."""

import json

import pytest

from arrcoc_verify.cli.ending import run
from arrcoc_verify.errors import RecordError
from arrcoc_verify.reference.trained import verdicts
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.suite import CLAIMS


def test_every_claim_has_an_expected_verdict_and_every_other_than_holds_a_reason():
    kept = verdicts.expected()

    assert {claim.id for claim in CLAIMS} == set(kept)
    assert all(("why" in one) == (one["verdict"] != "holds") for one in kept.values())
    assert all(20 < len(one["why"]) for one in kept.values() if "why" in one)


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ({"a": "holds"}, {"a": {"verdict": "holds"}}, []),
        ({"a": "refuted"}, {"a": {"verdict": "holds"}}, ["a: refuted, expected holds"]),
        ({"a": "refuted"}, {"a": {"verdict": "refuted"}}, ["a: refuted, and nobody said why"]),
        ({"a": "refuted"}, {"a": {"verdict": "refuted", "why": "so"}}, []),
        ({}, {"a": {"verdict": "holds"}}, ["a: not judged, expected holds"]),
        ({"b": "holds"}, {}, ["b: holds, expected nothing"]),
    ],
)
def test_departures(found, wanted, said):
    assert said == list(verdicts.departures(found, wanted))


def test_an_audit_of_another_model_is_refused(capsys):
    example = fixtures.folder().parent / "reports" / "example"
    if not example.is_dir():
        pytest.skip("the example audit is in the repository only")

    with pytest.raises(RecordError, match="reference:analytic"):
        verdicts.given(example)
    assert 4 == verdicts.main([str(example)])
    assert "reference:analytic" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_suite_says_what_is_expected(tmp_path):
    code = run(["audit", "--model", "reference:trained", "--out", str(tmp_path / "run")])
    assert code == 1  # some are refuted, and expected to be

    assert [] == list(verdicts.departures(verdicts.given(tmp_path / "run"), verdicts.expected()))


def test_the_model_card_has_each_of_them():
    kept = {k: v for k, v in verdicts.expected().items() if v["verdict"] != "holds"}
    card = (fixtures.folder().parent / "docs" / "trained.md").read_text(encoding="utf-8")

    for claim, one in kept.items():
        assert f"| `{claim}` | {one['verdict'].replace('_', ' ')} | {one['why']} |" in card
    assert json.dumps(len(verdicts.expected())) in card
