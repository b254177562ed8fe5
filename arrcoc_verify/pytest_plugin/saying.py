"""The fixture `arrcoc`: one call says one claim; the test ends as its verdict does."""

import dataclasses
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from arrcoc_verify.errors import ArrcocError, BadConfig
from arrcoc_verify.pytest_plugin import looking, options
from arrcoc_verify.pytest_plugin.marker import MARK, claims_of
from arrcoc_verify.pytest_plugin.state import MADE, Session, session_of
from arrcoc_verify.verdict import Outcome, Verdict, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from arrcoc_verify.experiment import Experiment
    from arrcoc_verify.saying import By
    from arrcoc_verify.scenes.scene import Box, Region

SAME = ("model", "images", "profile", "seed", "device", "confidence", "per_cluster")
"""Settings that a replay repeats."""

FAILS = (Outcome.REFUTED, Outcome.INCONCLUSIVE)
"""Verdicts that speak of the model and end a test."""


class ClaimFailed(AssertionError):
    """A claim is refuted, or nothing decides it; `verdict` says how."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict


class ClaimInvalid(Exception):
    """A claim could not be judged: a gate failed or the check erred. No statement on the model."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict


class Arrcoc:
    """Says claims in a test. Each method returns the verdict, or ends the test if it does not hold.

    Attributes:
        experiment: the model on its scenes, for those who want more.
        verdicts: what this test has claimed so far.
    """

    def __init__(self, item: pytest.Item) -> None:
        """Bind to a test."""
        self._item = item
        self._session: Session = session_of(item.config)
        self.verdicts: list[Verdict] = item.stash.setdefault(MADE, [])

    @property
    def experiment(self) -> "Experiment":
        """The model on its scenes."""
        return self._session.experiment

    def causes(
        self, factor: str, *, region: str = "target", at_least: float, by: "By" = "activation"
    ) -> Verdict:
        """A factor of a region causes its tokens, at least so many a patch."""
        __tracebackhide__ = True
        return self.say(lambda e: e.causes(factor, region=region, at_least=at_least, by=by))

    def ignores(self, role: str, factor: str, *, within: float) -> Verdict:
        """A map does not answer a factor, within a margin in spreads of the map."""
        __tracebackhide__ = True
        return self.say(lambda e: e.ignores(role, factor, within=within))

    def mediates(self, role: str, *, factor: str = "query", at_least: float = 0.9) -> Verdict:
        """A factor reaches the target's tokens through one site, at least so much of its effect."""
        __tracebackhide__ = True
        return self.say(lambda e: e.mediates(role, factor=factor, at_least=at_least))

    def necessary(self, role: str, *, region: str = "target", at_least: float) -> Verdict:
        """A region loses at least so many tokens a patch when a map is brought down on it."""
        __tracebackhide__ = True
        return self.say(lambda e: e.necessary(role, region=region, at_least=at_least))

    def holds(self, name: str, *, margin: float | None = None) -> Verdict:
        """A built-in claim holds, with its own margin unless another is given."""
        __tracebackhide__ = True
        return self.say(lambda e: e.holds(name, margin=margin))

    def region_gets(
        self,
        image: "Image.Image | str | Path",
        query: str,
        region: "Region | Box | str",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Verdict:
        """In one picture, a region gets so many tokens a patch; region in pixels x, y, w, h."""
        __tracebackhide__ = True
        return self._end(
            lambda e: e.region_gets(image, query, region, at_least=at_least, at_most=at_most),
            lambda verdict: looking.command(
                self._session, self._item.config, verdict, image,
                looking.bound(verdict, at_least, at_most),
            ),
        )  # fmt: skip

    def say(self, judge: "Callable[[Experiment], Verdict]") -> Verdict:
        """Judge a claim of any kind; the test goes on only if it holds.

        Raises:
            ClaimFailed: it is refuted, or nothing decides it.
            ClaimInvalid: it could not be judged.
            BadConfig: the test makes more claims than it says.
        """
        __tracebackhide__ = True
        return self._end(
            judge, lambda verdict: looking.command(self._session, self._item.config, verdict)
        )

    def _end(
        self, judge: "Callable[[Experiment], Verdict]", look: Callable[[Verdict], str]
    ) -> Verdict:
        __tracebackhide__ = True
        self._require_room()
        try:
            verdict = judge(self.experiment)
        except ArrcocError as error:
            raise error.with_traceback(None) from None  # the user's line, not ours
        command = replay(self._session, self._item, verdict)
        worst = tuple(dataclasses.replace(case, replay=command) for case in verdict.worst)
        verdict = dataclasses.replace(verdict, worst=worst)
        self.verdicts.append(verdict)
        self._item.user_properties.append((f"arrcoc.{verdict.id}", _property(verdict)))
        closer = look(verdict) if verdict.outcome in FAILS else ""
        end(verdict, finding(verdict, command, closer), self._patience())
        return verdict

    def _require_room(self) -> None:
        declared = claims_of(self._item)
        if len(self.verdicts) >= declared:
            raise BadConfig(
                f"this test says that it makes {declared} claim(s) and makes one more; claims "
                "share one error rate, so say how many: "
                f"@pytest.mark.{MARK}(claims={declared + 1})"
            )

    def _patience(self) -> str:
        mark = self._item.get_closest_marker(MARK)
        told = None if mark is None else mark.kwargs.get("inconclusive")
        return told or self._session.settings.inconclusive


def end(verdict: Verdict, text: str, inconclusive: str) -> None:
    """End the test as the verdict says; a waiver in force lets it go on."""
    __tracebackhide__ = True
    outcome = verdict.outcome
    if outcome is Outcome.HOLDS or _waived(verdict):
        return
    if outcome is Outcome.NOT_APPLICABLE:
        pytest.skip(f"not applicable: {verdict.reason}")
    if outcome is Outcome.INCONCLUSIVE and inconclusive == "skip":
        pytest.skip(f"inconclusive: {verdict.reason}")
    if outcome in FAILS:
        raise ClaimFailed(verdict, text)
    raise ClaimInvalid(verdict, text)


def _waived(verdict: Verdict) -> bool:
    import datetime

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return verdict.waiver is not None and today <= verdict.waiver.expires


def finding(verdict: Verdict, command: str, closer: str = "") -> str:
    """Return the message of a failure, in the order in which every view says a finding.

    Args:
        verdict: what came out.
        command: what judges the claim again.
        closer: what debugs its worst case, or "".
    """
    from arrcoc_verify.report.junit import detail

    lines = [*detail(verdict).splitlines()[:-1], f"{'replay':<9} {command}"]
    lines += [f"{'debug':<9} {closer}"] if closer else []
    head = f"{verdict.id} {verdict.outcome.value}: {verdict.reason}"
    return "\n".join([head, *(f"  {text}" for text in lines)])


def replay(session: Session, item: pytest.Item, verdict: Verdict) -> str:
    """Return the command that looks closer at a claim, at the level at which it was judged."""
    settings, family = session.settings, session.family
    shared = options.arguments(settings, SAME)
    if not verdict.id.startswith("own."):
        alpha = f"{settings.alpha / family:.6g}"
        words = ["arrcoc-verify", "audit", *shared, "--alpha", alpha, "--claims", verdict.id]
        return shlex.join(words)
    mine = [
        word.replace("--", "--arrcoc-", 1) if word.startswith("--") else word for word in shared
    ]
    mine += ["--arrcoc-alpha", f"{settings.alpha:g}", "--arrcoc-family", str(family)]
    return shlex.join(["pytest", item.nodeid, *mine, "--arrcoc-out", "reports/closer"])


def _property(verdict: Verdict) -> str:
    import json

    effect: Any = verdict.effect
    data = {
        "verdict": verdict.outcome.value,
        "stage": verdict.stage,
        "effect": None if effect is None else effect.value,
        "interval": None if effect is None else [effect.low, effect.high],
        "unit": None if effect is None else effect.unit,
        "margin": verdict.margin,
        "n": verdict.n,
        "p": verdict.p_value,
        "reason": verdict.reason,
    }
    return json.dumps(to_json(data), default=float)
