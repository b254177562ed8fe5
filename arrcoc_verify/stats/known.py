"""Known answers that the way from readings to exit code must give, checked before it is used.

A comparison that is turned round, a correction in the wrong order or a NaN that slips through would
make every verdict of a run wrong in silence. So each run first decides cases whose ends are known;
one wrong end makes the whole run invalid.
"""

from collections.abc import Callable, Iterator

import numpy as np

from arrcoc_verify.stats.conclude import conclude, with_control
from arrcoc_verify.stats.decide import (
    Decision,
    decide_causes,
    decide_contract,
    decide_no_effect,
)
from arrcoc_verify.verdict import Outcome, Verdict, exit_code

_SPREAD = np.linspace(-0.5, 0.5, 10)
_NAN = float("nan")
_ALPHA = 0.05

_FAMILIES: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),  # Holm 1979, worked by hand
    ((0.04, 0.01, 0.02), (0.04, 0.03, 0.04)),
    ((0.5, 0.5), (1.0, 1.0)),
)


def _end(decision: Decision) -> Outcome:
    return conclude([decision], _ALPHA)[0].outcome


def _p(p: float) -> Decision:
    return Decision(
        outcome=Outcome.INCONCLUSIVE, reason="", p_hold=p, p_refute=1.0, n=10, excess=(1.0,) * 10
    )


def _holding() -> Decision:
    return conclude([decide_causes(_SPREAD + 9, margin=1.0, alpha=_ALPHA)], _ALPHA)[0]


_DECIDED: tuple[tuple[str, Callable[[], Outcome], Outcome], ...] = (
    ("an effect far above its margin", lambda: _holding().outcome, Outcome.HOLDS),
    ("an effect far below its margin",
     lambda: _end(decide_causes(_SPREAD - 9, margin=1.0, alpha=_ALPHA)), Outcome.REFUTED),
    ("an effect about its margin",
     lambda: _end(decide_causes(_SPREAD + 1, margin=1.0, alpha=_ALPHA)), Outcome.INCONCLUSIVE),
    ("an effect that placebos have too",
     lambda: _end(decide_causes(_SPREAD + 9, _SPREAD + 9, margin=1.0, alpha=_ALPHA)),
     Outcome.REFUTED),
    ("an effect that is not a number",
     lambda: _end(decide_causes([*_SPREAD, _NAN], margin=1.0, alpha=_ALPHA)), Outcome.INVALID),
    ("a placebo that is not a number",
     lambda: _end(decide_causes([*_SPREAD], [_NAN, *_SPREAD[1:]], margin=1.0, alpha=_ALPHA)),
     Outcome.INVALID),
    ("no effect at all", lambda: _end(decide_causes([], margin=1.0)), Outcome.NOT_RUN),
    ("five effects", lambda: _end(decide_causes([9.0] * 5, margin=1.0)), Outcome.INCONCLUSIVE),
    ("distances inside the margin",
     lambda: _end(decide_no_effect(np.full(10, 0.1) + 0.01 * _SPREAD, margin=1.0, alpha=_ALPHA)),
     Outcome.HOLDS),
    ("distances outside the margin",
     lambda: _end(decide_no_effect(np.full(10, 9.0) + _SPREAD, margin=1.0, alpha=_ALPHA)),
     Outcome.REFUTED),
    ("a distance that is not a number",
     lambda: _end(decide_no_effect([*[0.1] * 9, _NAN], margin=1.0, alpha=_ALPHA)),
     Outcome.INVALID),
    ("a rule that was broken once", lambda: _end(decide_contract(1, 9)), Outcome.REFUTED),
    ("a rule that was never broken", lambda: _end(decide_contract(0, 9)), Outcome.HOLDS),
    ("a rule that was never tried", lambda: _end(decide_contract(0, 0)), Outcome.NOT_RUN),
    ("a rule whose case was never met", lambda: _end(decide_contract(0, 9, {"ties": 0})),
     Outcome.INCONCLUSIVE),
    ("a check that is blind", lambda: with_control(_holding(), 0.5).outcome,
     Outcome.INCONCLUSIVE),
    ("a check that can see", lambda: with_control(_holding(), 0.9).outcome, Outcome.HOLDS),
)  # fmt: skip

_EXITS: tuple[tuple[tuple[Outcome, ...], int], ...] = (
    ((Outcome.HOLDS, Outcome.NOT_APPLICABLE), 0),
    ((Outcome.HOLDS, Outcome.REFUTED, Outcome.INVALID), 1),
    ((Outcome.HOLDS, Outcome.INVALID), 2),
    ((Outcome.HOLDS, Outcome.NOT_RUN), 2),
    ((Outcome.HOLDS, Outcome.INCONCLUSIVE), 3),
    ((), 2),
)


def _verdict(outcome: Outcome) -> Verdict:
    return Verdict(
        id="known", sentence="known", stage="runtime", kind="causes", outcome=outcome, reason=""
    )


def _wrong() -> Iterator[str]:
    for given, wanted in _FAMILIES:
        found = [d.p_hold_adjusted for d in conclude([_p(p) for p in given], _ALPHA)]
        if not np.allclose(np.array(found, dtype=np.float64), wanted, rtol=0, atol=1e-12):
            yield f"the p-values {given} were adjusted to {found}"
    for what, decide, wanted_end in _DECIDED:
        end = decide()
        if end is not wanted_end:
            yield f"{what} came out as {end}, not as {wanted_end}"
    for ends, code in _EXITS:
        got = exit_code([_verdict(end) for end in ends], "2000-01-01")
        if got != code:
            yield f"a run of {', '.join(ends) or 'nothing'} came out with exit code {got}"


def first_wrong_answer() -> str:
    """Return the first known case that comes out wrong, or "" when all are right."""
    try:
        return next(_wrong(), "")
    except Exception as error:  # noqa: BLE001 - a procedure that raises here decides nothing
        return f"a known case could not be decided: {type(error).__name__}: {error}"
