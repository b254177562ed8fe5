"""What stands beside the verdicts: effects split in three, causal shares, tensions, case files."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc_verify.claim import Judged
from arrcoc_verify.effect import effects, reallocated
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import Edit, Run, run
from arrcoc_verify.lab import Lab, NotApplicable, by_cluster
from arrcoc_verify.metric import METRICS
from arrcoc_verify.model import SCORERS, TENSIONS, patches_last
from arrcoc_verify.report import event
from arrcoc_verify.report.writer import RecordWriter
from arrcoc_verify.scenes.factorial import factorial
from arrcoc_verify.scenes.isolation import Row, isolate
from arrcoc_verify.stats.decomposition import decompose
from arrcoc_verify.stats.interval import mean_interval
from arrcoc_verify.suite.balancing import BROAD_QUERY, ODD_QUERY
from arrcoc_verify.verdict import Case, Estimate, Outcome, Verdict

UNIT = "tokens per patch"
MOST_CASES = 40
MAPS = {
    "information": "knowing.information",
    "salience": "knowing.salience",
    "query_relevance": "knowing.query",
    "relevance": "balancing.relevance",
    "tokens": "attending.tokens",
}
"""Role -> name under which a case's map is kept."""
SHOWN = (
    "whole.query-causes-tokens",
    "whole.contrast-causes-tokens",
    "whole.entropy-causes-tokens",
    "knowing.query-finds-the-asked",
)
"""Claims whose weakest cases are shown although they hold."""


def effect_table(lab: Lab, level: float, seed: int) -> event.Effects:
    """Return total, local, unrepaired and mediated effect of each scorer on the target's tokens.

    Each score rises by one spread on the target. Beside the mediated effect stands what the changed
    budget multiplier does by itself, written into the clean run (the analytic reallocation).
    """
    rows = []
    for role in SCORERS:
        if lab.model.role(role) is None:
            continue
        (site,) = lab.need(role)
        size = lab.spread(role)
        edit = Edit(site=site.name, write=_adding(size), where=lab.target)
        found = effects(lab.clean, [edit], METRICS["tokens"], lab.target)
        alone = reallocated(lab.clean, [edit], METRICS["tokens"], lab.target)
        analytic = {} if alone is None else {"mediated": float(alone.mean())}
        rows.append(
            event.EffectRow(
                scorer=role,
                total=_estimate(found.total, lab, level, seed),
                local=_estimate(found.local, lab, level, seed),
                unrepaired=_estimate(found.unrepaired, lab, level, seed),
                mediated=_estimate(found.mediated, lab, level, seed),
                analytic=analytic,
            )
        )
    return event.Effects(rows=tuple(rows), metric="mean tokens a patch of the target")


def _adding(size: float) -> Callable[[Tensor], Tensor]:
    return lambda old: old + size


def _estimate(values: Tensor | None, lab: Lab, level: float, seed: int) -> Estimate | None:
    if values is None:
        return None
    grouped = by_cluster(values, lab.clusters())
    if len(grouped) < 8 or not np.isfinite(grouped).all():
        return None
    return mean_interval(grouped, level, seed, unit=UNIT)


def causal_shares(lab: Lab, level: float, seed: int) -> tuple[event.Decomposition, event.Isolation]:
    """Return what share of the variance of the target's tokens each factor causes.

    From a balanced factorial of edits, information x salience x query x position, on one scene of
    each cluster (the lab's), after scenes whose edits moved other factors too were dropped by rule.

    Raises:
        NotApplicable: the scenes are not composed, so position cannot be edited.
    """
    scenes = [scene for scene in lab.scenes if scene.parts is not None]
    if not scenes:
        raise NotApplicable("natural scenes have no position factor to balance")
    cells = [cell for scene in scenes for cell in factorial(scene, grid=lab.grid, seed=seed)]
    kept, dropped, table = isolate(cells, grid=lab.grid)
    rows = tuple(
        event.IsolationRow(
            edited=row.factor, measured=row.estimator, movement=row.mean,
            limit=None if row.limit is None else row.limit * _intended(table, row.factor),
            unit="natural spreads",
        )
        for row in table
    )  # fmt: skip
    isolation = event.Isolation(
        rows=rows,
        kept={"scenes": len({cell.base for cell in kept})},
        dropped={"scenes": len(dropped)},
    )
    names = list(dict.fromkeys(cell.base for cell in kept))
    if len(names) < 8:
        raise NotApplicable(f"{len(names)} scenes are left for the factorial, 8 are needed")
    result = run(lab.model, [c.scene.image for c in kept], [c.scene.query for c in kept])
    region = torch.as_tensor(
        np.stack([c.scene.target.cells(lab.grid, c.scene.image.size) for c in kept])
    )
    tokens = METRICS["tokens"](result.allocation, region).numpy()
    table_of = np.full((len(names), 2, 2, 2, 2), np.nan)
    for cell, value in zip(kept, tokens, strict=True):
        table_of[(names.index(cell.base), *cell.levels)] = value
    found = decompose(table_of, level, seed=seed)
    shares = tuple(
        event.Share(source=name, share=e.value, low=e.low, high=e.high)
        for name, e in found.shares.items()
    )
    return event.Decomposition(
        shares=shares, metric="mean tokens a patch of the target", level=level, n=found.n,
        method="balanced factorial of edits; BCa over clusters",
    ), isolation  # fmt: skip


def _intended(table: Sequence[Row], factor: str) -> float:
    return next((row.mean for row in table if row.factor == factor and row.intended), 0.0)


def tension_points(lab: Lab, count: int = 8) -> event.Tension:
    """Return tensions of the first scenes under their own, a broad and an odd query.

    Raises:
        NotApplicable: the model has no tensions.
    """
    points = []
    for name, result in (("named object", lab.clean), ("everything", lab.asked(BROAD_QUERY)),
                         ("anything odd", lab.asked(ODD_QUERY))):  # fmt: skip
        values = lab.vector(result, "tensions", TENSIONS)
        for scene, row in list(zip(lab.scenes, values.tolist(), strict=True))[:count]:
            named = dict(zip(TENSIONS, row, strict=True))
            points.append(event.TensionPoint(scene=scene.name, query=name, values=named))
    return event.Tension(points=tuple(points))


def site_rows(result: Run) -> event.Sites:
    """Return every site with the shape of one example's activation."""
    rows = []
    for site in result.model.sites.values():
        try:
            value = result[site.name]
        except ArrcocError:
            shape, dtype = (), ""
        else:
            shape = ("image", *value.shape[1:])
            dtype = str(value.dtype).removeprefix("torch.")
        rows.append(event.SiteRow(name=site.name, stage=site.stage, shape=shape, dtype=dtype))
    return event.Sites(rows=tuple(rows))


def waterfalls(lab: Lab) -> list[tuple[tuple[str, float], ...]]:
    """Return, for each scene, how the target's tokens come about.

    All score maps are made flat, then given back one after the other: each step is an experiment.
    """
    roles = [role for role in SCORERS if lab.model.role(role) is not None]
    steps: list[tuple[str, Tensor]] = []
    for count in range(len(roles) + 1):
        flat = [_flat(lab, role) for role in roles[count:]]
        result = lab.resumed(flat) if flat else lab.clean
        label = "scores flat" if count == 0 else f"+ {roles[count - 1].replace('_', ' ')}"
        steps.append((label, lab.tokens(result, lab.target)))
    return [tuple((label, float(value[i])) for label, value in steps) for i in range(len(lab))]


def _flat(lab: Lab, role: str) -> Edit:
    (site,) = lab.need(role)
    native = lab.clean[site.name]
    level = patches_last(native, site, lab.grid).double().mean(1)
    shape = (len(lab),) + (1,) * (native.ndim - 1)
    return Edit(site=site.name, value=level.reshape(shape).to(native).expand(native.shape).clone())


def with_cases(
    verdicts: Sequence[Verdict], judged: Mapping[str, Judged], lab: Lab, writer: RecordWriter
) -> list[Verdict]:
    """Return the verdicts with their weakest cases: pictures, maps, waterfall, how to replay."""
    wanted = _weakest(verdicts, judged)
    shown = sorted({index for indices in wanted.values() for index in indices})
    if not shown:
        return list(verdicts)
    few = lab.subset(shown)
    falls = waterfalls(few)
    made = []
    for verdict in verdicts:
        cases = tuple(
            _case(
                verdict, shown.index(index), float(judged[verdict.id].per_scene[index]),
                few, writer, falls,
            )
            for index in wanted.get(verdict.id, ())
        )  # fmt: skip
        made.append(replace(verdict, worst=cases))
    return made


def _weakest(verdicts: Sequence[Verdict], judged: Mapping[str, Judged]) -> dict[str, list[int]]:
    """Which scenes to show for which claim: two of each that does not hold, then the weakest."""
    wanted: dict[str, list[int]] = {}
    room = MOST_CASES
    open_first = sorted(verdicts, key=lambda v: v.outcome is Outcome.HOLDS)
    for verdict in open_first:
        found = judged.get(verdict.id)
        holds = verdict.outcome is Outcome.HOLDS
        shown = verdict.id in SHOWN
        if found is None or (holds and not shown) or room <= 0:
            continue
        finite = np.where(np.isfinite(found.per_scene), found.per_scene, -np.inf)
        order = np.argsort(finite, kind="stable")[: min(2, room)]
        wanted[verdict.id] = [int(i) for i in order]
        room -= len(order)
    return wanted


def _case(
    verdict: Verdict,
    index: int,
    effect: float,
    lab: Lab,
    writer: RecordWriter,
    falls: Sequence[tuple[tuple[str, float], ...]],
) -> Case:
    scene = lab.scenes[index]
    maps = {}
    for role, name in MAPS.items():
        if lab.model.role(role) is None:
            continue
        try:
            value = lab.map(lab.clean, role)[index]
        except ArrcocError:
            continue
        maps[name] = writer.put_array(_rounded(value.reshape(lab.grid).numpy()))
    if lab.model.role("weights") is not None:
        try:
            weights = lab.vector(lab.clean, "weights", SCORERS)[index]
            maps["balancing.weights"] = writer.put_array(_rounded(weights.numpy()))
        except ArrcocError:
            pass  # weights of another form are shown nowhere, not wrongly
    content = scene.image.tobytes() + scene.query.encode() + verdict.id.encode()
    x, y, width, height = scene.target.box
    return Case(
        id=hashlib.sha256(content).hexdigest()[:12],
        scene=scene.name,
        query=scene.query,
        effect=effect,
        image=writer.put_image(scene.image),
        maps=maps,
        region=(x, y, width, height),
        waterfall=falls[index] if falls else (),
        replay=f"arrcoc-verify audit --model {lab.model.spec or lab.model.name} "
        f"--claims {verdict.id} --seed {lab.seed}",
    )


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)
