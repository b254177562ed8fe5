"""The commands that train and measure the trained reference model."""

from pathlib import Path
from typing import Annotated

import typer

from arrcoc_verify.cli.options import TRAINED, File, JsonOption, SeedOption, option


def evaluate(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=TRAINED)] = "reference:trained",
    scenes: Annotated[int, option("--scenes", "N", "Scenes in each set of things.")] = 200,
    seed: SeedOption = 0,
    stamps: Annotated[
        File, option("--stamps", "DIR", "Photographed stamps with names, as one more test.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure where tokens go, what is read, and what rewording changes, on held-out scenes."""
    from arrcoc_verify.cli import training

    raise typer.Exit(training.evaluate(spec, n=scenes, seed=seed or 0, stamps=stamps, json=json))


def train_reference(  # noqa: PLR0913 - a door: one parameter an option
    pack: Annotated[Path, option("--pack", "DIR", "Training pack; docs/trained.md makes one.")],
    out: Annotated[Path, option("--out", "DIR", "Where state, weights and checkpoints go.")],
    recipe: Annotated[str, option("--recipe", "NAME", "gpu or cpu.")] = "gpu",
    device: Annotated[str, option("--device", "D", "cpu, cuda, cuda:1 ...")] = "cpu",
    minutes: Annotated[float, option("--minutes", "M", "Stop after so many; goes on later.")] = 60,
    steps: Annotated[int | None, option("--steps", "N", "On scenes, if not the recipe's.")] = None,
    seed: SeedOption = None,
) -> None:
    """Train the reference model from a pack; stopped or out of time, it goes on where it was."""
    from arrcoc_verify.cli import training

    asked = {"steps": steps, "seed": seed}
    changes = {key: value for key, value in asked.items() if value is not None}
    code = training.train(pack, out, recipe=recipe, device=device, minutes=minutes, changes=changes)
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(
        short_help="Measure the trained reference model.",
        epilog="Example: arrcoc-verify evaluate reference:trained --json trained.json",
    )(evaluate)
    app.command(
        "train-reference",
        short_help="Train the trained reference model anew.",
        epilog="Example: arrcoc-verify train-reference --pack pack/ --out run/ --device cuda",
    )(train_reference)
