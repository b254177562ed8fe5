"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

MODEL = (
    "reference:analytic (default), reference:trained, FILE.toml, package.module:factory, "
    "FILE.py:factory or arrcoc01:FOLDER."
)
TRAINED = "reference:trained, or reference:trained@FILE with other weights."
IMAGES = "Folder of photographs, CSV with image,query,box, or COCO json; default: those embedded."
ModelOption = Annotated[str | None, typer.Option("--model", metavar="M", help=MODEL)]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", metavar="DIR|CSV|COCO", help=IMAGES)
]  # fmt: skip
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of every draw.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON, too.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out what cannot be used, and list it.")
]
PerClusterOption = Annotated[
    int | None,
    typer.Option("--per-cluster", metavar="N", help="Scenes of each independent cluster."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run's record.")]
File = Path | None


def option(name: str, metavar: str, text: str) -> Any:
    """Return an option that takes a value of its own."""
    return typer.Option(name, metavar=metavar, help=text)
