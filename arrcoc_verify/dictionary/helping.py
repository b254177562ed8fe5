"""Whether the query helps a dictionary of a user's model: its twins are trained and compared.

All are trained on the activations that the dictionary was trained on, and judged on a lab's scenes,
each asked its own query and another. As nothing is planted, what stands beside variance explained
is not F1 but a cause: how much of the model's allocation survives when it reads the reconstruction.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from arrcoc_verify.activations import ActivationStore
from arrcoc_verify.dictionary.activations import StoreSource, each_vector, some_of, taken
from arrcoc_verify.dictionary.architecture import Dictionary
from arrcoc_verify.dictionary.conditioning import Case, Comparison, compared, trained
from arrcoc_verify.dictionary.job import Plan, query_site, source_of
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.quality import mean_ablation
from arrcoc_verify.dictionary.splice import Splice
from arrcoc_verify.dictionary.storage import ACTIVATIONS, TWINS, Kept, tuples
from arrcoc_verify.dictionary.training import Recipe
from arrcoc_verify.errors import StoreError, TooFewUnits, UsageError
from arrcoc_verify.graph import Run
from arrcoc_verify.lab import Lab, NotApplicable, by_cluster
from arrcoc_verify.metric import token_change
from arrcoc_verify.stats.sample import MIN_UNITS


def store_beside(place: Path, given: Path | None = None) -> ActivationStore:
    """Return the activations that a dictionary was trained on.

    Raises:
        StoreError: none are named, and none lie beside its folder.
    """
    path = given or place.parent / ACTIVATIONS
    if not path.is_dir():
        raise StoreError(
            f"wanted the activations that {place} was trained on, to train its twins; found none "
            f"at {path}: name them by --store"
        )
    return ActivationStore.open(path)


def helping(
    lab: Lab,
    kept: Kept,
    store: ActivationStore,
    folder: Path,
    *,
    seeds: int = 3,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Train a conditional dictionary anew with its twins, and return what the query is good for.

    Args:
        lab: scenes to judge on.
        kept: a conditional dictionary, as `train_plan` keeps it.
        store: the activations that it was trained on.
        folder: of the dictionary; its twins are kept there, so that a stopped run goes on.
        seeds: dictionaries of each kind, at least 3.
        tell: called before each fit.

    Raises:
        StoreError: nothing says how the dictionary was trained.
        TooFewUnits: the lab has too few independent scenes.
        UsageError: it has no query, or there are fewer than three seeds.
    """
    config = kept.dictionary.config
    if not config.query:
        raise UsageError(f"the dictionary in {folder} has no query that could help")
    if (count := len(set(lab.clusters()))) < MIN_UNITS:
        raise TooFewUnits(
            f"whether the query helps is judged on {MIN_UNITS} independent pictures or more, "
            f"got {count}"
        )
    try:
        recipe = Recipe(**tuples(kept.about["recipe"]))
        size = int(kept.about["samples"]) // recipe.steps
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder} does not say how its dictionary was trained, so that twins of it cannot be"
        ) from error
    plan = Plan(name=folder.name, inputs=(kept.site,), k=config.k, conditional=True)
    source = source_of(store, plan, size=size, seed=recipe.seed)
    case = case_of(lab, kept, source)
    first = recipe.seed
    arms = trained(case, config, recipe, range(first, first + seeds), tell, folder / TWINS)
    return compared(case, arms)


def case_of(lab: Lab, kept: Kept, source: StoreSource) -> Case:
    """Return training samples, and the lab's scenes to judge on: each with every query it has."""
    runs = [lab.clean]
    for kind in ("other", "absent"):
        try:
            runs.append(lab.asked(kind))
        except NotApplicable:
            continue
    parts = [_samples(run, lab, kept, source.scale) for run in runs]
    texts = {text: at for at, text in enumerate(dict.fromkeys(q for r in runs for q in r.queries))}
    names = {name: at for at, name in enumerate(dict.fromkeys(lab.clusters()))}
    each = len(parts[0].x) // len(lab)
    asked = torch.tensor([texts[text] for run in runs for text in run.queries])
    units = torch.tensor([names[name] for _ in runs for name in lab.clusters()])
    whole = Samples(
        x=torch.cat([part.x for part in parts]),
        query=torch.cat([part.query for part in parts if part.query is not None]),
    )
    keep = some_of(len(whole.x))
    return Case(
        source=source, judged=taken(whole, keep),
        asked=asked.repeat_interleave(each)[keep], units=units.repeat_interleave(each)[keep],
        recovered=recovering(lab, kept, source.scale),
    )  # fmt: skip


def recovering(lab: Lab, kept: Kept, scale: float) -> Callable[[Dictionary], Tensor]:
    """Return what tells how much of the tokens a dictionary recovers, `[cluster]`.

    1 less the change of tokens under the reconstruction over that under mean ablation of the site
    in all pictures; 0 throughout where ablation moves no token.

    Args:
        lab: scenes to judge on.
        kept: says which site is written and where the query is read.
        scale: what activations were multiplied by when the dictionaries were trained.
    """
    clean = lab.clean.allocation
    ablated = token_change(clean, lab.resumed([mean_ablation(lab, kept.site)]).allocation)
    whole = float(ablated.double().square().mean().sqrt())

    def recovered(dictionary: Dictionary) -> Tensor:
        if not whole > 0:
            return torch.zeros(len(set(lab.clusters())), dtype=torch.float64)
        own = copy.deepcopy(dictionary)
        own.rescale_(scale)
        splice = Splice(lab.clean, kept.site, own, query_site=kept.about.get("query_site"))
        after = lab.resumed([splice.reconstructed()]).allocation
        each = 1 - token_change(clean, after).double() / whole
        return torch.as_tensor(by_cluster(each, lab.clusters()))

    return recovered


def _samples(run: Run, lab: Lab, kept: Kept, scale: float) -> Samples:
    """Return the patches of a run with their queries, in the scale of training."""
    axes = lab.model.site(kept.site).axes
    value = each_vector(run[kept.site], axes, kept.site)
    query = run[kept.about.get("query_site") or query_site(lab.model)].float().flatten(1)
    return Samples(
        x=value.flatten(0, 1) * scale,
        query=query[:, None].expand(-1, value.shape[1], -1).flatten(0, 1),
    )
