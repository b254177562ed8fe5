"""A realistic record, made once; tests that change one take a copy."""

import shutil
from pathlib import Path

import pytest

from arrcoc_verify.report.record import Record
from tests.reports.made_record import make_record


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "record"
    make_record(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the record that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "record"))


@pytest.fixture(scope="session")
def record(made: Path) -> Record:
    return Record.load(made)
