"""Commands that need a record only, and no torch: report, diff, schema."""

import json as json_module
from collections.abc import Callable, Mapping
from pathlib import Path

from arrcoc_verify.cli.output import console, line, warn, write_json
from arrcoc_verify.report.atomic import make_folder, write_text
from arrcoc_verify.report.record import Record


def report(run: Path, out: Path | None, views: Mapping[str, Path | None]) -> int:
    """Render the page and the views that were asked for; 2 when the record does not add up."""
    from arrcoc_verify.report.html import render
    from arrcoc_verify.report.junit import render_junit
    from arrcoc_verify.report.markdown import render_markdown
    from arrcoc_verify.report.sarif import render_sarif

    renderers: Mapping[str, Callable[[Record], str]] = {
        "html": render, "junit": render_junit, "sarif": render_sarif, "markdown": render_markdown,
    }  # fmt: skip
    record = Record.load(run, strict=False)
    for kind, path in {**views, "html": out or run / "report.html"}.items():
        if path is None:
            continue
        make_folder(path.resolve().parent)
        write_text(path, renderers[kind](record))
        line(str(path))
    if record.problems:
        problems = "\n  ".join(record.problems)
        warn(f"arrcoc-verify: the record {run} does not add up, as the page says:\n  {problems}")
    return 2 if record.problems else 0


def diff(run_a: Path, run_b: Path, *, json: Path | None, html: Path | None, unchanged: bool) -> int:
    """Compare two records; 1 when a verdict flipped for the worse."""
    from arrcoc_verify.report import diff as difference

    found = difference.diff(Record.load(run_a, strict=False), Record.load(run_b, strict=False))
    console().print(difference.diff_table(found, unchanged=unchanged))
    for caution in found.cautions:
        warn(f"note: {caution}")
    worse = [change for change in found.flipped if change.better is False]
    better = [change for change in found.flipped if change.better]
    line(
        f"{len(found.flipped)} of {len(found.changes)} verdicts flipped: "
        f"{len(worse)} for the worse, {len(better)} for the better"
    )
    write_json(json, {**found.to_json(), "worse": [change.id for change in worse]})
    if html is not None:
        make_folder(html.resolve().parent)
        line(str(difference.write_diff_page(found, html)))
    return 1 if worse else 0


def schema(name: str | None) -> int:
    """Print one schema, or the names of all."""
    from arrcoc_verify.report import schema as schemas

    if name is None:
        for known in schemas.names():
            line(f"{known:<8} {schemas.schema(known).get('description', '')}".rstrip())
    else:
        line(json_module.dumps(schemas.schema(name), indent=2, ensure_ascii=False))
    return 0
