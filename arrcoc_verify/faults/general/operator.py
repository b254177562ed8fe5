"""A fault operator: one general way to be wrong, which can be planted into any model by role."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.lab import NotApplicable
from arrcoc_verify.model import Model

STAGE = {
    "query": "query",
    "information": "knowing", "salience": "knowing", "query_relevance": "knowing",
    "information_features": "knowing", "salience_features": "knowing",
    "query_relevance_features": "knowing",
    "tensions": "balancing", "weights": "balancing", "mix": "balancing",
    "normaliser": "balancing", "relevance": "balancing", "balancing_features": "balancing",
    "attending_features": "attending", "demand": "attending", "multiplier": "attending",
    "lod": "attending", "tokens": "attending", "membership": "attending",
    "reported_weights": "report", "reported_tensions": "report",
}  # fmt: skip
"""Role -> stage in which a fault at its site lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One way to be wrong, at one place.

    Attributes:
        name: `operator:where`, with `@strength` where it can be dialled.
        stage: where it lies.
        sentence: what is wrong, in plain words.
        plant: returns a faulty copy of a model; raises NotApplicable where the model lacks the
            place.
        also: other stages that own it as rightly.
        strength: how much of it there is.
        equivalent: proof that no output can change.
    """

    name: str
    stage: str
    sentence: str
    plant: Callable[[Model], Model]
    also: tuple[str, ...] = ()
    strength: float | None = None
    equivalent: str = ""


def planted(operators: Iterable[Operator], sound: Callable[[], Model]) -> tuple[Fault, ...]:
    """Return a fault for each operator that the sound model has a place for."""
    return tuple(_fault(one, sound) for one in operators if _fits(one, sound))


def _fits(one: Operator, sound: Callable[[], Model]) -> bool:
    try:
        one.plant(sound())
    except NotApplicable:
        return False
    return True


def _fault(one: Operator, sound: Callable[[], Model]) -> Fault:
    return Fault(
        name=one.name, stage=one.stage, sentence=one.sentence,
        make=lambda: one.plant(sound()), sound=sound, also=one.also, strength=one.strength,
        equivalent=one.equivalent,
    )  # fmt: skip


def named(operator: str, where: str, strength: float | None = None) -> str:
    """Return the name of a fault."""
    dose = "" if strength is None else f"@{strength:g}"
    return f"{operator}:{where}{dose}"


def words(role: str) -> str:
    """Return a role as it is said."""
    return role.replace("_", " ")


def listing(names: Sequence[str]) -> str:
    """Return names as they are said in a sentence."""
    return ", ".join(words(name) for name in names)
