"""Claims in a user's own words measure what they say, on the reference model and by hand."""

import pytest
import torch

from arrcoc_verify import saying
from arrcoc_verify.claim import Level, judge
from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes.compose import scenes


@pytest.fixture(scope="module")
def lab():
    return Lab(analytic.model(), scenes("select", per_cluster=1))


def test_causing_by_activation_is_a_shift_of_one_spread_with_the_multiplier_held(lab):
    measured = saying.causes("salience", at_least=2).measure(lab)

    there = lab.shifted("salience", lab.spread("salience"), lab.target, "local")
    assert torch.equal(
        lab.tokens(there, lab.target) - lab.tokens(lab.clean, lab.target), measured.values
    )
    assert float(torch.as_tensor(measured.values).min()) > 0


def test_causing_on_the_distractor_reads_the_distractor(lab):
    target = saying.causes("information", at_least=1).measure(lab)
    other = saying.causes("information", region="distractor", at_least=1).measure(lab)

    assert not torch.equal(target.values, other.values)


def test_asking_for_the_target_and_for_the_distractor_are_each_other_s_contrary(lab):
    target = saying.causes("query", at_least=1, by="picture").measure(lab)
    asked, other = lab.clean, lab.asked("other")

    assert torch.equal(lab.tokens(asked, lab.target) - lab.tokens(other, lab.target), target.values)
    rival = saying.causes("query", region="distractor", at_least=1, by="picture").measure(lab)
    assert torch.equal(
        lab.tokens(other, lab.distractor) - lab.tokens(asked, lab.distractor), rival.values
    )


def test_information_that_never_reads_the_query_moves_by_nothing(lab):
    measured = saying.ignores("information", "query", within=0.05).measure(lab)

    assert torch.equal(torch.zeros(len(lab)).double(), measured.values)
    assert float(torch.as_tensor(measured.spiked).min()) == pytest.approx(0.05)


def test_relevance_mediates_the_whole_effect_of_the_query(lab):
    measured = saying.mediates("relevance").measure(lab)

    assert torch.equal(torch.ones(len(lab)).double(), measured.values)


def test_information_mediates_nothing_of_the_query(lab):
    measured = saying.mediates("information").measure(lab)

    assert torch.equal(torch.zeros(len(lab)).double(), torch.as_tensor(measured.values))


def test_what_is_brought_down_costs_tokens(lab):
    measured = saying.necessary("query_relevance", at_least=1).measure(lab)

    assert float(torch.as_tensor(measured.values).mean()) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: saying.causes("saliency", at_least=1), "did you mean 'salience'"),
        (lambda: saying.causes("salience", region="traget", at_least=1), "did you mean 'target'"),
        (lambda: saying.causes("relevance", at_least=1, by="picture"), "unknown factor"),
        (lambda: saying.causes("salience", at_least=1, by="magic"), "unknown way to intervene"),
        (lambda: saying.ignores("information", "quary", within=0.1), "did you mean 'query'"),
        (lambda: saying.mediates("relevence"), "did you mean 'relevance'"),
        (lambda: saying.necessary("relevance", region="all", at_least=1), "unknown region"),
    ],
)
def test_an_unknown_word_suggests_the_nearest(make, message):
    with pytest.raises(UnknownName, match=message):
        make()


def test_a_margin_below_zero_is_refused():
    with pytest.raises(BadConfig, match="wanted a margin of 0 or more"):
        saying.ignores("information", "query", within=-0.1)


def test_a_role_that_the_model_lacks_is_not_applicable(lab):
    with pytest.raises(NotApplicable, match="declares no site with role 'membership'"):
        saying.necessary("membership", at_least=1).measure(lab)


def test_a_claim_without_margin_still_decides(lab):
    claim = saying.causes("salience", at_least=0)

    judged = judge(claim, claim.measure(lab), lab.clusters(), Level())

    assert judged.detected is None


def test_two_claims_of_one_kind_can_be_told_apart():
    claim = saying.renamed(saying.mediates("relevance"), "own.first")

    assert "own.first" == claim.id
