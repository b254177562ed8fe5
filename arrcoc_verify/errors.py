"""Every error this package raises on purpose.

ArrcocError
├── UsageError                 the user can mend it: a command exits with 4
│   ├── UnknownName            a site, claim or key that does not exist; suggests the nearest
│   ├── BadImage               missing, truncated, oversized or undecodable picture
│   ├── BadQuery               empty or not text
│   ├── BadRegion              box or mask outside the image
│   ├── BadTable               a row of a CSV or COCO file that cannot be used
│   ├── BadModel               a model, declaration or weights file that cannot be loaded safely
│   └── BadConfig              unknown key or wrong type in configuration
├── ModelFault                 the model under test broke the contract of its adapter
│   ├── TrainingMode           a module is in training mode
│   ├── CompiledModule         a compiled module would ignore hooks silently
│   ├── SiteDidNotFire         an intervention or a reading met no activation
│   ├── SiteFiredTwice         one site fired more than once in one run
│   ├── ShapeMismatch          an activation or a replacement has another shape than declared
│   └── NonFinite              NaN or infinity in a stage
├── StoreError                 an activation store is damaged, incomplete or of another model
├── RecordError                a record cannot be read or does not add up
└── TooFewUnits                statistics refused: n is too small for the level asked for
"""

import difflib
from collections.abc import Iterable


class ArrcocError(Exception):
    """Base of all errors of this package."""


class UsageError(ArrcocError):
    """Something the user can mend; commands exit with 4."""


class UnknownName(UsageError):
    """A name that does not exist, with the nearest that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listing = ", ".join(known[:40]) or "none"
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {listing}")
        self.name = name
        self.nearest = near[0] if near else None


class BadImage(UsageError):
    """A picture that is missing, truncated, too large or not decodable."""


class BadQuery(UsageError):
    """A query that is empty or not text."""


class BadRegion(UsageError):
    """A box or mask that does not lie inside its image."""


class BadTable(UsageError):
    """A row of a CSV or COCO file that cannot be used."""


class BadModel(UsageError):
    """A model, declaration or weights file that cannot be loaded safely."""


class BadConfig(UsageError):
    """An unknown key or a wrong type in the configuration."""


class ModelFault(ArrcocError):
    """The model under test broke the contract of its adapter."""


class TrainingMode(ModelFault):
    """A module of the model under test is in training mode."""


class CompiledModule(ModelFault):
    """A compiled module would ignore hooks silently."""


class SiteDidNotFire(ModelFault):
    """An intervention or a reading met no activation."""


class SiteFiredTwice(ModelFault):
    """One site fired more than once in one run."""


class ShapeMismatch(ModelFault):
    """An activation or a replacement has another shape than declared."""


class NonFinite(ModelFault):
    """NaN or infinity in a stage."""


class StoreError(ArrcocError):
    """An activation store is damaged, incomplete or of another model."""


class RecordError(ArrcocError):
    """A record cannot be read or does not add up."""


class TooFewUnits(ArrcocError):
    """Statistics refused: n is too small for the level asked for."""
