"""Verify that a query-aware visual token allocator does what it claims, by causes.

Public names load on first use (PEP 562), so `import arrcoc_verify` and the pytest plugin cost
nothing until a check needs torch. No public name is that of a module: importing the module would
put it in the name's place.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names for type checkers; a test keeps both lists equal
    from arrcoc_verify.adapters import Part as Part
    from arrcoc_verify.adapters import Place as Place
    from arrcoc_verify.adapters import describe as describe
    from arrcoc_verify.adapters import load as load
    from arrcoc_verify.adapters import whole as whole
    from arrcoc_verify.audit import run_audit as run_audit
    from arrcoc_verify.audit import scene_set as scene_set
    from arrcoc_verify.claim import Claim as Claim
    from arrcoc_verify.edit import Edit as Edit
    from arrcoc_verify.effect import Effects as Effects
    from arrcoc_verify.effect import effects as effects
    from arrcoc_verify.errors import ArrcocError as ArrcocError
    from arrcoc_verify.graph import ask as ask
    from arrcoc_verify.graph import resume as resume
    from arrcoc_verify.graph import run as run
    from arrcoc_verify.intervention import ablate as ablate
    from arrcoc_verify.intervention import clamp as clamp
    from arrcoc_verify.intervention import freeze as freeze
    from arrcoc_verify.intervention import patch as patch
    from arrcoc_verify.intervention import steer as steer
    from arrcoc_verify.lab import Lab as Lab
    from arrcoc_verify.metric import METRICS as METRICS
    from arrcoc_verify.metric import Metric as Metric
    from arrcoc_verify.model import Allocation as Allocation
    from arrcoc_verify.model import Declaration as Declaration
    from arrcoc_verify.model import Model as Model
    from arrcoc_verify.model import Site as Site
    from arrcoc_verify.model import Step as Step
    from arrcoc_verify.scenes.scene import Region as Region
    from arrcoc_verify.scenes.scene import Scene as Scene
    from arrcoc_verify.trial import Settings as Settings
    from arrcoc_verify.verdict import GateResult as GateResult
    from arrcoc_verify.verdict import Outcome as Outcome
    from arrcoc_verify.verdict import Verdict as Verdict

PUBLIC = {
    "Part": "adapters",
    "Place": "adapters",
    "describe": "adapters",
    "load": "adapters",
    "whole": "adapters",
    "run_audit": "audit",
    "scene_set": "audit",
    "Claim": "claim",
    "Lab": "lab",
    "Settings": "trial",
    "Edit": "edit",
    "Effects": "effect",
    "effects": "effect",
    "ArrcocError": "errors",
    "ask": "graph",
    "resume": "graph",
    "run": "graph",
    "ablate": "intervention",
    "clamp": "intervention",
    "freeze": "intervention",
    "patch": "intervention",
    "steer": "intervention",
    "METRICS": "metric",
    "Metric": "metric",
    "Allocation": "model",
    "Declaration": "model",
    "Model": "model",
    "Site": "model",
    "Step": "model",
    "Region": "scenes.scene",
    "Scene": "scenes.scene",
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
