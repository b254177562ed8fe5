"""Print what is true of an adapter: `python -m arrcoc_verify.adapters.conformance SPEC`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from arrcoc_verify.adapters import FORMS, load
from arrcoc_verify.adapters.conformance import CHECKS, Result, check
from arrcoc_verify.errors import UsageError

WORDS = {True: "[green]true[/green]", False: "[red]false[/red]", None: "[dim]-[/dim]"}


def main(arguments: list[str] | None = None) -> int:
    """Check the named model; return 0 when nothing is false, 1 when something is, 4 else."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.adapters.conformance")
    parser.add_argument("spec", help=FORMS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE, too")
    chosen = parser.parse_args(arguments)
    console = Console()
    try:
        model = load(chosen.spec)
        with console.status(f"checking {model.name}"):
            results = check(model)
    except UsageError as error:
        Console(stderr=True).print(escape(str(error)))
        return 4
    console.print(table(model.name, results))
    if chosen.json is not None:
        data = [dataclasses.asdict(result) for result in results]
        chosen.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 1 if any(result.passed is False for result in results) else 0


def table(name: str, results: list[Result]) -> Table:
    """Return the results as a table."""
    drawn = Table("check", "", "found", title=f"What {escape(name)} declares")
    sentences = {item.id: item.sentence for item in CHECKS}
    for result in results:
        what = f"{result.id}\n[dim]{escape(sentences[result.id])}[/dim]"
        drawn.add_row(what, WORDS[result.passed], escape(result.reason))
    return drawn


if __name__ == "__main__":
    sys.exit(main())
