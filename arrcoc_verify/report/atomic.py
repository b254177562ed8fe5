"""Writing files so that a reader never sees half of one.

A file is written beside its place under a temporary name, flushed to the disk and renamed over it;
whatever fails on the way leaves the old file, or none, and no temporary one.
"""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from arrcoc_verify.errors import RecordError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "the folder cannot be written: change its permissions or choose another folder",
    errno.EPERM: "the folder cannot be written: change its permissions or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is wanted: choose another folder",
    errno.EEXIST: "a file stands where a folder is wanted: choose another folder",
}


def write_error(path: Path, error: OSError) -> RecordError:
    """Return an error that says which file could not be written, why, and what to try."""
    why = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "check the folder and try again")
    return RecordError(f"cannot write {path}: {why}; {advice}. What was written before is kept.")


def make_folder(path: Path) -> None:
    """Make a folder and its parents; RecordError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once; RecordError when the disk is full or cannot be written."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file at once, as UTF-8 with Unix line ends."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
