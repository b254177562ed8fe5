"""Every fault that is planted into the analytic reference model, by stage."""

from arrcoc_verify.errors import UnknownName
from arrcoc_verify.faults import attending, balancing, blunt, knowing, reading, runtime
from arrcoc_verify.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *reading.FAULTS, *knowing.FAULTS, *balancing.FAULTS, *attending.FAULTS, *runtime.FAULTS,
    *blunt.FAULTS,
)  # fmt: skip
"""All faults; names are unique."""


def fault(name: str) -> Fault:
    """Return the fault with this name.

    Raises:
        UnknownName: there is none; the nearest is suggested.
    """
    found = next((one for one in FAULTS if one.name == name), None)
    if found is None:
        raise UnknownName("fault", name, [one.name for one in FAULTS])
    return found
