"""The command sae-world: dictionaries on a planted world whose features are known."""

from collections.abc import Sequence
from pathlib import Path

from arrcoc_verify.cli.output import console, line, progress, table, write_json
from arrcoc_verify.errors import UnknownName, UsageError


def sae_world(
    *,
    seed: int,
    seeds: int,
    steps: int,
    ks: Sequence[float],
    architectures: Sequence[str],
    json: Path | None,
) -> int:
    """Train every architecture at every k and show what it recovers of the truth."""
    from arrcoc_verify.dictionary.architecture import ARCHITECTURES
    from arrcoc_verify.dictionary.sweep import sweep

    for name in architectures:
        if name not in ARCHITECTURES:
            raise UnknownName("architecture", name, ARCHITECTURES)
    if seeds < 2:
        raise UsageError(f"stability takes two seeds or more, got {seeds}")
    if min(ks) < 1:
        raise UsageError(f"k is 1 or more, got {min(ks):g}")
    fits = len(architectures) * len(ks) * seeds + 1
    with progress() as tell:
        count = iter(range(10**6))
        found = sweep(
            seed=seed, seeds=seeds, steps=steps, ks=ks,
            architectures=architectures,  # type: ignore[arg-type]
            tell=lambda text: tell(text, next(count), fits),
        )  # fmt: skip
    keys = ("fve", "l0", "dead", "rare", "f1", "mcc", "unique", "absorbed", "stable")
    rows = [
        (one["architecture"], f"{one['k']:g}", *(f"{one[key]:.3f}" for key in keys))
        for one in found["rows"]
    ]
    names = ("#FVE", "#L0", "#dead", "#rare", "#F1", "#MCC", "#unique", "#absorbed", "#stable")
    world = found["world"]
    title = (f"{world['features']} features in {world['channels']} channels, L0 {world['l0']:.1f}; "
             f"logistic probes reach F1 {found['probe_ceiling_f1']:.3f}")  # fmt: skip
    console().print(table(title, ("architecture", "#k", *names), rows))
    write_json(json, found)
    line(f"means over {seeds} seeds; {found['seconds']:.0f} s")
    return 0
