"""How good a dictionary is on scenes that it was not trained on.

Figures of the code (FVE, L0, dead, density) and of the model that reads the reconstruction in the
activation's place: the share of the allocation that is recovered, against mean and zero ablation of
the site (as loss recovered is for language models; Bricken et al. 2023), and likewise the answer of
a model that answers. Sparse control is the
share of the effect of a whole patched region that the `count` most changed latents carry.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.dictionary.coded import Coded, coded
from arrcoc_verify.dictionary.probing import Probe, probes
from arrcoc_verify.dictionary.recovery import mean_correlation
from arrcoc_verify.dictionary.splice import Splice
from arrcoc_verify.dictionary.storage import Kept
from arrcoc_verify.graph import Edit, Run, resume
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import token_change
from arrcoc_verify.model import Model

CONTROL = (1, 4, 16)
"""Numbers of latents at which sparse control is read."""
EDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Densities between which latents are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Figures of one dictionary.

    Attributes:
        fve: fraction of variance explained.
        sites: site that is decoded -> the same of it alone.
        l0: active latents of a patch.
        dead: share of latents that never fire here.
        density: share of latents whose density lies below 1e-4, to 1e-3, 1e-2, 1e-1, and above.
        tokens_recovered_mean, tokens_recovered_zero: 1 - change of tokens under the reconstruction
            over that under mean or zero ablation; 1 is perfect, 0 as bad as ablation.
        task_recovered_mean, task_recovered_zero: likewise of the model's answer, by the divergence
            (Kullback-Leibler) from its own one; None where a model declares no answer, or ablation
            does not change it.
        probes: fact of the scenes -> how well linear probes tell it, see `probing`.
        control: number of latents -> share of the whole edit's effect on the target's tokens;
            None where a change of the query does not reach the site, and for what is no
            autoencoder of one site: its errors have no place to stay in.
    """

    fve: float
    sites: dict[str, float]
    l0: float
    dead: float
    density: tuple[float, ...]
    tokens_recovered_mean: float
    tokens_recovered_zero: float
    task_recovered_mean: float | None
    task_recovered_zero: float | None
    probes: dict[str, Probe]
    control: dict[int, float] | None

    def plain(self) -> dict[str, Any]:
        """Return JSON data."""
        return asdict(self)


@torch.no_grad()
def quality(lab: Lab, kept: Kept) -> Quality:
    """Return the figures of a dictionary on a lab's scenes."""
    read = coded(lab.clean, kept)
    fires = (read.codes > 0).flatten(0, -2)
    share = fires.double().mean(0)
    low = [float((share < edge).double().mean()) for edge in EDGES]
    density = [b - a for a, b in zip([0.0, *low], [*low, 1.0], strict=True)]
    drawn = read.edits()
    mean = [mean_ablation(lab, name) for name in kept.decoded]
    zero = [Edit(site=name, write=torch.zeros_like) for name in kept.decoded]
    changed = _changed(lab, drawn)
    lost, spread = zip(*(_squares(read, name) for name in kept.decoded), strict=True)
    return Quality(
        fve=1 - sum(lost) / sum(spread),
        sites={name: 1 - a / b for name, a, b in zip(kept.decoded, lost, spread, strict=True)},
        l0=float(fires.sum(1).double().mean()), dead=float((~fires.any(0)).double().mean()),
        density=tuple(density),
        tokens_recovered_mean=_recovered(changed, _changed(lab, mean)),
        tokens_recovered_zero=_recovered(changed, _changed(lab, zero)),
        task_recovered_mean=_task_recovered(lab, drawn, mean),
        task_recovered_zero=_task_recovered(lab, drawn, zero),
        probes=_probes(lab, kept, read), control=_control(lab, kept),
    )  # fmt: skip


def _squares(read: Coded, name: str) -> tuple[float, float]:
    """Return the sums of squares that are left at a site, and about its mean."""
    wanted = read.wanted[name].flatten(0, 1)
    left = wanted - read.decoded[name].flatten(0, 1)
    return float(left.square().sum()), float((wanted - wanted.mean(0)).square().sum())


def mean_ablation(lab: Lab, site: str) -> Edit:
    """Return the edit that puts the mean over scenes and patches in a site's place."""
    held = lab.clean[site]
    mean = held.double().flatten(0, 1).mean(0) if held.ndim == 3 else held.double().mean(0)
    return Edit(site=site, value=mean.to(held.dtype).expand_as(held).clone())


def _changed(lab: Lab, edits: Sequence[Edit]) -> float:
    after = lab.resumed(edits)
    return float(token_change(lab.clean.allocation, after.allocation).square().mean().sqrt())


def _recovered(changed: float, ablated: float) -> float:
    return 1 - changed / ablated if ablated > 0 else float("nan")


def _probes(lab: Lab, kept: Kept, read: Coded) -> dict[str, Probe]:
    if not all(lab.model.site(name).per_patch for name in kept.encoded):
        return {}
    return probes(lab, read.codes, read.given)


def answer_site(model: Model) -> str | None:
    """Return the site of a model's answer: numbers of the whole picture that come after the tokens.

    They are taken for the logits of classes.
    """
    fits = (
        site.name for site in model.sites.values()
        if site.stage == "realising" and site.axes == ("image", "channel")
    )  # fmt: skip
    return next(fits, None)


def _task_recovered(lab: Lab, drawn: Sequence[Edit], ablated: Sequence[Edit]) -> float | None:
    """Return 1 - divergence of the answer under the reconstruction over that under ablation."""
    name = answer_site(lab.model)
    if name is None:
        return None

    def answer(edits: Sequence[Edit] = ()) -> Tensor:
        return resume(lab.clean, edits=edits, read=[name])[name].double().log_softmax(-1)

    clean = answer()
    drawn_from, ablated_from = (
        float((clean.exp() * (clean - answer(edits))).sum(-1).mean()) for edits in (drawn, ablated)
    )
    return 1 - drawn_from / ablated_from if ablated_from > 0 else None


def _control(lab: Lab, kept: Kept) -> dict[int, float] | None:
    """Return how much of the effect of the other query's activation few latents carry."""
    if not kept.autoencoder:
        return None
    try:
        other = lab.asked("other")
    except NotApplicable:
        return None
    whole = _lost(lab, Edit(site=kept.site, value=other[kept.site], where=lab.target))
    if float(whole.abs().mean()) < 1e-3:
        return None
    splice, there = (
        Splice(run, kept.site, kept.dictionary, query_site=kept.about.get("query_site"))
        for run in (lab.clean, other)
    )  # fmt: skip
    return {
        count: float(_lost(lab, _few(lab, splice, there.codes, count)).mean() / whole.mean())
        for count in CONTROL
    }


def _few(lab: Lab, splice: Splice, codes: Tensor, count: int) -> Edit:
    change = (codes - splice.codes).abs()
    keep = change.topk(min(count, change.shape[-1]), dim=-1).indices
    picked = torch.zeros_like(change, dtype=torch.bool).scatter(-1, keep, True)
    return splice.edited(torch.where(picked, codes, splice.codes), where=lab.target)


def _lost(lab: Lab, edit: Edit) -> Tensor:
    after: Run = lab.resumed([edit], "local")
    return lab.tokens(lab.clean, lab.target) - lab.tokens(after, lab.target)


def stability(one: Kept, others: Sequence[Kept]) -> float:
    """Return the mean over other seeds of the mean absolute cosine of matched directions."""
    found = [mean_correlation(one.dictionary.W_dec, other.dictionary.W_dec)[0] for other in others]
    return sum(found) / len(found)


def stabilities(kept: Mapping[str, Kept]) -> dict[str, float]:
    """Return the stability of each dictionary that others are equal to but for the seed, by name.

    Equal are site, configuration and recipe. What nothing says the recipe of is left out.
    """
    alike: dict[str, dict[str, Kept]] = {}
    for name, one in kept.items():
        recipe = one.about.get("recipe")
        if isinstance(recipe, Mapping) and "seed" in recipe:
            rest = {key: value for key, value in recipe.items() if key != "seed"}
            form = json.dumps([one.site, one.dictionary.config.plain(), rest], sort_keys=True)
            alike.setdefault(form, {})[name] = one
    found = {}
    for group in alike.values():
        for name, one in group.items():
            seed = one.about["recipe"]["seed"]
            others = [other for other in group.values() if other.about["recipe"]["seed"] != seed]
            if others:
                found[name] = stability(one, others)
    return found
