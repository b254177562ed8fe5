"""Put the data that an installed wheel needs beside the code: fixtures and the kept selftest."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DATA = {
    "fixtures": "arrcoc_verify/_fixtures",
    "reports/selftest.json": "arrcoc_verify/_fixtures/selftest.json",
    "reports/calibration.json": "arrcoc_verify/_fixtures/calibration.json",
}


class PackageData(BuildHookInterface[Any]):
    """Copy `DATA` into a wheel; an editable install reads the checkout instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what exists of `DATA` to the wheel."""
        if version == "editable":
            return
        for source, target in DATA.items():
            path = Path(self.root, source)
            if path.exists():
                build_data["force_include"][str(path)] = target
