"""A planted fault: a copy of a sound model in which some steps do something else.

Every fault keeps what the sound model declares: it is the declaration that a fault breaks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.model import ROOTS, Model, Step
from arrcoc_verify.reference import analytic
from arrcoc_verify.verdict import STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to be wrong.

    Attributes:
        name: `operator` or `operator:which`; unique.
        stage: where it lies, one of `STAGES`.
        sentence: what is wrong, in plain words.
        make: returns a fresh broken model; what it remembers between calls starts empty.
        sound: returns the model that it was made from.
        also: other stages that own it as rightly, such as `runtime` for a memory in a scorer.
        strength: how much of it there is, where it can be dialled; more is worse.
        equivalent: proof that no output can change, or "" where it is meant to be seen.
    """

    name: str
    stage: str
    sentence: str
    make: Callable[[], Model]
    sound: Callable[[], Model] = analytic.model
    also: tuple[str, ...] = ()
    strength: float | None = None
    equivalent: str = ""

    def __post_init__(self) -> None:
        """Refuse a stage that does not exist."""
        for stage in (self.stage, *self.also):
            if stage not in STAGES:
                raise UnknownName("stage", stage, STAGES)

    @property
    def operator(self) -> str:
        """What was done, without saying to which part: faults of one operator are siblings."""
        return self.name.partition(":")[0].partition("@")[0]

    @property
    def owners(self) -> frozenset[str]:
        """Every stage that may rightly be named for it."""
        return frozenset((self.stage, *self.also))


def instead(step: str, run: Callable[..., Any], *inputs: str, model: Model | None = None) -> Step:
    """Return the sound step with another callable, and other inputs if any are named."""
    sound = _step(model or analytic.model(), step)
    return replace(sound, run=run, inputs=inputs or sound.inputs)


def after(step: str, change: Callable[..., Any], *extra: str, model: Model | None = None) -> Step:
    """Return the sound step with `change(result, *extra inputs)` in place of its result."""
    sound = _step(model or analytic.model(), step)
    count = len(sound.inputs)

    def run(*values: Any) -> Any:
        return change(sound.run(*values[:count]), *values[count:])

    return replace(sound, run=run, inputs=(*sound.inputs, *extra))


def rewired(*steps: Step, model: Model | None = None) -> Model:
    """Return the sound model with these steps in place of those of the same name.

    Raises:
        UnknownName: a step replaces none.
        BadModel: the steps read each other in a circle.
    """
    sound = model or analytic.model()
    for step in steps:
        _step(sound, step.name)
    new = {step.name: step for step in steps}
    return replace(sound, steps=ordered([new.get(step.name, step) for step in sound.steps]))


def _step(model: Model, name: str) -> Step:
    found = next((step for step in model.steps if step.name == name), None)
    if found is None:
        raise UnknownName("step", name, [step.name for step in model.steps])
    return found


def ordered(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps so that each comes after those it reads, else in the given order."""
    left, done, order = list(steps), set(ROOTS), []
    while left:
        ready = (s for s in left if all(source.split(".")[0] in done for source in s.inputs))
        step = next(ready, None)
        if step is None:
            raise BadModel(f"steps read each other in a circle: {', '.join(s.name for s in left)}")
        left.remove(step)
        done.add(step.name)
        order.append(step)
    return tuple(order)
