"""Where commands write: tables to standard output, progress and warnings to standard error."""

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from arrcoc_verify import provenance
from arrcoc_verify.report.atomic import make_folder, write_text
from arrcoc_verify.report.text import visible
from arrcoc_verify.verdict import to_json

_WIDTH = 140
"""Columns of a table that no terminal shows, such as one that goes into a file."""


def console(*, stderr: bool = False) -> Console:
    """Return where to print; nothing is cut off or coloured when it is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def line(*parts: str) -> None:
    """Print one line as it is, however long: paths must stay whole."""
    print(*parts, flush=True)


def warn(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table whose cells are shown as they are, whatever a model put into its names.

    Columns whose name starts with `#` hold numbers.
    """
    made = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for place, name in enumerate(columns):
        made.add_column(
            name.removeprefix("#"), justify="right" if name[0] == "#" else "left",
            no_wrap=place == 0, overflow="fold",
        )  # fmt: skip
    for row in rows:
        cells = (cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row)
        made.add_row(*cells)
    return made


def write_json(path: Path | None, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON for others to read, if a file was asked for; whole or not at all."""
    if path is None:
        return
    make_folder(path.resolve().parent)
    text = json.dumps(to_json(data), ensure_ascii=False, allow_nan=False, indent=1)
    write_text(path, text + "\n")


def new_folder(suffix: str = "") -> Path:
    """Return where a run goes when nothing else is said: `reports/<UTC time>-<short id>`."""
    stamp = provenance.now().replace("-", "").replace(":", "")
    return Path("reports") / f"{stamp}-{secrets.token_hex(2)}{suffix}"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on standard error; yields a function of what is done, how many and of how many."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=visible(what, 48), completed=done, total=total)

        yield tell
