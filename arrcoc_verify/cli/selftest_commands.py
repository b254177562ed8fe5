"""The command that measures this verifier."""

from typing import Annotated

import typer

from arrcoc_verify.cli.options import File, JsonOption, ModelOption, option


def selftest(  # noqa: PLR0913 - a door: one parameter an option
    model: ModelOption = None,
    faults: Annotated[
        list[str] | None, option("--faults", "PATTERN", "Only these, as 'map-*'; repeatable.")
    ] = None,
    sample: Annotated[
        int | None, option("--sample", "N", "Only so many of them, drawn by a hash of their names.")
    ] = None,
    seeds: Annotated[int, option("--seeds", "N", "Draws of scenes for each fault.")] = 1,
    healthy: Annotated[
        int | None,
        option("--healthy", "N", "Runs on healthy models; default 300, or 20 of slower models."),
    ] = None,
    jobs: Annotated[int, option("--jobs", "N", "Processes.")] = 2,
    json: JsonOption = None,
    resume: Annotated[
        File, option("--resume", "DIR", "Where cases are kept; go on with those that are there.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Let audits show this run: it is kept in reports/.")
    ] = False,
) -> None:
    """Try the suite on models with planted faults and on healthy ones; print its error rates.

    Exit code 1 when a target is missed. A run that was stopped goes on when it is repeated.
    """
    from arrcoc_verify.cli import selftesting

    given = {
        "model": model, "faults": faults, "sample": sample, "seeds": seeds, "healthy": healthy,
        "jobs": jobs,
    }  # fmt: skip
    code = selftesting.selftest(given, json=json, folder=resume, keep=keep)
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(
        short_help="Measure how far this verifier can be trusted.",
        epilog="Example: arrcoc-verify selftest --faults 'map-*:relevance*' --healthy 0 "
        "--json s.json",
    )(selftest)
