"""What linear probes read from latents of the facts of a scene, on photographs they did not see.

Logistic probes with balanced classes, trained on one half of the independent photographs and judged
on the other, both ways. A fact that the activation holds and its latents do not is lost in the
dictionary, so the same probe on the activation stands beside.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arrcoc_verify.dictionary.activations import some_of
from arrcoc_verify.lab import Lab, NotApplicable

DECAY = 1e-3
"""Of the probes' weights."""
ITERATIONS = 60
LEAST_CLUSTERS = 2
"""Independent photographs of each class in each half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How well a fact is told, as the mean over classes of the share told rightly, 0..1.

    Attributes:
        latents: from the codes.
        activations: from the activation itself.
        chance: of guessing.
        patches: on how many.
    """

    latents: float
    activations: float
    chance: float
    patches: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fact:
    """What is true of some patches.

    Attributes:
        name: `object`: part of an object or background; `asked`: of the object that is asked for or
            of the other; `label`: of which of the objects that several photographs have.
        counts: patches that it is asked of, `[scene, patch]`.
        label: number of the class of each, `[scene, patch]`.
    """

    name: str
    counts: Tensor
    label: Tensor


def probes(lab: Lab, codes: Tensor, value: Tensor) -> dict[str, Probe]:
    """Return how well each fact is told that the scenes have in enough independent photographs.

    Args:
        lab: the scenes.
        codes: `[scene, patch, latent]`.
        value: the activations, `[scene, patch, channel]`.
    """
    names = {name: at for at, name in enumerate(dict.fromkeys(lab.clusters()))}
    cluster = torch.tensor([names[name] for name in lab.clusters()])
    found: dict[str, Probe] = {}
    for fact in facts(lab):
        place = fact.counts.nonzero()
        place = place[some_of(len(place))]
        scene, patch = place.unbind(1)
        kept, label = _enough(fact.label[scene, patch], cluster[scene])
        classes = int(label.max()) + 1 if len(label) else 0
        if classes < 2:
            continue
        scene, patch = scene[kept], patch[kept]
        fold = cluster[scene] % 2
        told = [_told(held[scene, patch].float(), label, fold) for held in (codes, value)]
        found[fact.name] = Probe(
            latents=told[0], activations=told[1], chance=1 / classes, patches=len(label)
        )
    return found


def facts(lab: Lab) -> Iterator[Fact]:
    """Yield what is known of the patches of a lab's scenes."""
    target = lab.target
    regions = {"target": target}
    try:
        regions["distractor"] = lab.distractor & ~target
    except NotApplicable:
        regions["distractor"] = torch.zeros_like(target)
    things = target | regions["distractor"]
    yield Fact(name="object", counts=torch.ones_like(target), label=things.long())
    yield Fact(name="asked", counts=things, label=target.long())
    names: dict[str, int] = {}
    label = torch.full(target.shape, -1)
    for at, scene in enumerate(lab.scenes):
        for what, region in regions.items():
            thing = getattr(scene, what)
            if thing is not None and thing.label:
                label[at, region[at]] = names.setdefault(thing.label, len(names))
    yield Fact(name="label", counts=label >= 0, label=label)


def _enough(label: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples whose class both halves of the photographs have, and their new labels."""
    kept = [
        one for one in label.unique().tolist()
        if all(
            len(cluster[(label == one) & (cluster % 2 == half)].unique()) >= LEAST_CLUSTERS
            for half in (0, 1)
        )
    ]  # fmt: skip
    where = torch.isin(label, torch.tensor(kept, dtype=label.dtype))
    return where, torch.searchsorted(torch.tensor(kept, dtype=label.dtype), label[where])


def _told(x: Tensor, label: Tensor, fold: Tensor) -> float:
    """Return the balanced accuracy over both folds of a probe that was trained on the other."""
    guess = torch.empty_like(label)
    for half in (0, 1):
        probe = _trained(x[fold != half], label[fold != half])
        with torch.no_grad():
            guess[fold == half] = probe(x[fold == half]).argmax(1)
    right = (guess == label).double()
    return float(torch.stack([right[label == one].mean() for one in label.unique()]).mean())


def _trained(x: Tensor, label: Tensor) -> nn.Module:
    count = torch.bincount(label).float()
    probe = nn.Linear(x.shape[1], len(count))
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    mean, size = x.mean(0), x.std(0).clamp(min=1e-6 * max(1.0, float(x.abs().max())))
    scaled, weight = (x - mean) / size, len(label) / (len(count) * count)
    optimiser = torch.optim.LBFGS(
        probe.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(probe(scaled), label, weight=weight)
        loss = loss + DECAY * probe.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    with torch.no_grad():  # reads what was not scaled
        probe.weight.div_(size)
        probe.bias.sub_(probe.weight @ mean)
    return probe
