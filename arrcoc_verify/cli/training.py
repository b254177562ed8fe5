"""What the commands `evaluate` and `train-reference` do."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrcoc_verify.cli.ending import Stopped
from arrcoc_verify.cli.output import console, line, progress, table, warn, write_json
from arrcoc_verify.errors import UsageError
from arrcoc_verify.report.text import number

SAY_EVERY = 25
"""Steps between two lines where no terminal shows a bar."""


def evaluate(spec: str, *, n: int, seed: int, stamps: Path | None, json: Path | None) -> int:
    """Measure a model that reads marks from realised patches; write the card's figures."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.reference.trained import evaluation, objects

    if n < evaluation.LEAST:
        raise UsageError(f"wanted {evaluation.LEAST} scenes or more in each set, got {n}")
    model = load(spec)
    further = list(objects.stamps(stamps)) if stamps is not None else []
    with progress() as tell:
        found = evaluation.evaluate(model, n=n, seed=seed, tell=tell, stamps=further)
    rows = [
        (name, number(one["value"]), _between(one.get("interval")), one["n"])
        for name, one in found.items() if isinstance(one, dict) and "value" in one
    ]  # fmt: skip
    console().print(table(f"{model.name} on held-out scenes",
                          ("figure", "#value", "#95 % interval", "#scenes"), rows))  # fmt: skip
    write_json(json, {"model": model.name, "seed": seed, **found})
    return 0


def _between(interval: object) -> str:
    if not isinstance(interval, list):
        return ""
    return " .. ".join(number(end) for end in interval)


def train(
    pack: Path, out: Path, *, recipe: str, device: str, minutes: float, changes: dict[str, Any]
) -> int:
    """Train the reference model for some minutes; say how to go on."""
    from arrcoc_verify.reference.trained import training

    if recipe not in training.RECIPES:
        raise UsageError(f"wanted a recipe of {', '.join(training.RECIPES)}, got {recipe!r}")
    if minutes <= 0:
        raise UsageError(f"wanted more than 0 minutes, got {minutes:g}")
    chosen = dataclasses.replace(training.RECIPES[recipe], **changes)
    _require_device(device)
    with progress() as bar:
        tell = bar if sys.stderr.isatty() else _lines()
        try:
            done = training.train(pack, out, chosen, device=device, minutes=minutes, tell=tell)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; the last state is in {out}: the same command goes on from there"
            ) from None
    if not done:
        warn(f"time is up; the same command goes on from the state in {out}")
        return 0
    line(f"trained: {out / 'model.safetensors'}")
    line(f"use it as --model reference:trained@{out / 'model.safetensors'}")
    return 0


def _require_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"cannot use device {device!r}: {error}; try --device cpu") from error


def _lines() -> Callable[[str, int, int], None]:
    def tell(what: str, done: int, total: int) -> None:
        if done % SAY_EVERY == 0 or done == total:
            warn(f"{done}/{total} {what}")

    return tell
