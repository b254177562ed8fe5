"""Gates: what must hold before a causal reading of the model means anything.

A gate that fails makes the claims that name it `invalid`, with the gate's reason. Gates look at the
selection scenes only, so that what they drop or find cannot favour a verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass

from arrcoc_verify.lab import Lab
from arrcoc_verify.verdict import GateResult


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a gate measured.

    Attributes:
        passed: whether it holds.
        measured: the number that decided.
        limit: the bound it had to keep.
        unit: of both.
        reason: what is wrong, when it is.
    """

    passed: bool
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A check of the model before claims.

    Attributes:
        id: `<stage>.<words>`.
        sentence: what must hold.
        stage: where the fault lies when it does not.
        read: measures it; raises NotApplicable where the model has nothing to check.
    """

    id: str
    sentence: str
    stage: str
    read: Callable[[Lab], Reading]

    def result(self, reading: Reading) -> GateResult:
        """Return the reading as plain data."""
        return GateResult(
            id=self.id,
            sentence=self.sentence,
            stage=self.stage,
            passed=reading.passed,
            reason="" if reading.passed else reading.reason,
            measured=reading.measured,
            limit=reading.limit,
            unit=reading.unit,
        )
