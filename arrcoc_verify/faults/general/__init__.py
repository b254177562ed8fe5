"""General fault operators: each goes into any model that has a site with the role it needs."""

import functools
from collections.abc import Callable

from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.general import entering, harmless, maps, memory, spending, vectors
from arrcoc_verify.faults.general.operator import Operator, planted
from arrcoc_verify.model import Model


@functools.cache
def operators() -> tuple[Operator, ...]:
    """Return every general operator."""
    return (
        *entering.operators(), *maps.operators(), *vectors.operators(), *spending.operators(),
        *memory.operators(), *harmless.operators(),
    )  # fmt: skip


def faults_of(sound: Callable[[], Model]) -> tuple[Fault, ...]:
    """Return every general fault that a sound model has a place for."""
    return planted(operators(), sound)
