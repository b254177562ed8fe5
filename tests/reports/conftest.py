"""The record and the page that these tests look at, each made once."""

from pathlib import Path

import pytest

from arrcoc_verify.report.html import write_page
from arrcoc_verify.report.record import Record
from tests.reports.made_record import make_record


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return make_record(tmp_path_factory.mktemp("made") / "record")


@pytest.fixture(scope="session")
def page(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(record, tmp_path_factory.mktemp("page") / "audit.html")
