"""Rates with intervals from the cases of a selftest: detection, localisation, false alarms."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.selftest.case import ALARMS, Judged, Tried
from arrcoc_verify.faults.selftest.running import Results
from arrcoc_verify.faults.split import LED_TO_A_CLAIM, is_sealed, speaks
from arrcoc_verify.stats.interval import proportion_interval

RESAMPLES = 4_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One fault, over all its seeds.

    Attributes:
        fault: what was planted.
        judged: what the oracle says.
        runs: one a seed.
        expected: claims and gates on which the sound model itself does not hold.
        sound: the sound model's letters.
    """

    fault: Fault
    judged: Judged
    runs: tuple[Tried, ...]
    expected: frozenset[str]
    sound: Mapping[str, str]

    @property
    def counts(self) -> bool:
        """Whether there is something to find."""
        return self.judged.killable and not self.fault.equivalent

    @property
    def killed(self) -> bool:
        """Whether every run, whatever its seed, found something."""
        return all(caught_by(run, self.expected) for run in self.runs)

    @property
    def passed(self) -> bool:
        """Whether in some run no gate failed and every claim that the sound model holds held."""
        return any(
            not {*run.gates, *run.crashed} - self.expected
            and all(run.letters[claim] == "h" for claim in self.sound if self.sound[claim] == "h")
            for run in self.runs
        )

    @property
    def named(self) -> str:
        """The stage that is suspected without a twin: of the first run that names one."""
        return next((run.suspect["stage"] for run in self.runs if run.suspect), "")


def caught_by(run: Tried, expected: frozenset[str]) -> frozenset[str]:
    """Return claims that were refuted and gates that did not hold; what crashed is neither."""
    refuted = {claim for claim, letter in run.letters.items() if letter == "R"}
    return frozenset(refuted | set(run.gates)) - expected


def alarms(run: Tried, expected: frozenset[str]) -> frozenset[str]:
    """Return everything that is not as it should be: refuted, invalid, gated or crashed."""
    claims = {claim for claim, letter in run.letters.items() if letter in ALARMS}
    return frozenset(claims | set(run.gates) | set(run.crashed)) - expected


def outcomes(results: Results, faults: Mapping[str, Fault]) -> list[Outcome]:
    """Return one outcome a fault."""
    runs: dict[str, list[Tried]] = defaultdict(list)
    for one in results.faulty:
        runs[one.name].append(one)
    expected = results.expected
    return [
        Outcome(
            fault=faults[name], judged=results.judged[name], runs=tuple(found), expected=expected,
            sound=results.baseline.letters,
        )
        for name, found in runs.items()
    ]  # fmt: skip


def detection(found: Sequence[Outcome], seed: int = 0) -> dict[str, Any]:
    """Return detection over killable faults: per fault, and per operator with a bootstrap."""
    killable = [one for one in found if one.counts]
    killed = sum(one.killed for one in killable)
    by_operator: dict[str, list[bool]] = defaultdict(list)
    for one in killable:
        by_operator[one.fault.operator].append(one.killed)
    shares = np.array([float(np.mean(hits)) for hits in by_operator.values()] or [np.nan])
    rng = np.random.default_rng(seed)
    means = shares[rng.integers(len(shares), size=(RESAMPLES, len(shares)))].mean(1)
    tail = (1 - LEVEL) / 2
    return {
        "macro": float(shares.mean()),
        "macro_interval": [float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))],
        "micro": killed / len(killable) if killable else float("nan"),
        "interval": _interval(killed, len(killable)),
        "killed": killed, "killable": len(killable), "operators": len(by_operator),
    }  # fmt: skip


def _interval(hits: int, n: int) -> list[float]:
    if n == 0:
        return [0.0, 1.0]
    found = proportion_interval(hits, n, LEVEL)
    return [found.low, found.high]


def localisation(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return how often the stage that is suspected without a twin is one that owns the fault."""
    detected = [one for one in found if one.counts and one.killed]
    right = sum(one.named in one.fault.owners for one in detected)
    return {
        "right": right, "detected": len(detected),
        "share": right / len(detected) if detected else float("nan"),
        "interval": _interval(right, len(detected)),
    }  # fmt: skip


def false_comfort(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return how many killable faults leave an audit green: every claim still holds."""
    killable = [one for one in found if one.counts]
    passed = [one.fault.name for one in killable if one.passed]
    return {
        "passed": len(passed), "killable": len(killable),
        "interval": _interval(len(passed), len(killable)), "faults": passed,
    }  # fmt: skip


def with_twin(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return how often substitution by the sound twin names an owner of the fault."""
    detected = [one for one in found if one.counts and one.killed]
    right = sum(one.judged.twin in one.fault.owners for one in detected)
    return {"right": right, "detected": len(detected), "interval": _interval(right, len(detected))}


def confusion(found: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Return stage at fault -> stage named -> count, over detected faults."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        if one.counts and one.killed:
            table[one.fault.stage][one.named or "none"] += 1
    return {stage: dict(counts) for stage, counts in table.items()}


def false_alarms(results: Results) -> dict[str, Any]:
    """Return alarms on healthy runs, by run and by check."""
    expected = results.expected
    raised = {one.name: sorted(alarms(one, expected)) for one in results.healthy}
    alarmed = {name: checks for name, checks in raised.items() if checks}
    checks = Counter(check for found in alarmed.values() for check in found)
    runs = len(results.healthy)
    return {
        "runs": runs, "alarmed": len(alarmed), "interval": _interval(len(alarmed), runs),
        "by_check": dict(checks.most_common()), "in_runs": alarmed,
    }  # fmt: skip


def strengths(found: Sequence[Outcome]) -> dict[str, dict[str, bool]]:
    """Return for each fault that can be dialled: strength -> whether it was detected."""
    table: dict[str, dict[str, bool]] = defaultdict(dict)
    for one in found:
        if one.fault.strength is not None and one.counts:
            table[one.fault.name.partition("@")[0]][f"{one.fault.strength:g}"] = one.killed
    return {name: doses for name, doses in table.items() if len(doses) > 1}


def silent_checks(found: Sequence[Outcome], checks: Sequence[str]) -> list[str]:
    """Return claims and gates that noticed no fault at all."""
    fired = {check for one in found for run in one.runs for check in caught_by(run, one.expected)}
    return [check for check in checks if check not in fired]


def survivors(found: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return every killable fault that was not detected, and why it can be seen at all."""
    return [
        {
            "name": one.fault.name, "stage": one.fault.stage, "sentence": one.fault.sentence,
            "reason": _why_missed(one),
        }
        for one in found if one.counts and not one.killed
    ]  # fmt: skip


def _why_missed(one: Outcome) -> str:
    letters = Counter(letter for run in one.runs for letter in run.letters.values())
    unsure, crashed = letters["i"], letters["e"]
    said = f"it {one.judged.why}"
    if crashed:
        return f"{said}; {crashed} checks crashed, which is no detection"
    if unsure:
        return f"{said}; no claim is refuted, {unsure} are undecided"
    return f"{said}; every claim still holds: none speaks of this"


def equivalents(found: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return faults that count as equivalent, each with its proof or the bound on it."""
    return [
        {"name": one.fault.name, "proof": one.fault.equivalent or one.judged.why}
        for one in found if not one.counts
    ]  # fmt: skip


def score(results: Results, faults: Mapping[str, Fault]) -> dict[str, Any]:
    """Return everything that the selftest says, as plain data."""
    found = outcomes(results, faults)
    heading = [one for one in found if speaks(one.fault.operator)] or found
    sealed = [one for one in found if is_sealed(one.fault.operator)]
    checks = list(results.baseline.letters)
    gates = sorted({gate for one in results.faulty for gate in (*one.gates, *one.crashed)})
    return {
        "detection": {**detection(heading), "all": detection(found), "sealed": detection(sealed)},
        "localisation": {
            **localisation(heading), "all": localisation(found), "with_twin": with_twin(heading),
            "confusion": confusion(found),
        },
        "false_alarms": false_alarms(results),
        "false_comfort": {**false_comfort(heading), "all": false_comfort(found)},
        "survivors": survivors(found),
        "silent_checks": silent_checks(found, checks),
        "equivalents": equivalents(found),
        "crashed": [one.fault.name for one in found if one.judged.crashed],
        "strengths": strengths(found),
        "misplaced": [
            {"name": one.fault.name, "stage": one.fault.stage, "named": one.named or "none"}
            for one in found
            if one.counts and one.killed and one.named not in one.fault.owners
        ],
        "operators": {
            "led_to_a_claim": dict(LED_TO_A_CLAIM),
            "sealed": sorted({one.fault.operator for one in sealed}),
        },
        "expected_alarms": sorted(results.expected),
        "claims": checks,
        "gates": gates,
        "matrix": {
            one.name: {"row": "".join(one.letters[c] for c in checks), "gates": list(one.gates)}
            for one in results.faulty
        },
    }  # fmt: skip
