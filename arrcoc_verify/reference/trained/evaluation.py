"""Measures the trained reference model on held-out scenes: the numbers of its model card.

Scenes are new compositions on photographs that training never saw. The sets differ in what is asked
for: cut-outs that were trained on, other cut-outs of labels that were, and labels that were not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from arrcoc_verify.edit import Edit
from arrcoc_verify.errors import UsageError
from arrcoc_verify.graph import Run, ask, resume, run
from arrcoc_verify.model import Model
from arrcoc_verify.reference.trained import objects, words
from arrcoc_verify.reference.trained.objects import Thing
from arrcoc_verify.reference.trained.studio import BOX, Batch, Studio
from arrcoc_verify.scenes import fixtures, queries
from arrcoc_verify.stats.interval import mean_interval, proportion_interval
from arrcoc_verify.verdict import Estimate

TOKENS, ANSWER, EVIDENCE = "attending.tokens", "realising.answer", "encoder.evidence"
FLOOR = 64.0
PIECE = 24
"""Scenes that go through together."""
LEAST = 8
"""Fewest photographs an interval rests on."""

Floats = NDArray[np.float64]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one scene came to.

    Attributes:
        unit: the background photograph.
        label: of what is asked for.
        hit: share of the most-token patches that lie in the box of the queried object.
        exact: share of them that the object itself covers by an eighth or more.
        evidence_hit: the same of the training-free evidence map.
        on: mean tokens on the object.
        off: mean tokens outside of its box.
        moved: mean change of tokens by a paraphrase, over that by asking for the other object.
        right: whether the answer is right, with the model's own tokens, with the object at the
            floor, and with the same number of tokens everywhere; None without a mark.
    """

    unit: str
    label: str
    hit: float
    exact: float
    evidence_hit: float
    on: float
    off: float
    moved: tuple[float, float]
    right: tuple[bool, ...] | None


def told() -> Mapping[str, list[str]]:
    """Return the labels that were trained on and those held out, as shipped with the weights."""
    path = fixtures.folder() / "trained" / "labels.json"
    found: Mapping[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def evaluate(
    model: Model, *, n: int, seed: int, tell: Tell, stamps: Sequence[Thing] = ()
) -> dict[str, object]:
    """Return the card's figures, each with `value`, `interval` and `n`.

    Args:
        model: `reference:trained` or a model with the same sites.
        n: scenes in each set.
        seed: decides every scene.
        tell: receives what is done, how much of it, and of how much.
        stamps: photographed things from elsewhere, as one more set.
    """
    for site in (TOKENS, ANSWER, EVIDENCE):
        model.site(site)
    known = frozenset(told()["trained"])
    mine = objects.photographed("train")
    others = [t for role in ("assert", "select", "donor", "repair-confirm")
              for t in objects.photographed(role)]  # fmt: skip
    sets = {
        "known": mine,
        "unseen_cutouts": [t for t in others if t.label in known],
        "unseen_labels": [t for t in others if t.label not in known],
    }
    if stamps:
        sets["stamps_known"] = [t for t in stamps if t.label in known]
        sets["stamps_unknown"] = [t for t in stamps if t.label not in known]
    found = {}
    for place, (name, things) in enumerate(sets.items()):
        found[name] = _scored(model, Held(things, seed + place), n, partial(tell, name))
    tell("absent objects", 0, 1)
    spread = _absent(model, Held(mine, seed + 9), max(n // 4, 32))
    return {**_headline(found["known"]), **_others(found), "absent_region_share": spread,
            "batch_invariance": _invariance(model, Held(mine, seed + 10))}  # fmt: skip


class Held:
    """Makes scenes of given things on photographs that training never saw."""

    def __init__(self, things: Sequence[Thing], seed: int) -> None:
        """Take the things; two labels are needed for two things in a scene."""
        first = things[0].label if things else ""
        if all(words.alike(first, t.label) for t in things):
            raise UsageError("wanted things of two labels or more to make scenes of")
        photographs: dict[str, list[Image.Image]] = {}
        self.units: list[str] = []
        chosen = [p for p in fixtures.manifest().photographs if p.role == "assert"]
        for label in dict.fromkeys(p.label for p in chosen):
            here = [p for p in chosen if p.label == label]
            photographs[label] = [fixtures.photograph(p.id) for p in here]
            self.units += [p.id for p in here]
        contents = [words.EVERYTHING, words.ODD, words.NOTHING]
        self.studio = Studio(things, photographs, contents, labels=list(queries.ABSENT))
        # Every label counts alike, however many pictures there are of it.
        labels = [t.label for t in things]
        share = np.array([1 / labels.count(label) for label in labels])
        self.studio.share = share / share.sum()
        self.rng = np.random.default_rng([seed, 77])

    def draw(self, count: int, present: float = 1.0) -> Batch:
        """Return `count` scenes of two things each."""
        return self.studio.batch(count, self.rng, present=present, plain=True)


def pictures(batch: Batch) -> list[Image.Image]:
    """Return a batch's pixels as images."""
    arrays = batch.pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def _scored(model: Model, held: Held, n: int, tell: Callable[[int, int], None]) -> list[Scored]:
    found: list[Scored] = []
    while len(found) < n:
        tell(len(found), n)
        batch = held.draw(min(PIECE, n - len(found)))
        base = run(model, pictures(batch), batch.queries, read=[ANSWER])
        tokens = base[TOKENS].double()
        again = ask(base, [said.paraphrase for said in batch.said])[TOKENS].double()
        other = ask(base, [said.other for said in batch.said])[TOKENS].double()
        right = _answers(model, base, batch, tokens)
        lit = base[EVIDENCE]
        for row, said in enumerate(batch.said):
            inside = batch.asked[row] > 0.9
            found.append(Scored(
                unit=held.units[said.stage], label=said.label,
                hit=_hit(tokens[row], batch.box[row]), exact=_hit(tokens[row], inside),
                evidence_hit=_hit(lit[row], batch.box[row]),
                on=float(tokens[row][inside].mean()),
                off=float(tokens[row][~batch.box[row]].mean()),
                moved=(float((again[row] - tokens[row]).abs().mean()),
                       float((other[row] - tokens[row]).abs().mean())),
                right=right[row],
            ))  # fmt: skip
    return found


def _hit(values: Tensor, inside: Tensor) -> float:
    return float(inside[values == values.max()].double().mean())


def _answers(
    model: Model, base: Run, batch: Batch, tokens: Tensor
) -> list[tuple[bool, ...] | None]:
    low, _ = model.declaration.lod or (FLOOR, None)
    even = torch.full_like(tokens, float(tokens.sum(1).mean()) / tokens.shape[1])
    forced = torch.where(batch.box, torch.full_like(tokens, low), tokens)
    runs = [base, *(resume(base, edits=[Edit(site=TOKENS, value=value)], read=[ANSWER])
                    for value in (forced, even))]  # fmt: skip
    said = [one[ANSWER].argmax(1) for one in runs]
    return [
        tuple(int(one[row]) == wanted for one in said) if wanted >= 0 else None
        for row, wanted in enumerate(batch.digit.tolist())
    ]


def _headline(found: Sequence[Scored]) -> dict[str, object]:
    marked = [s for s in found if s.right is not None]
    answers = [_rate([float(s.right[place]) for s in marked if s.right], [s.unit for s in marked])
               for place in range(3)]  # fmt: skip
    return {
        "pointing": _pointing(found),
        "pointing_exact": _rate([s.exact for s in found], [s.unit for s in found]),
        "target_ratio": _ratio([(s.on, s.off) for s in found], [s.unit for s in found]),
        "accuracy": answers[0],
        "accuracy_target_floor": answers[1],
        "accuracy_uniform": answers[2],
        "paraphrase_ratio": _ratio([s.moved for s in found], [s.unit for s in found]),
    }


def _others(found: Mapping[str, Sequence[Scored]]) -> dict[str, object]:
    made: dict[str, object] = {"chance": {"value": BOX**2 / 256, "n": 0, "interval": None}}
    for name, scenes in found.items():
        if name == "known":
            continue
        made[f"pointing_{name}"] = _pointing(scenes)
        made[f"pointing_{name}_evidence"] = _rate(
            [s.evidence_hit for s in scenes], [s.unit for s in scenes]
        )
        made[f"pointing_{name}_by_label"] = {
            label: {"value": float(np.mean([s.hit for s in scenes if s.label == label])),
                    "n": sum(s.label == label for s in scenes)}
            for label in sorted({s.label for s in scenes})
        }  # fmt: skip
    return made


def _pointing(found: Sequence[Scored]) -> dict[str, object]:
    return _rate([s.hit for s in found], [s.unit for s in found])


def _rate(values: Sequence[float], units: Sequence[str]) -> dict[str, object]:
    """Return a mean over scenes; its interval is over photographs unless every scene agrees."""
    if all(v in (0.0, 1.0) for v in values) and len(set(values)) == 1:
        return _said(proportion_interval(int(sum(values)), len(values)), len(values))
    return _said(_bootstrap(np.array(values)[:, None], units, lambda m: m[..., 0]), len(values))


def _ratio(pairs: Sequence[tuple[float, float]], units: Sequence[str]) -> dict[str, object]:
    """Return a ratio of means over scenes with its interval over photographs."""
    return _said(_bootstrap(np.array(pairs), units, lambda m: m[..., 0] / m[..., 1]), len(pairs))


def _bootstrap(values: Floats, units: Sequence[str], of: Callable[[Floats], Floats]) -> Estimate:
    """Percentile bootstrap over photographs of a function of the scenes' means."""
    names, which = np.unique(np.array(units), return_inverse=True)
    sums = np.stack([np.bincount(which, column) for column in values.T], 1)
    count = np.bincount(which)
    draws = np.random.default_rng(0).integers(len(names), size=(4000, len(names)))
    made = of(sums[draws].sum(1) / count[draws].sum(1, keepdims=True))
    low, high = np.quantile(made, (0.025, 0.975))
    return Estimate(value=float(of(values.mean(0))), low=float(low), high=float(high), level=0.95,
                    n=len(names), unit="", method="bootstrap over photographs")  # fmt: skip


def _said(found: Estimate, scenes: int) -> dict[str, object]:
    return {"value": found.value, "interval": [found.low, found.high], "n": scenes,
            "method": found.method}  # fmt: skip


def _absent(model: Model, held: Held, n: int) -> dict[str, object]:
    """Return the most tokens of any region of an object's size, as a multiple of its even share."""
    batch = held.draw(n, present=0.0)
    tokens = run(model, pictures(batch), [s.absent for s in batch.said])[TOKENS].float()
    grid = model.declaration.grid
    region = torch.nn.functional.avg_pool2d(tokens.reshape(-1, 1, *grid), BOX, stride=1)
    share = (region.flatten(1).amax(1) / tokens.mean(1)).double()
    return _said(mean_interval(share.tolist()), n)


def _invariance(model: Model, held: Held) -> dict[str, object]:
    """Return the largest relative change of a patch's tokens by going through alone."""
    batch = held.draw(LEAST)
    many = pictures(batch)
    together = run(model, many, batch.queries, batch_size=LEAST)["attending.lod"].double()
    alone = run(model, many, batch.queries, batch_size=1)["attending.lod"].double()
    worst = float(((together - alone).abs() / alone).max())
    return {"value": worst, "interval": [worst, worst], "n": LEAST, "method": "largest of all"}
