"""Commands that look at a model and judge no claim: sites, capture, claims, conformance."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arrcoc_verify import provenance
from arrcoc_verify.cli.ending import Stopped
from arrcoc_verify.cli.output import console, line, new_folder, progress, table, write_json
from arrcoc_verify.config import REFERENCE, Config, Layer, from_pyproject, settle
from arrcoc_verify.errors import UsageError
from arrcoc_verify.report.text import number


def settled(given: Mapping[str, Any]) -> Config:
    """Return the settings of the command line over those of the nearest pyproject.toml."""
    return settle(from_pyproject(Path.cwd()), Layer(name="the command line", values=given))


def sites(given: Mapping[str, Any], *, json: Path | None) -> int:
    """Show what every declared site holds for one photograph; 2 when one did not fire."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.capture import describe_sites
    from arrcoc_verify.scenes import fixtures

    model = load(settled(given).model or REFERENCE)
    height, width = model.declaration.image_size
    photograph = fixtures.photograph(fixtures.manifest().photographs[0].id)
    found = describe_sites(model, photograph.resize((width, height)), "find the purple bird")
    rows = [
        (
            one.name, one.stage, one.role or "", " x ".join(one.axes[1:]) or "one an image",
            "never fired" if one.shape is None else " x ".join(map(str, one.shape)) or "1",
            (one.dtype or "").removeprefix("float"), "yes" if one.writable else "no",
        )
        for one in found
    ]  # fmt: skip
    columns = ("site", "stage", "role", "axes", "shape", "bits", "writable")
    console().print(table(f"{model.name}: {len(found)} sites", columns, rows))
    for one in found:
        if one.problem:
            line(f"{one.name}: {one.problem}")
    write_json(json, {"model": model.name, "sites": [dataclasses.asdict(one) for one in found]})
    return 0 if all(one.fired for one in found) else 2


def capture(
    given: Mapping[str, Any],
    patterns: Sequence[str],
    size: Mapping[str, int | None],
    *,
    json: Path | None,
    resumed: bool,
) -> int:
    """Read sites over scenes into a store."""
    from arrcoc_verify import capture as capturing
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import scene_set

    config = settled(given)
    if resumed and config.out is not None and not config.out.is_dir():
        raise UsageError(
            f"wanted the folder of a store to go on with, found none at {config.out}: "
            "name the folder that --out named, or leave --resume out"
        )
    folder = config.out or new_folder("-activations")
    model = load(config.model or REFERENCE)
    chosen = capturing.choose_sites(model, patterns)  # before the pictures are read
    scenes = scene_set(
        model, config.images, per_cluster=config.per_cluster, seed=config.seed,
        skip_bad=config.skip_bad_rows,
    )  # fmt: skip
    started = time.perf_counter()
    limits: dict[str, Any] = {key: value for key, value in size.items() if value is not None}
    try:
        store = capturing.capture(
            model, scenes.asserted, folder=folder, sites=chosen, seed=config.seed, **limits
        )
    except KeyboardInterrupt as stop:
        note = " ".join(getattr(stop, "__notes__", ()))
        raise Stopped(
            f"stopped. {note} To go on: the same command with --resume {folder}"
        ) from None
    line(f"{len(store)} examples of {len(store.sites)} sites in {folder}")
    write_json(
        json,
        {
            "model": model.name,
            "folder": str(folder),
            "examples": len(store),
            "sites": [
                {"name": site.name, "stage": site.stage, "shape": site.shape, "dtype": site.dtype}
                for site in store.sites.values()
            ],
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "skipped": scenes.skipped,
            "seconds": time.perf_counter() - started,
            "peak_mib": provenance.peak_mib(),
        },
    )
    return 0


def claims(patterns: Sequence[str], *, json: Path | None) -> int:
    """List the built-in claims."""
    from arrcoc_verify.suite import select

    found = select(patterns)
    rows = [
        (one.id, one.sentence, number(one.margin) if one.margin is not None else "none broken",
         one.unit, one.source)
        for one in found
    ]  # fmt: skip
    console().print(
        table(f"{len(found)} claims", ("claim", "said", "#margin", "unit", "source"), rows)
    )
    keys = ("id", "sentence", "stage", "kind", "operation", "margin", "unit", "source", "gates")
    write_json(json, {"claims": [{key: getattr(one, key) for key in keys} for one in found]})
    return 0


def conformance(spec: str, *, json: Path | None) -> int:
    """Test an adapter's declarations; 1 when one is not true, 2 when none could be judged."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.adapters.conformance import CHECKS, check

    model = load(spec)
    with progress() as tell:
        tell("checking what is declared", 0, len(CHECKS))
        results = check(model)
    words = {True: "true", False: "NOT TRUE", None: "not judged"}
    sentences = {one.id: one.sentence for one in CHECKS}
    rows = [(one.id, words[one.passed], one.reason or sentences[one.id]) for one in results]
    console().print(table(f"{model.name}: what it declares", ("check", "is", "found"), rows))
    write_json(
        json,
        {
            "model": model.name,
            "checks": [{"id": r.id, "passed": r.passed, "reason": r.reason} for r in results],
        },
    )
    if any(one.passed is False for one in results):
        return 1
    return 0 if any(one.passed for one in results) else 2
