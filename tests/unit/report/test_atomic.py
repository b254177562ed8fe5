import errno
import os
from pathlib import Path

import pytest

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report.atomic import make_folder, write_bytes, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_text(path, "new")
    assert ["file"] == [p.name for p in tmp_path.iterdir()]
    assert "new" == path.read_text()


def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="disk is full: free some space"):
        write_bytes(path, b"new")
    assert ["file"] == [p.name for p in tmp_path.iterdir()]
    assert "old" == path.read_text()


def test_an_interrupt_while_writing_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert [] == list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="a file stands where a folder is wanted"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(RecordError, match=r"cannot write .*file"):
        write_bytes(tmp_path / "file" / "below", b"")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file or directory; check the folder"):
        write_bytes(tmp_path / "no" / "file", b"")


def test_text_that_is_no_unicode_is_written_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "a\ud800")
    assert "a\\ud800" == (tmp_path / "file").read_text()
