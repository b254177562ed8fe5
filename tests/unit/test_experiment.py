"""One by one, claims are judged as an audit would, at the level of their family."""

import pytest

from arrcoc_verify.audit import scene_set
from arrcoc_verify.claim import Claim, Contract, Effects
from arrcoc_verify.errors import BadConfig
from arrcoc_verify.experiment import Experiment
from arrcoc_verify.reference import analytic
from arrcoc_verify.trial import Settings
from arrcoc_verify.verdict import Outcome


@pytest.fixture(autouse=True)
def no_kept_controls(monkeypatch):
    monkeypatch.setattr("arrcoc_verify.experiment.kept_controls", dict)


@pytest.fixture(scope="module")
def found():
    return scene_set(analytic.model(), per_cluster=1)


def experiment(found, family=1):
    return Experiment(analytic.model(), found, Settings(), family)


def claim(measure, margin=None, gates=()):
    return Claim(
        id="own.x", sentence="x", stage="attending", kind="causes", operation="none", source="here",
        measure=measure, margin=margin, unit="tokens", gates=gates,
    )  # fmt: skip


def test_a_family_shares_alpha(found):
    assert 0.01 / 4 == experiment(found, family=4).settings.alpha


def test_a_family_of_none_is_refused(found):
    with pytest.raises(BadConfig, match="at least one claim"):
        experiment(found, family=0)


def test_the_weakest_scenes_are_kept_worst_first(found):
    tried = experiment(found)
    values = [float(index) for index in range(len(found.asserted))]

    verdict = tried.judge(claim(lambda lab: Effects(values=values[::-1]), margin=1.0))

    assert [0.0, 1.0, 2.0] == [case.effect for case in verdict.worst]
    assert found.asserted[-1].name == verdict.worst[0].scene


def test_an_error_while_measuring_is_invalid_and_not_raised(found):
    def broken(lab):
        raise ZeroDivisionError("by zero")

    verdict = experiment(found).judge(claim(broken))

    assert Outcome.INVALID is verdict.outcome
    assert "ZeroDivisionError: by zero" in verdict.reason


def test_gates_are_read_once_and_only_those_that_are_needed(found):
    tried = experiment(found)
    never = claim(lambda lab: Contract(broken=[0.0] * len(lab), cases=len(lab)),
                  gates=("input.live",))  # fmt: skip

    tried.judge(never)
    first = tried.gates["input.live"]
    tried.judge(never)

    assert ["input.live"] == list(tried.gates)
    assert first is tried.gates["input.live"]
    assert 2 == len(tried.verdicts)


@pytest.mark.parametrize(
    ("state", "outcome"), [("fired", Outcome.HOLDS), ("missed", Outcome.INCONCLUSIVE)]
)
def test_a_built_in_claim_holds_only_if_its_positive_controls_fired(
    found, monkeypatch, state, outcome
):
    kept = {"attending.tokens-in-range": {"ceiling removed": state}}
    monkeypatch.setattr("arrcoc_verify.experiment.kept_controls", lambda: kept)

    verdict = experiment(found).holds("attending.tokens-in-range")

    assert outcome is verdict.outcome
    assert state == verdict.controls["ceiling removed"]


def test_a_contract_has_no_margin_to_set(found):
    with pytest.raises(BadConfig, match="allows no exception"):
        experiment(found).holds("attending.tokens-in-range", margin=1)


def test_one_picture_needs_a_bound(found):
    with pytest.raises(BadConfig, match="wanted at_least, at_most or both"):
        experiment(found).region_gets(found.asserted[0].image, "the fish", (0, 0, 16, 16))


def test_one_picture_is_read_in_its_own_pixels(found):
    tried, scene = experiment(found), found.asserted[0]
    x, y, width, height = scene.target.box
    large = scene.image.resize((512, 512), 0)

    small = tried.region_gets(scene.image, scene.query, scene.target, at_least=1)
    doubled = tried.region_gets(
        large, scene.query, (2 * x, 2 * y, 2 * width, 2 * height), at_least=1, at_most=400
    )

    assert Outcome.HOLDS is small.outcome is doubled.outcome
    assert small.effect.value == pytest.approx(doubled.effect.value, rel=0.05)
