"""Whether a fault can be seen at all: it is held against its sound model, which no user has.

On photographs that the suite does not use, both models are asked the same, alone and in batches,
twice, with odd pictures and words, and with the same values written into their sites. A fault
counts as killable when a budget, a reported quantity or a contract differs; otherwise it is
presumed equivalent, with the bound that this many cases without a difference allow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.errors import NonFinite
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.graph import Edit, Run, ask, resume, run
from arrcoc_verify.lab import scene_size
from arrcoc_verify.model import Model, patches_last
from arrcoc_verify.scenes import scenes
from arrcoc_verify.scenes.scene import Scene

ROLES = ("donor", "repair-confirm")
"""Roles of the photographs that faults are judged on; the suite uses others."""
SEEN = 2.0
"""Tokens by which a patch must move: rounding can move it by one."""
TOLD = 1e-3
"""Largest difference of a reported weight or tension that counts as none."""
ODD_QUERIES = (
    "describe everything in the whole scene", "is there anything odd or unusual here?",
    "WHERE IS THE PURPLE FISH?", "qxz vbn",
    "please answer this as carefully as you can and take the time you need: show me the green cup",
)  # fmt: skip
WRITTEN = (
    "information_features", "salience_features", "query_relevance_features", "information",
    "salience", "query_relevance", "tensions", "weights", "relevance", "multiplier",
)  # fmt: skip
"""Roles whose sites are written: a model answers writes as its sound model does."""

Readings = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Killable:
    """What a fault changes.

    Attributes:
        budget: most tokens by which a patch moves.
        reported: greatest difference of a reported weight or tension.
        contract: writes that are answered otherwise, or "non-finite".
        crashed: the model raised, and what.
        cases: pictures and queries that were compared.
    """

    budget: float
    reported: float
    contract: tuple[str, ...] = ()
    crashed: str = ""
    cases: int = 0

    @property
    def is_so(self) -> bool:
        """Whether there is something to find."""
        return self.budget >= SEEN or self.reported > TOLD or bool(self.contract)

    def why(self) -> str:
        """Return what differs, in words."""
        if self.is_so:
            parts = [f"moves a patch by {self.budget:.0f} tokens"] if self.budget >= SEEN else []
            parts += [f"reports {self.reported:.2g} off"] if self.reported > TOLD else []
            parts += [f"breaks {name}" for name in self.contract[:3]]
            return ", ".join(parts)
        if self.crashed:
            return f"crashes: {self.crashed}"
        return (
            f"presumed equivalent: no difference in {self.cases} cases, so less than "
            f"{3 / max(self.cases, 1):.1%} of cases at 95 %"
        )


def probing_scenes(model: Model, per_cluster: int = 2) -> tuple[Scene, ...]:
    """Return the scenes on which models are compared."""
    return _scenes(model.declaration.grid, scene_size(model), per_cluster)


@cache
def _scenes(grid: tuple[int, int], size: int, per_cluster: int) -> tuple[Scene, ...]:
    return tuple(
        scene
        for role in ROLES
        for scene in scenes(role, grid=grid, size=size, per_cluster=per_cluster, seed=77)
    )


def _odd_pictures(size: tuple[int, int]) -> list[Image.Image]:
    noise = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    stripes = np.zeros((*size, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    plain = [Image.new("RGB", size[::-1], (g, g, g)) for g in (0, 128, 255)]
    return [*plain, Image.fromarray(noise), Image.fromarray(stripes)]


def readings(model: Model, sites: Mapping[str, Tensor] | None = None) -> Readings:
    """Return what a model says on the probing scenes: probe -> what -> values.

    Args:
        model: sound or faulty.
        sites: values to write, by role; None writes the model's own.
    """
    found: dict[str, dict[str, Tensor]] = {}
    probes = probing_scenes(model)
    images, asked = [s.image for s in probes], [s.query for s in probes]
    base = run(model, images, asked, read=_inner(model))
    found["plain"] = _said(base)
    for name, queries in _questions(probes).items():
        found[name] = _said(ask(base, queries, read=_inner(model)))
    few = slice(0, 6)
    found["alone"] = _said(run(model, images[few], asked[few], batch_size=1))
    found["again"] = _said(run(model, images[few][::-1], asked[few][::-1]))
    odd = _odd_pictures(probes[0].pixels.shape[:2])
    found["odd"] = _said(run(model, odd, list(ODD_QUERIES)))
    for role in WRITTEN:
        found |= _written(model, base, role, sites)
    return found


def _questions(probes: Sequence[Scene]) -> dict[str, list[str]]:
    count = len(probes)
    return {
        "other": [s.other_query or s.query for s in probes],
        "paraphrase": [s.paraphrase or s.query for s in probes],
        "absent": [s.absent_query or s.query for s in probes],
        "odd words": [ODD_QUERIES[i % len(ODD_QUERIES)] for i in range(count)],
    }


def _inner(model: Model) -> list[str]:
    return [
        site.name for site in model.sites.values()
        if site.role and type(site.at).__name__ != "Output"
    ]  # fmt: skip


def _said(result: Run) -> dict[str, Tensor]:
    told = {
        role: result[site.name].double()
        for role in ("reported_weights", "reported_tensions")
        if (site := result.model.role(role)) is not None
    }
    allocation = result.allocation
    return {"tokens": allocation.tokens, "membership": allocation.membership.double(), **told}


def _written(
    model: Model, base: Run, role: str, sites: Mapping[str, Tensor] | None
) -> dict[str, dict[str, Tensor]]:
    site = model.role(role)
    if site is None or not site.writable:
        return {}
    native = base[site.name] if sites is None else sites[role]
    values = {f"write {role}": native * 1.1 if role == "multiplier" else native.flip(0)}
    if role == "relevance":
        flat = patches_last(native, site, model.declaration.grid)
        high = flat > flat.median(1, keepdim=True).values
        order = flat.argsort(1, descending=True)
        chosen = torch.zeros_like(high).scatter_(1, order[:, :3], value=True)
        values["write halves"] = torch.where(high, flat.amax(), torch.zeros_like(flat.amax()))
        values["write a winner"] = torch.where(chosen, torch.ones_like(flat.amax()), flat / 2)
    return {
        name: _said(resume(base, edits=[Edit(site=site.name, value=value.reshape(native.shape))]))
        for name, value in values.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the sound model says, and what its sites hold."""

    said: Readings
    sites: Mapping[str, Tensor]


def reference_of(sound: Model) -> Reference:
    """Return the sound model's readings, to hold faulty models against."""
    probes = probing_scenes(sound)
    base = run(sound, [s.image for s in probes], [s.query for s in probes], read=_inner(sound))
    sites = {
        role: base[site.name] for role in WRITTEN
        if (site := sound.role(role)) is not None and site.writable
    }  # fmt: skip
    return Reference(said=readings(sound, sites), sites=sites)


def judge(fault: Fault, reference: Reference) -> Killable:
    """Return what a fault changes against its sound model."""
    return compare(fault.make(), reference)


def compare(model: Model, reference: Reference) -> Killable:
    """Return how a model differs from the readings of its sound model."""
    cases = sum(len(values["tokens"]) for values in reference.said.values())
    try:
        found = readings(model, reference.sites)
    except NonFinite as error:
        return Killable(budget=0.0, reported=0.0, contract=(f"finiteness ({error})",), cases=cases)
    except Exception as error:  # noqa: BLE001 - a crash is recorded as one
        said = f"{type(error).__name__}: {error}"
        return Killable(budget=0.0, reported=0.0, crashed=said[:200], cases=cases)
    scale = _range(model)
    whole = Killable(budget=0.0, reported=0.0, cases=cases)
    broken = []
    for probe, sound in reference.said.items():
        moved, told = _apart(found[probe], sound, scale)
        if probe.startswith("write"):
            broken += [f"the answer to {probe}"] if moved >= SEEN else []
            continue
        whole = replace(whole, budget=max(whole.budget, moved), reported=max(whole.reported, told))
    broken += [*_contracts(model, found), *_ends(found, reference.said)]
    return replace(whole, contract=tuple(broken))


def _range(model: Model) -> float:
    ends = model.declaration.lod
    if ends is None or model.role("tokens") is None or not ends[1] > ends[0]:
        return 336.0
    return 336.0 / (ends[1] - ends[0])


def _apart(
    found: Mapping[str, Tensor], sound: Mapping[str, Tensor], scale: float
) -> tuple[float, float]:
    """Return by how many tokens a patch moves, on the scale of 64..400, and how far reports do."""
    if any(not bool(torch.isfinite(value).all()) for value in found.values()):
        return float("inf"), float("inf")
    moved = float((found["tokens"] - sound["tokens"]).abs().max()) * scale
    if not torch.equal(found["membership"], sound["membership"]):
        moved = max(moved, 336.0)
    told = [
        float((found[name] - sound[name]).abs().max())
        for name in sound
        if name.startswith("reported")
    ]
    return moved, max(told, default=0.0)


def _ends(found: Readings, sound: Readings) -> list[str]:
    """Return which end of the range a patch no longer reaches that is driven there."""
    broken = []
    for probe, end, read in (
        ("write a winner", "the ceiling", torch.amax), ("write halves", "the floor", torch.amin),
    ):  # fmt: skip
        if probe in sound and not torch.equal(
            read(found[probe]["tokens"], 1), read(sound[probe]["tokens"], 1)
        ):
            broken.append(end)
    return broken


def _contracts(model: Model, found: Readings) -> list[str]:
    declared, broken = model.declaration, []
    tokens = torch.cat([values["tokens"] for values in found.values()])
    if declared.lod is not None and model.role("tokens") is not None:
        low, high = declared.lod
        if bool(((tokens < low - 1e-6) | (tokens > high + 1e-6)).any()):
            broken.append("the range of tokens")
        if declared.integer and bool(((tokens - tokens.round()).abs() > 1e-6).any()):
            broken.append("whole tokens")
    natural = [v["tokens"].sum(1) for k, v in found.items() if k != "write multiplier"]
    totals = torch.cat(natural)
    if declared.conserved_total and declared.total is not None:
        limit = 1e-6 if declared.integer else 1e-4 * declared.total
        if bool(((totals - declared.total).abs() > limit).any()):
            broken.append("the total")
    plain, again = found["plain"]["tokens"], found["again"]["tokens"].flip(0)
    alone = found["alone"]["tokens"]
    if bool(((plain[: len(again)] - again).abs() > 1).any()):
        broken.append("repeatability")
    if declared.batch_invariant and bool(((plain[: len(alone)] - alone).abs() > 1).any()):
        broken.append("independence of the batch")
    return broken
