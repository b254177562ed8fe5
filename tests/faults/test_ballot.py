from arrcoc_verify.locating import ballot, parts_of
from arrcoc_verify.verdict import Outcome, Verdict

MOVED, FOUND = "knowing.query-causes-tokens", "knowing.query-finds-the-asked"


def verdict(claim, outcome):
    return Verdict(
        id=claim, sentence="it is so", stage=claim.partition(".")[0], kind="causes",
        outcome=outcome, reason="measured",
    )  # fmt: skip


def test_a_map_that_is_moved_by_what_it_holds_speaks_of_its_scorer_where_that_is_in_doubt():
    judged = [verdict(MOVED, Outcome.REFUTED), verdict(FOUND, Outcome.INCONCLUSIVE)]
    assert parts_of(judged)[MOVED] == (
        "input", "encoder", "query", "coupling", "balancing", "attending",
    )  # fmt: skip
    votes = ballot(judged[:1], judged)
    assert max(votes, key=votes.get) not in ("balancing", "attending")


def test_and_of_balancing_and_attending_where_the_map_shows_what_it_should():
    judged = [verdict(MOVED, Outcome.REFUTED), verdict(FOUND, Outcome.HOLDS)]
    assert set(ballot(judged[:1], judged)) == {"balancing", "attending"}


def test_another_scorer_in_doubt_says_nothing_of_this_one():
    judged = [
        verdict(MOVED, Outcome.REFUTED),
        verdict("knowing.information-follows-entropy", Outcome.INCONCLUSIVE),
    ]
    assert parts_of(judged)[MOVED] == ("balancing", "attending")
