"""Every fault that is planted into the analytic reference model, by stage."""

from arrcoc_verify.errors import UnknownName
from arrcoc_verify.faults import attending, balancing, blunt, knowing, reading, runtime
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.general import faults_of
from arrcoc_verify.reference import analytic

CHOSEN = frozenset({
    "map-transposed:salience", "map-coarse:salience", "map-quantised:query_relevance@4",
    "query-tail:all@5", "query-capitals-lost:all", "map-capped:information@0.5",
    "map-swollen:information", "map-capped:relevance@0.5", "map-quantised:relevance@8",
    "vector-doubled:weights-0", "vector-doubled:tensions-1", "map-blurred:information@3",
    "map-blurred:query_relevance@5", "map-floored:information",
})  # fmt: skip
"""General faults that are controls of claims."""

FAULTS: tuple[Fault, ...] = (
    *reading.FAULTS, *knowing.FAULTS, *balancing.FAULTS, *attending.FAULTS, *runtime.FAULTS,
    *blunt.FAULTS, *(one for one in faults_of(analytic.model) if one.name in CHOSEN),
)  # fmt: skip
"""Controls of the claims: the faults of the kept matrix; names are unique."""


def fault(name: str) -> Fault:
    """Return the fault with this name.

    Raises:
        UnknownName: there is none; the nearest is suggested.
    """
    found = next((one for one in FAULTS if one.name == name), None)
    if found is None:
        raise UnknownName("fault", name, [one.name for one in FAULTS])
    return found
