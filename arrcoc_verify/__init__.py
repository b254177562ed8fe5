"""Verify that a query-aware visual token allocator does what it claims, by causes.

Public names load on first use (PEP 562), so `import arrcoc_verify` and the pytest plugin cost
nothing until a check needs torch. No public name is that of a module: importing the module would
put it in the name's place.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names for type checkers; a test keeps both lists equal
    from arrcoc_verify.errors import ArrcocError as ArrcocError
    from arrcoc_verify.model import Allocation as Allocation
    from arrcoc_verify.model import Declaration as Declaration
    from arrcoc_verify.model import Model as Model
    from arrcoc_verify.model import Site as Site
    from arrcoc_verify.model import Step as Step
    from arrcoc_verify.verdict import GateResult as GateResult
    from arrcoc_verify.verdict import Outcome as Outcome
    from arrcoc_verify.verdict import Verdict as Verdict

PUBLIC = {
    "ArrcocError": "errors",
    "Allocation": "model",
    "Declaration": "model",
    "Model": "model",
    "Site": "model",
    "Step": "model",
    "GateResult": "verdict",
    "Outcome": "verdict",
    "Verdict": "verdict",
}
"""Public name -> the module of this package that defines it."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.metadata.version("arrcoc-verify")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC, "__version__"})
