"""How a command ends: every failure as a message on standard error and an exit code of its own."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from arrcoc_verify.cli.heap import keep_freed
from arrcoc_verify.errors import ArrcocError, BadTable, UsageError

FAILED, USAGE, INTERRUPTED = 2, 4, 130


class Stopped(Exception):
    """The user stopped a command; the message says how to go on."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave the process with its exit code; never shows a traceback of ours."""
    keep_freed()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    from arrcoc_verify.cli.app import app

    try:
        code = app(args=arguments, prog_name="arrcoc-verify", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except typer.Exit as leaving:
        return int(leaving.exit_code)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `| head` does: not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last one who can say it
        text, code = _end(error)
        print(f"arrcoc-verify: {text}", file=sys.stderr, flush=True)
        return code


def _end(error: BaseException) -> tuple[str, int]:
    """Return what to say and the exit code; a fault of ours brings its traceback, which helps."""
    if isinstance(error, Stopped):
        return str(error), INTERRUPTED
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return "stopped; nothing was left half written", INTERRUPTED
    if isinstance(error, BadTable):
        return f"{_words(error)}\n  to leave them out: --skip-bad-rows", USAGE
    if isinstance(error, ArrcocError):
        return _words(error), USAGE if isinstance(error, UsageError) else FAILED
    if isinstance(error, OSError):
        return _disk(error), FAILED
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # the parser's own
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "arrcoc-verify"
        return f"{format_message()} Try: {command} --help", USAGE
    traceback.print_exception(error)
    return "this is a fault of arrcoc-verify, not of your model: please report it", FAILED


def _words(error: ArrcocError) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def _disk(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"cannot write{where}: the disk is full; free some space or choose another folder. "
            "What was written before is kept"
        )
    return f"cannot read or write{where}: {error.strerror or error}; check the path and try again"
