"""The published JSON Schemas (2020-12) of everything this package writes as JSON.

They lie beside this module as `schema/*.json`. A major version is part of a schema's `$id`; within
it fields are only ever added, and a reader ignores those that it does not know.
"""

import json
from pathlib import Path
from typing import Any

from arrcoc_verify.errors import UnknownName

_FOLDER = Path(__file__).parent / "schema"


def names() -> tuple[str, ...]:
    """Return the names of the schemas: `audit`, `event`, `run`."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def schema(name: str) -> dict[str, Any]:
    """Return a schema as JSON data; UnknownName when there is none of that name."""
    if name not in names():
        raise UnknownName("schema", name, names())
    data = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return dict(data)
