"""The command `selftest`: what it writes, how it ends, what it refuses, how it goes on."""

import json
from pathlib import Path

import pytest

from arrcoc_verify import suite
from arrcoc_verify.cli import selftesting
from arrcoc_verify.faults.selftest import case, kept, running

SLICE = ("attending.total-is-conserved", "attending.equal-relevance-equal-tokens")
FOUND, LOST = "tokens-one-more:tokens", "map-flipped:salience"


@pytest.fixture
def selftest(command, monkeypatch, tmp_path):
    """Give `selftest` on two claims, with no more than the named faults."""
    monkeypatch.setattr(case.suite, "CLAIMS", tuple(suite.select(SLICE)))

    def give(*faults, healthy=1, more=()):
        chosen = [word for name in faults for word in ("--faults", name)]
        return command(
            "selftest", *chosen, "--healthy", healthy, "--jobs", 1, "--json", "s.json",
            "--resume", tmp_path / "cases", *more,
        )  # fmt: skip

    return give


def test_it_writes_every_rate_that_is_promised_and_ends_well_when_its_targets_are_met(selftest):
    done = selftest(FOUND)

    told = json.loads(Path("s.json").read_text())
    assert 0 == done.code, done.err + done.out
    assert {"macro", "micro", "interval", "killed", "killable"} <= set(told["detection"])
    assert {"right", "detected"} <= set(told["localisation"])
    assert {"runs", "alarmed", "interval"} <= set(told["false_alarms"])
    assert (1, 1) == (told["detection"]["killed"], told["detection"]["killable"])
    assert (1, 0) == (told["false_alarms"]["runs"], told["false_alarms"]["alarmed"])
    assert [] == told["survivors"]
    assert ["attending.equal-relevance-equal-tokens"] == told["silent_checks"]
    assert "detected, all faults" in done.out


def test_a_fault_that_no_claim_speaks_of_is_listed_with_its_reason_and_the_target_is_missed(
    selftest,
):
    done = selftest(LOST, healthy=0)

    told = json.loads(Path("s.json").read_text())
    assert 1 == done.code
    assert [LOST] == [one["name"] for one in told["survivors"]]
    assert "moves a patch by" in told["survivors"][0]["reason"]
    assert [LOST] == told["false_comfort"]["all"]["faults"]


def test_it_can_be_stopped_and_goes_on_with_what_was_tried(selftest, monkeypatch):
    real = case.try_fault
    said = case.Judged(name=FOUND, killable=True, why="moves", crashed=False, twin="attending")
    monkeypatch.setattr(running.case, "judge_fault", lambda *_: said)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running.case, "try_fault", stopped)
    done = selftest(FOUND, healthy=0)
    assert 130 == done.code
    assert "--resume" in done.err
    assert not Path("s.json").exists()

    monkeypatch.setattr(running.case, "try_fault", real)
    monkeypatch.setattr(running.case, "judge_fault", lambda *_: pytest.fail("judged again"))
    assert 0 == selftest(FOUND, healthy=0).code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--faults", "map-fliped:salience"), "map-flipped:salience"),
        (("--seeds", "0"), "at least 1"),
        (("--healthy", "-1"), "at least 0"),
        (("--faults", "map-*", "--keep"), "only a full run is kept"),
        (("--healthy", "0", "--keep"), "only a full run is kept"),
        (("--sample", "0"), "sample of at least 1"),
        (("--sample", "5", "--keep"), "only a full run is kept"),
        (("--model", "reference:analytical"), "analytic"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(command, monkeypatch, options, said):
    monkeypatch.setattr(running, "run", lambda *_: pytest.fail("ran"))
    done = command("selftest", *options)

    assert 4 == done.code
    assert said in done.err


def test_a_folder_of_other_code_is_left_as_it_is(selftest, tmp_path):
    folder = tmp_path / "cases"
    folder.mkdir()
    held = json.dumps({"model": case.ANALYTIC, "code": "sha256:other"})
    (folder / "selftest-run.json").write_text(held)
    done = selftest(FOUND)

    assert 0 != done.code
    assert "other code" in done.err
    assert held == (folder / "selftest-run.json").read_text()
    assert ["selftest-run.json"] == [path.name for path in folder.iterdir()]


def test_a_sample_is_the_same_each_time_and_grows_without_losing_any():
    names = [f"fault {number}" for number in range(40)]
    few, more = selftesting._sampled(names, 5), selftesting._sampled(names, 9)
    assert (5, 9) == (len(few), len(more))
    assert set(few) < set(more)
    assert more == sorted(more, key=names.index)
    assert names == selftesting._sampled(names, None)


def test_the_kept_run_lies_where_audits_look_for_it():
    assert "selftest.json" == kept.path().name
    assert kept.path().parent.name in ("reports", "_fixtures")
