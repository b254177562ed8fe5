"""The command `selftest`: the suite against planted faults and healthy models."""

import fnmatch
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from arrcoc_verify import provenance
from arrcoc_verify.cli.ending import Stopped
from arrcoc_verify.cli.output import console, line, progress, table, warn, write_json
from arrcoc_verify.errors import UnknownName, UsageError
from arrcoc_verify.faults.selftest import case, kept, running, score
from arrcoc_verify.report.text import number

TARGETS = {case.ANALYTIC: 0.98}
PLACED, DETECTED = 0.95, 0.95
HEALTHY = {case.ANALYTIC: 300}
FEWER = 20
"""Healthy runs of models that take a minute or more to try."""


def selftest(
    given: Mapping[str, Any], *, json: Path | None, folder: Path | None, keep: bool
) -> int:
    """Run the selftest; the exit code says whether its targets are met.

    Args:
        given: model, faults (patterns), sample, seeds, healthy, jobs.
        json: where the result is written too.
        folder: where cases are kept, so that a stopped run goes on.
        keep: make this the run that audits show.
    """
    start = time.perf_counter()
    spec = given["model"] or case.ANALYTIC
    known = case.faults(spec)
    names = _sampled(_chosen(given["faults"] or ["*"], list(known)), given["sample"])
    healthy = HEALTHY.get(spec, FEWER) if given["healthy"] is None else given["healthy"]
    if given["seeds"] < 1 or healthy < 0 or given["jobs"] < 1:
        raise UsageError("wanted seeds and jobs of at least 1, and healthy runs of at least 0")
    if keep:
        _keepable(spec, given, healthy)
    plan = running.Plan(
        spec=spec, faults=tuple(names), seeds=tuple(range(given["seeds"])),
        healthy=healthy, jobs=given["jobs"], folder=folder or _folder(spec),
    )  # fmt: skip
    warn(f"{len(names)} faults, {plan.healthy} healthy runs; cases are kept in {plan.folder}")
    try:
        with progress() as tell:
            results = running.run(plan, tell)
    except KeyboardInterrupt:
        raise Stopped(
            "stopped; what was tried is kept. To go on: the same command, with "
            f"--resume {plan.folder}"
        ) from None
    data = {
        "model": spec, "date": provenance.now(), "digest": kept.digest(),
        "seeds": list(plan.seeds), "faults": len(names), "of": len(known),
        "seconds_of_cases": round(sum(t.seconds for t in (*results.faulty, *results.healthy)), 1),
        "seconds": round(time.perf_counter() - start, 1),
        **score.score(results, known),
    }  # fmt: skip
    write_json(json, data)
    if keep:
        write_json(kept.path(kept.FILES[spec]), data)
    show(data)
    return 0 if _met(data, spec) else 1


def _folder(spec: str) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in spec)
    return Path(
        platformdirs.user_cache_dir("arrcoc-verify"), "selftest", f"{name}-{kept.digest()[7:23]}"
    )


def _chosen(patterns: Sequence[str], known: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            raise UnknownName("fault", pattern, known)
    return [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _sampled(names: Sequence[str], count: int | None) -> list[str]:
    """Return so many names, the same ones each time, in their order; all when count is None."""
    if count is None:
        return list(names)
    if count < 1:
        raise UsageError("wanted a sample of at least 1")
    drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
    return [name for name in names if name in drawn]


def _keepable(spec: str, given: Mapping[str, Any], healthy: int) -> None:
    """Refuse to keep a run that says less than audits would claim of it.

    Raises:
        UsageError: a chosen part of the faults, no healthy runs, or a model that is no reference.
    """
    if spec not in kept.FILES:
        raise UsageError(f"only runs on {' and '.join(kept.FILES)} are kept; --json writes others")
    if given["faults"] or not healthy or (given["sample"] and spec == case.ANALYTIC):
        raise UsageError(
            "only a full run is kept, or a --sample of reference:trained: leave --faults out, "
            "and try healthy models too"
        )


def _met(data: Mapping[str, Any], spec: str) -> bool:
    caught, placed = data["detection"], data["localisation"]
    least = TARGETS.get(spec, DETECTED)
    return bool(
        (not caught["killable"] or caught["killed"] >= least * caught["killable"])
        and (not placed["detected"] or placed["right"] >= PLACED * placed["detected"])
        and data["false_alarms"]["alarmed"] == 0
    )


def show(data: Mapping[str, Any]) -> None:
    """Print what a selftest found."""
    out = console()
    out.print(table("Rates", ("what", "#rate", "#of", "95 % interval"), _rates(data)))
    out.print(_confusion(data["localisation"]["confusion"]))
    if data["strengths"]:
        rows = [
            (name, ", ".join(f"{dose} {'yes' if hit else 'no'}" for dose, hit in doses.items()))
            for name, doses in data["strengths"].items()
        ]
        out.print(table("Detected by strength", ("fault", "strength"), rows))
    _list(out, "Survivors", data["survivors"], ("name", "reason"))
    _list(out, "Stage named wrongly", data["misplaced"], ("name", "stage", "named"))
    _list(out, "Equivalent", data["equivalents"], ("name", "proof"))
    for name, checks in data["false_alarms"]["in_runs"].items():
        line(f"false alarm in {name}: {', '.join(checks)}")
    if data["silent_checks"]:
        line(f"never fired: {', '.join(data['silent_checks'])}")


def _rates(data: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    caught, placed, alarms = data["detection"], data["localisation"], data["false_alarms"]
    green = data["false_comfort"]
    rows = [
        ("detected, operators that led to no claim", caught["killed"], caught["killable"],
         caught["interval"]),
        ("detected, operators set apart by a hash", caught["sealed"]["killed"],
         caught["sealed"]["killable"], caught["sealed"]["interval"]),
        ("detected, all faults", caught["all"]["killed"], caught["all"]["killable"],
         caught["all"]["interval"]),
        ("every claim still holds, all faults", green["all"]["passed"], green["all"]["killable"],
         green["all"]["interval"]),
        ("right stage, without a sound twin", placed["right"], placed["detected"],
         placed["interval"]),
        ("right stage, all faults", placed["all"]["right"], placed["all"]["detected"],
         placed["all"]["interval"]),
        ("right stage, with a sound twin", placed["with_twin"]["right"],
         placed["with_twin"]["detected"], placed["with_twin"]["interval"]),
        ("healthy runs with an alarm", alarms["alarmed"], alarms["runs"], alarms["interval"]),
    ]  # fmt: skip
    said = [
        (name, f"{hits / n:.1%}" if n else "none", f"{hits} of {n}", _ends(ends))
        for name, hits, n, ends in rows
    ]
    macro = ("mean over operators", f"{caught['macro']:.1%}", f"{caught['operators']} operators",
             _ends(caught["macro_interval"]))  # fmt: skip
    return [said[0], macro, *said[1:]]


def _ends(ends: Sequence[float]) -> str:
    return f"{number(100 * ends[0])} .. {number(100 * ends[1])} %"


def _confusion(counts: Mapping[str, Mapping[str, int]]) -> Any:
    named = sorted({stage for row in counts.values() for stage in row})
    rows = [(stage, *(row.get(name, "") for name in named)) for stage, row in counts.items()]
    title = "Stage at fault (rows) and stage named"
    return table(title, ("at fault", *(f"#{name}" for name in named)), rows)


def _list(out: Any, title: str, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    if rows:
        out.print(table(title, columns, [[row[name] for name in columns] for row in rows]))
