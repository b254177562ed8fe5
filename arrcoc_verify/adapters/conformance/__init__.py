"""Check that what an adapter declares is true.

    results = check(model)
    assert all(result.passed is not False for result in results)

Each check depends on nothing but the model: pictures are made here unless the caller has better
ones. A check whose ground is missing (a model that does not repeat itself has no bits to compare)
is not judged and says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from arrcoc_verify.adapters.conformance import behaviour, sites
from arrcoc_verify.adapters.conformance.subject import Judged, Subject
from arrcoc_verify.model import Model

__all__ = ["CHECKS", "Check", "Result", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of one check.

    Attributes:
        id: of the check.
        passed: None where there was nothing to judge.
        reason: what was found.
    """

    id: str
    passed: bool | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be true of an adapter.

    Attributes:
        id: short name.
        judge: returns whether it is, and what was found.
        needs: checks without which it cannot be judged.
    """

    id: str
    judge: Callable[[Subject], Judged]
    needs: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is checked."""
        return (self.judge.__doc__ or "").strip().splitlines()[0]


_BITS = ("deterministic", "stateless", "inputs-untouched")

CHECKS = (
    Check(id="runs", judge=behaviour.runs),
    Check(id="fires-once", judge=sites.fires_once, needs=("runs",)),
    Check(id="roles", judge=sites.roles, needs=("runs",)),
    Check(id="axes", judge=sites.axes, needs=("runs",)),
    Check(id="deterministic", judge=behaviour.deterministic, needs=("runs",)),
    Check(id="stateless", judge=behaviour.stateless, needs=("deterministic",)),
    Check(id="inputs-untouched", judge=behaviour.inputs_untouched, needs=("runs",)),
    Check(id="batch-invariant", judge=behaviour.batch_invariant, needs=("axes", *_BITS)),
    Check(id="identity", judge=sites.identity, needs=_BITS),
    Check(id="reaches-output", judge=sites.reaches, needs=_BITS),
    Check(id="resume", judge=sites.resumes, needs=("axes", *_BITS)),
    Check(id="foreign-hooks", judge=sites.foreign_hooks, needs=("runs",)),
    Check(id="nothing-left", judge=sites.nothing_left, needs=_BITS),
    Check(id="aliasing", judge=sites.aliasing, needs=_BITS),
    Check(id="compiled", judge=sites.compiled, needs=_BITS),
    Check(id="training-refused", judge=behaviour.training_refused, needs=("runs",)),
    Check(id="lod-range", judge=behaviour.lod_range, needs=("axes",)),
    Check(id="lod-ladder", judge=behaviour.lod_ladder, needs=("axes",)),
    Check(id="lod-integer", judge=behaviour.lod_integer, needs=("axes",)),
    Check(id="conserved-total", judge=behaviour.conserved_total, needs=("axes",)),
)
"""Every check, each after those it needs."""


def check(
    model: Model,
    images: Sequence[Image.Image] | None = None,
    queries: Sequence[str] | None = None,
) -> list[Result]:
    """Return what is true of a model under test, one result a check.

    Args:
        model: what an adapter made.
        images: four pictures or more to run it on; None means pictures made here.
        queries: one a picture.
    """
    subject = Subject.of(model, images, queries)
    results: dict[str, Result] = {}
    for item in CHECKS:
        missing = [need for need in item.needs if results[need].passed is not True]
        if missing:
            passed, reason = None, f"not judged: {missing[0]!r} did not pass"
        else:
            passed, reason = _judged(item, subject)
        results[item.id] = Result(id=item.id, passed=passed, reason=reason)
    return list(results.values())


def _judged(item: Check, subject: Subject) -> Judged:
    try:
        return item.judge(subject)
    except Exception as error:  # noqa: BLE001 - a stranger's model may raise anything
        return False, f"{type(error).__name__}: {error}"
