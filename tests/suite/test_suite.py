"""The built-in suite as a whole: what is claimed, and how broken copies end."""

import dataclasses

import pytest

from arrcoc_verify import suite
from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.model import ClaimProfile
from arrcoc_verify.verdict import STAGES


def test_there_are_at_least_forty_claims_over_the_three_stages_and_the_whole():
    ids = [claim.id for claim in suite.CLAIMS]

    assert len(ids) == len(set(ids)) >= 40
    for part in ("knowing", "balancing", "attending", "whole"):
        assert sum(name.startswith(f"{part}.") for name in ids) >= 10


@pytest.mark.parametrize("claim", suite.CLAIMS, ids=lambda claim: claim.id)
def test_each_claim_says_what_is_done_why_and_when_it_matters(claim):
    assert claim.stage in STAGES
    assert all([claim.sentence, claim.operation, claim.source])
    assert set(claim.gates) <= {gate.id for gate in suite.GATES}
    assert (claim.margin is None) == (not claim.unit)


def test_patterns_choose_claims_in_the_suites_order():
    chosen = suite.select(["whole.*", "knowing.query-*"])

    assert chosen[0].id.startswith("knowing.query-")
    assert {c.id.split(".")[0] for c in chosen} == {"knowing", "whole"}


def test_a_pattern_that_matches_nothing_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"balancing\.tensions-trade-off"):
        suite.select(["balancing.tension-trade-off"])


def test_a_profile_brings_its_own_margins_and_may_not_name_what_does_not_exist():
    name = "attending.relevance-causes-tokens"
    (changed,) = suite.with_margins([suite.claim(name)], ClaimProfile(margins={name: 9.0}))

    assert (9.0, 9.0 / 4.0) == (changed.margin, changed.spike_scale)
    assert dataclasses.replace(changed, margin=4.0, spike_scale=1.0) == suite.claim(name)
    total = "attending.total-is-conserved"
    with pytest.raises(BadConfig, match="a rule without exceptions"):
        suite.with_margins([suite.claim(total)], ClaimProfile(margins={total: 1.0}))
    with pytest.raises(UnknownName, match="claim of the profile"):
        suite.with_margins([], ClaimProfile(excluded={"attending.relevance": "typo"}))
