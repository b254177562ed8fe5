"""The commands and their options; what they do is loaded when they run."""

from pathlib import Path
from typing import Annotated

import typer

from arrcoc_verify.cli import (
    debug_commands,
    dictionary_commands,
    selftest_commands,
    training_commands,
)
from arrcoc_verify.cli.options import (
    MODEL,
    File,
    ImagesOption,
    JsonOption,
    ModelOption,
    PerClusterOption,
    Run,
    SeedOption,
    SkipOption,
    option,
)

app = typer.Typer(
    name="arrcoc-verify",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

EPILOG = """\b
Exit codes: 0 holds, 1 refuted, 2 invalid or not run, 3 inconclusive, 4 usage, 130 stopped.
Example: arrcoc-verify audit --model mymodel.adapters:load --images pictures/
"""


@app.callback(invoke_without_command=True, epilog=EPILOG)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Verify by causes that a query-aware visual token allocator does what it claims.

    Settings may also stand in pyproject.toml under [tool.arrcoc_verify].
    """
    if version:
        from arrcoc_verify.provenance import version as installed

        print(f"arrcoc-verify {installed()}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(4)


@app.command(
    short_help="Judge the claims that are made of a model.",
    epilog="Example: arrcoc-verify audit --model router.toml --images pictures/ --json audit.json",
)
def audit(  # noqa: PLR0913 - a door: one parameter an option
    model: ModelOption = None,
    images: ImagesOption = None,
    profile: Annotated[
        File, option("--profile", "P", "TOML file, or `default`; else the model's own.")
    ] = None,
    out: Annotated[
        File, option("--out", "DIR", "Record and page; default reports/<time>-<id>.")
    ] = None,
    seed: SeedOption = None,
    device: Annotated[str | None, option("--device", "cpu|cuda", "Where the model runs.")] = None,
    json: JsonOption = None,
    claims: Annotated[
        list[str] | None,
        option("--claims", "PATTERN", "Only these, as 'balancing.*'; repeatable."),
    ] = None,
    per_cluster: PerClusterOption = None,
    alpha: Annotated[
        float | None, option("--alpha", "A", "Family-wise error; default 0.01.")
    ] = None,
    skip_bad_rows: SkipOption = False,
    dictionaries: Annotated[
        File,
        option("--dictionaries", "DIR", "Of `train-dictionary`; adds claims on their features."),
    ] = None,
    resume: Annotated[File, option("--resume", "DIR", "Go on with a run that was stopped.")] = None,
) -> None:
    """Judge every claim that is made of a model; write a record and a page."""
    from arrcoc_verify.cli import auditing

    given = {
        "model": model, "images": images, "profile": None if profile is None else str(profile),
        "out": out, "seed": seed, "device": device, "claims": claims, "per_cluster": per_cluster,
        "alpha": alpha, "skip_bad_rows": skip_bad_rows or None,
    }  # fmt: skip
    raise typer.Exit(auditing.audit(given, json=json, resume=resume, dictionaries=dictionaries))


@app.command(
    short_help="List what can be read and written.",
    epilog="Example: arrcoc-verify sites --model router.toml --json sites.json",
)
def sites(
    model: ModelOption = None,
    json: JsonOption = None,
) -> None:
    """List the places of a model that can be read and written, with what they hold."""
    from arrcoc_verify.cli import reading

    raise typer.Exit(reading.sites({"model": model}, json=json))


@app.command(
    short_help="Read sites into a store of activations.",
    epilog="Example: arrcoc-verify capture --model router.toml --sites 'knowing.*' --out store",
)
def capture(  # noqa: PLR0913 - a door: one parameter an option
    model: ModelOption = None,
    images: ImagesOption = None,
    sites: Annotated[
        list[str] | None,
        option("--sites", "PATTERN", "Which, as 'knowing.*', or '!name' to leave out; repeatable."),
    ] = None,
    out: Annotated[File, option("--out", "DIR", "The store; default reports/<time>-<id>.")] = None,
    seed: SeedOption = None,
    per_cluster: PerClusterOption = None,
    shard_examples: Annotated[
        int | None, option("--shard-examples", "N", "Examples of a shard at most; bounds memory.")
    ] = None,
    batch_size: Annotated[
        int | None, option("--batch-size", "N", "Images that go through together.")
    ] = None,
    skip_bad_rows: SkipOption = False,
    json: JsonOption = None,
    resume: Annotated[
        File, option("--resume", "DIR", "Go on with a store that was begun by the same options.")
    ] = None,
) -> None:
    """Read sites over pictures into a store of activations; a stopped one goes on when repeated."""
    from arrcoc_verify.cli import reading

    given = {
        "model": model, "images": images, "out": resume or out, "seed": seed,
        "per_cluster": per_cluster, "skip_bad_rows": skip_bad_rows or None,
    }  # fmt: skip
    size = {"shard_examples": shard_examples, "batch_size": batch_size}
    code = reading.capture(given, sites or ["*"], size, json=json, resumed=resume is not None)
    raise typer.Exit(code)


@app.command(
    short_help="Make the page of a run again.",
    epilog="Example: arrcoc-verify report reports/example --junit junit.xml --markdown summary.md",
)
def report(
    run: Run,
    out: Annotated[File, option("--out", "FILE", "The page; default RUN/report.html.")] = None,
    junit: Annotated[File, option("--junit", "FILE", "Also as JUnit XML.")] = None,
    sarif: Annotated[File, option("--sarif", "FILE", "Also as SARIF.")] = None,
    markdown: Annotated[File, option("--markdown", "FILE", "Also as Markdown.")] = None,
) -> None:
    """Make the page and other views of a run again from its record, without torch."""
    from arrcoc_verify.cli import views

    raise typer.Exit(views.report(run, out, {"junit": junit, "sarif": sarif, "markdown": markdown}))


@app.command(
    short_help="Compare the verdicts of two runs.",
    epilog="Example: arrcoc-verify diff reports/before reports/after --html diff.html",
)
def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The record to compare with.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The record that is compared.")],
    json: JsonOption = None,
    html: Annotated[File, option("--html", "FILE", "Write the difference as a page, too.")] = None,
    all_claims: Annotated[bool, typer.Option("--all", help="Show unchanged claims, too.")] = False,
) -> None:
    """Say which verdicts flipped between two runs and by how much effects moved.

    Exit code 1 when a verdict flipped for the worse, else 0.
    """
    from arrcoc_verify.cli import views

    raise typer.Exit(views.diff(run_a, run_b, json=json, html=html, unchanged=all_claims))


@app.command(
    short_help="Print the JSON Schemas.",
    epilog="Example: arrcoc-verify schema run > run.schema.json",
)
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="audit, event or run.")
    ] = None,
) -> None:
    """Print the JSON Schema of what this program writes, or the names of the schemas."""
    from arrcoc_verify.cli import views

    raise typer.Exit(views.schema(name))


@app.command(
    short_help="List the built-in claims.",
    epilog="Example: arrcoc-verify claims 'knowing.*'",
)
def claims(
    pattern: Annotated[
        list[str] | None, typer.Argument(metavar="[PATTERN]...", help="Such as 'balancing.*'.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """List the built-in claims: id, sentence, margin, unit and source."""
    from arrcoc_verify.cli import reading

    raise typer.Exit(reading.claims(pattern or ["*"], json=json))


@app.command(
    short_help="Test what an adapter declares.",
    epilog="Example: arrcoc-verify conformance router.toml --json conformance.json",
)
def conformance(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=MODEL)],
    json: JsonOption = None,
) -> None:
    """Test that what an adapter declares of its model is true; exit code 1 when it is not."""
    from arrcoc_verify.cli import reading

    raise typer.Exit(reading.conformance(spec, json=json))


for module in (training_commands, dictionary_commands, debug_commands, selftest_commands):
    module.register(app)
