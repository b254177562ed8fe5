"""Faults of balancing: tensions that do not act, do not trade off, or are not what is reported.

Source: fault catalogues of gating networks and attribution reports (dead gates, collapsed weights,
exchanged wires, bypasses, batch statistics, self-reports that lie).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.faults.knowing import SAID, plane
from arrcoc_verify.model import SCORERS, TENSIONS, Model
from arrcoc_verify.reference import analytic, texture
from arrcoc_verify.reference.planted import hats

QUERY_PART = {"compress": (0, 2), "exploit": (1,), "focus": (0, 2)}
"""Columns of the context that hold what each tension reads of the query: broad, odd, specific."""


def _per_tension(index: int, name: str) -> tuple[Fault, ...]:
    def flipped(tension: Tensor) -> Tensor:
        turned = tension.clone()
        turned[:, index] = 1 - turned[:, index]
        return analytic.weights(turned)

    def inert(tension: Tensor) -> Tensor:
        held = tension.clone()
        held[:, index] = 0.5
        return analytic.weights(held)

    def deaf(tension: Tensor, seen: Tensor) -> Tensor:
        unheard = seen.clone()
        unheard[:, list(QUERY_PART[name])] = 0
        out = tension.clone()
        out[:, index] = analytic.tensions(unheard)[:, index]
        return out

    return (
        Fault(
            name=f"tension-flipped:{name}", stage="balancing",
            sentence=f"the tension {name} acts on the weights with its sign flipped",
            make=lambda: rewired(instead("weights", flipped)),
        ),
        Fault(
            name=f"tension-inert:{name}", stage="balancing",
            sentence=f"the tension {name} is computed and reported, and nothing reads it",
            make=lambda: rewired(instead("weights", inert)),
        ),
        Fault(
            name=f"tension-deaf:{name}", stage="balancing",
            sentence=f"the tension {name} does not hear what kind of query it is",
            make=lambda: rewired(after("tensions", deaf, "context")),
        ),
    )  # fmt: skip


def _weighted(weight: Tensor, info: Tensor, stands_out: Tensor, related: Tensor) -> Tensor:
    parts = torch.stack([info, stands_out, related], 2) * weight[:, None, :]
    return analytic.PLANTED["balancing"].embed(hats(parts, 22, 1.0).flatten(2))


def _per_scorer(index: int, role: str) -> tuple[Fault, ...]:
    def dropped(weight: Tensor, *scores: Tensor) -> Tensor:
        kept = weight.clone()
        kept[:, index] = 0
        return _weighted(kept, *scores)

    def capped(weight: Tensor, *scores: Tensor) -> Tensor:
        cut = list(scores)
        cut[index] = cut[index].clamp(max=cut[index].quantile(0.4, 1, keepdim=True))
        return _weighted(weight, *cut)

    return (
        Fault(
            name=f"scorer-dropped:{role}",
            stage="balancing",
            sentence=f"{SAID[role]} does not enter the mix",
            make=lambda: rewired(instead("balancing_features", dropped)),
        ),
        Fault(
            name=f"score-capped:{role}",
            stage="balancing",
            sentence=f"{SAID[role]} counts up to a low ceiling only",
            make=lambda: rewired(instead("balancing_features", capped)),
        ),
    )


def _sigmoids(tension: Tensor) -> Tensor:
    return torch.sigmoid(2 * analytic.SHARPNESS * (tension - 0.5)) / 1.5


def _around_tensions(weight: Tensor, query: Tensor) -> Tensor:
    """The query moves the weights by itself, beside the tensions."""
    broad, odd = query[:, 10], query[:, 11]
    push = torch.stack([broad, odd, -(broad + odd)], 1)
    return torch.softmax(weight.log() + push, 1)


def _around_maps(mixed: Tensor, maps: Tensor) -> Tensor:
    return mixed + 0.2 * texture.cells(maps[:, :1]).squeeze(2)


def _around_from_query(mixed: Tensor, blocks: Tensor, query: Tensor) -> Tensor:
    return mixed + 0.1 * analytic.query_relevance(analytic.query_features(blocks, query))


def _blurred(values: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(plane(values)[:, None], (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, stride=1).flatten(1)


def _batch_min_max(related: Tensor) -> Tensor:
    return (related - related.min()) / (related.max() - related.min()).clamp(min=1e-9)


def _product(weight: Tensor, info: Tensor, stands_out: Tensor, related: Tensor) -> Tensor:
    """Scores multiplied with weights as exponents, instead of added."""
    scores = torch.stack([info, stands_out, related], 2).clamp(min=1e-3)
    return torch.exp((scores.log() * weight[:, None, :]).sum(2))


def _loudest(weight: Tensor, info: Tensor, stands_out: Tensor, related: Tensor) -> Tensor:
    parts = torch.stack([info, stands_out, related], 2) * weight[:, None, :]
    return parts.amax(2)


def _too_much_is_too_much(related: Tensor) -> Tensor:
    """Relevance that falls again where it was highest."""
    return torch.where(related > 0.6, 1.2 - related, related)


def _winner(tension: Tensor) -> Tensor:
    """The favourite takes nearly all: a softmax that is far too sharp."""
    return torch.softmax(60 * analytic.SHARPNESS * (tension - 0.5), 1)


def _reports(**lies: Tensor) -> Model:
    def told(tension: Tensor, weight: Tensor) -> Mapping[str, Tensor]:
        honest = dict(analytic.report(tension, weight))
        for name, value in lies.items():
            honest[name] = value.expand_as(honest[name]).clone()
        return honest

    return rewired(instead("report", told))


def _stale_reports(which: str) -> Model:
    last: dict[int, Tensor] = {}

    def told(tension: Tensor, weight: Tensor) -> Mapping[str, Tensor]:
        honest = dict(analytic.report(tension, weight))
        now = honest[which]
        honest[which] = last.get(len(now), torch.full_like(now, 1 / 3))
        last[len(now)] = now
        return honest

    return rewired(instead("report", told))


def _forgets_nothing() -> Model:
    """The level that relevance is divided by is a running mean over all pictures so far."""
    state = {"level": 0.3}

    def level(mixed: Tensor) -> Tensor:
        out = torch.empty(len(mixed), dtype=mixed.dtype)
        for row, value in enumerate(mixed.mean(1)):
            state["level"] = 0.8 * state["level"] + 0.2 * float(value)
            out[row] = state["level"]
        return out

    return rewired(instead("normaliser", level))


_THIRD = torch.full((1, 3), 1 / 3, dtype=torch.float64)
_SETTLED = torch.tensor([[0.4, 0.6, 0.7]], dtype=torch.float64)


def _blind(seen: Tensor) -> Tensor:
    usual = torch.tensor([[0.5, 0.35, 0.1]], dtype=seen.dtype).expand(len(seen), 3)
    return analytic.tensions(torch.cat([seen[:, :3], usual], 1))


def _evenly(weight: Tensor, *scores: Tensor) -> Tensor:
    return _weighted(_THIRD.expand_as(weight), *scores)


_WEIGHTS = (
    Fault(
        name="weights-constant", stage="balancing", sentence="the weights are a third each, always",
        make=lambda: rewired(instead("weights", lambda tension: _THIRD.expand_as(tension).clone())),
    ),
    Fault(
        name="weights-by-sigmoids", stage="balancing",
        sentence="each weight is a sigmoid of its own tension: nothing is traded off",
        make=lambda: rewired(instead("weights", _sigmoids)),
    ),
    Fault(
        name="weights-winner-takes-all", stage="balancing",
        sentence="the softmax is far too sharp: one scorer takes nearly all",
        make=lambda: rewired(instead("weights", _winner)),
    ),
    Fault(
        name="weights-rotated", stage="balancing",
        sentence="the weights are wired to the wrong scorers",
        make=lambda: rewired(after("weights", lambda weight: weight.roll(1, 1))),
    ),
    Fault(
        name="weights-not-applied", stage="balancing",
        sentence="weights are computed and reported, the mix uses a third each",
        make=lambda: rewired(instead("balancing_features", _evenly)),
    ),
    Fault(
        name="weights-around-tensions", stage="balancing",
        sentence="the query moves the weights around the tensions",
        make=lambda: rewired(after("weights", _around_tensions, "query")),
    ),
    Fault(
        name="tensions-constant", stage="balancing", sentence="the tensions never move",
        make=lambda: rewired(after("tensions", lambda found: _SETTLED.expand_as(found).clone())),
    ),
    Fault(
        name="tensions-blind", stage="balancing", sentence="the tensions do not see the picture",
        make=lambda: rewired(instead("tensions", _blind)),
    ),
)  # fmt: skip

_MIXING = (
    Fault(
        name="mix-around-maps", stage="balancing",
        sentence="brightness reaches the mix around the three scores",
        make=lambda: rewired(after("mix", _around_maps, "texture")),
    ),
    Fault(
        name="query-around-coupling", stage="balancing",
        sentence="the query reaches the mix a second time, around the coupling score",
        make=lambda: rewired(after("mix", _around_from_query, "descriptor", "query")),
    ),
    Fault(
        name="mix-multiplies", stage="balancing",
        sentence="scores are multiplied instead of added",
        make=lambda: rewired(
            instead("mix", _product, "weights", "information", "salience", "query_relevance")
        ),
    ),
    Fault(
        name="mix-takes-the-loudest", stage="balancing",
        sentence="only the largest of the three weighted scores counts",
        make=lambda: rewired(
            instead("mix", _loudest, "weights", "information", "salience", "query_relevance")
        ),
    ),
    Fault(
        name="relevance-blurred", stage="balancing",
        sentence="relevance is averaged over neighbouring patches",
        make=lambda: rewired(after("relevance", _blurred)),
    ),
    Fault(
        name="relevance-batch-min-max", stage="balancing",
        sentence="relevance is stretched between the least and the greatest of the whole batch",
        make=lambda: rewired(after("relevance", _batch_min_max)),
    ),
    Fault(
        name="relevance-folds-over", stage="balancing",
        sentence="relevance falls again where it was highest",
        make=lambda: rewired(after("relevance", _too_much_is_too_much)),
    ),
    Fault(
        name="normaliser-carries-over", stage="balancing",
        sentence="the normaliser is a running mean over all pictures that went through",
        make=_forgets_nothing,
    ),
)  # fmt: skip

_REPORTS = (
    Fault(
        name="report-constant:weights", stage="report",
        sentence="the reported weights never change",
        make=lambda: _reports(weights=_THIRD),
    ),
    Fault(
        name="report-constant:tensions", stage="report",
        sentence="the reported tensions never change",
        make=lambda: _reports(tensions=torch.full((1, 3), 0.5, dtype=torch.float64)),
    ),
    Fault(
        name="report-stale:weights", stage="report",
        sentence="the weights of the previous batch are reported",
        make=lambda: _stale_reports("weights"),
    ),
    Fault(
        name="report-stale:tensions", stage="report",
        sentence="the tensions of the previous batch are reported",
        make=lambda: _stale_reports("tensions"),
    ),
)  # fmt: skip

FAULTS = (
    *(fault for index, name in enumerate(TENSIONS) for fault in _per_tension(index, name)),
    *_WEIGHTS,
    *(fault for index, role in enumerate(SCORERS) for fault in _per_scorer(index, role)),
    *_MIXING,
    *_REPORTS,
)
