"""Whether conditioning on the query helps: a claim with controls, not a figure.

A conditional dictionary is compared, seed by seed on the same batches, with an unconditional one of
as many parameters, with one of as many latents (both of the same L0), and with one trained on
shuffled queries. The word `helps` is given only if it explains more than all on judged samples, if
the wrong query costs, and if nothing is smuggled: no image is drawn from the query alone, noise
does not fire more latents, firing does not depend on the query by more bits than are to be had, and
a query that is not the image's own can be read from the code no better than the right one.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.recovery import recovery
from arrcoc_verify.dictionary.storage import Kept, load_dictionary, save_dictionary
from arrcoc_verify.dictionary.training import Recipe, Source, Trainer
from arrcoc_verify.dictionary.twins import Shuffled, matched, shuffled
from arrcoc_verify.errors import StoreError, UsageError
from arrcoc_verify.stats.interval import mean_interval

NULL_IMAGE = 0.001
"""Most of the data's variance that the query alone may draw."""
BITS_SLACK = 0.1
"""Bits above the ceiling that estimation error may explain: this share of it, and so many more."""
SHUFFLES = 8
"""Times that queries are shuffled to find what bits are counted where there are none."""
L0_SLACK = 0.05
"""Relative difference of L0 that still counts as matched."""
NOISE_SLACK = 0.05
"""Latents, as a share of L0, that noise may fire beyond those of the unconditional twin."""
LEAST_GAIN = 0.01
"""Smallest gain of FVE that matters."""
TWIN_SLACK = {"fve": 0.02, "f1": 0.05}
"""Difference that still counts as none between the twins that know no query. F1 has a standard
deviation of about 0.025 over seeds, so that means over three seeds differ by 0.02 by chance."""
MIN_SEEDS = 3
ARMS = ("conditional", "matched_unconditional", "unconditional", "shuffled_query")
"""A conditional dictionary and its twins."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What dictionaries are trained and judged on.

    Attributes:
        source: of training and calibration samples, with their queries.
        judged: samples that neither touches.
        asked: number of the query of each judged sample, `[sample]`.
        units: number of the independent unit of each judged sample, `[sample]`.
        directions: planted directions, or None where truth is not known.
        codes: planted codes of the judged samples, or None.
        ceiling: most bits that conditioning may save, as far as known; what an unconditional code's
            firing tells of the query is allowed in any case.
        recovered: share of the model's tokens that a dictionary's reconstruction recovers, by
            independent unit, `[unit]`; None where there is no model.
    """

    source: Source
    judged: Samples
    asked: Tensor
    units: Tensor
    directions: Tensor | None = None
    codes: Tensor | None = None
    ceiling: float = 0.0
    recovered: Callable[[Dictionary], Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One dictionary on judged samples.

    Attributes:
        fve: fraction of variance explained.
        l0: active latents of a sample.
        dead: share of latents that no judged sample uses.
        parameters, alive_parameters: trained numbers, and those of latents that are used.
        bits: sum over latents of what the query says of their firing.
        mcc, f1: against planted truth, None without.
        tokens: share of the model's tokens recovered, None without a model.
    """

    fve: float
    l0: float
    dead: float
    parameters: int
    alive_parameters: int
    bits: float
    mcc: float | None
    f1: float | None
    tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Smuggling:
    """Ways by which a query could pass for an image; means over seeds.

    Attributes:
        null_image: share of the data's variance that queries draw on the mean activation.
        noise_l0, noise_l0_unconditional: active latents on noise as large as what the better of
            the two leaves unexplained.
        bits: what the query says of firing.
        ceiling: most bits allowed.
        probe: share of swapped queries told from the codes; chance: of guessing.
        probe_bits: what the codes say of a swapped query at least, by the probe's hits.
        probe_ceiling: the same of a sample's own query in planted or unconditional codes: a query
            that the image does not belong to may not be read better than the right one.
        passed: null image, noise, bits and the probe's bits are inside their bounds.
    """

    null_image: float
    noise_l0: float
    noise_l0_unconditional: float
    bits: float
    ceiling: float
    probe: float
    chance: float
    probe_bits: float
    probe_ceiling: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What conditioning does, with its controls.

    Attributes:
        conditional: one fit a seed.
        matched_unconditional: of the twin with as many parameters.
        unconditional: of the twin with as many latents.
        shuffled_query: of the twin trained on shuffled queries.
        gain: interval of the gain of FVE over the twin with as many parameters, over units.
        gain_over_unconditional, gain_over_shuffled: the same over the other twins.
        tokens_gain: twin -> interval of the gain of tokens recovered, over units; None without a
            model.
        wrong_query_cost: FVE lost when samples are encoded with another query, mean over seeds.
        smuggling: see there.
        helps: conditioning helps.
        reasons: what stands against it; empty when it helps.
    """

    conditional: tuple[Fit, ...]
    matched_unconditional: tuple[Fit, ...]
    unconditional: tuple[Fit, ...]
    shuffled_query: tuple[Fit, ...]
    gain: tuple[float, float, float]
    gain_over_unconditional: tuple[float, float, float]
    gain_over_shuffled: tuple[float, float, float]
    tokens_gain: dict[str, tuple[float, float, float]] | None
    wrong_query_cost: float
    smuggling: Smuggling
    helps: bool
    reasons: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return JSON data: means over seeds under the name of each fit, and the seeds'."""
        found = asdict(self)
        for name in ARMS:
            fits = found.pop(name)
            found[name] = {key: _mean([fit[key] for fit in fits]) for key in fits[0]}
            found[name]["seeds"] = fits
        return found


def trained(
    case: Case,
    config: DictionaryConfig,
    recipe: Recipe,
    seeds: Sequence[int],
    tell: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
) -> dict[str, list[Dictionary]]:
    """Train a conditional dictionary and its twins, one of each a seed, by the names in `ARMS`.

    Args:
        case: what on.
        config: the conditional dictionary.
        recipe: for all of them; its seed is replaced.
        seeds: at least three.
        tell: called before each fit.
        folder: where fits are kept, and taken from if they are of this config, recipe and case;
            None keeps none.

    Raises:
        UsageError: fewer than three seeds, or a config without a query.
    """
    if len(seeds) < MIN_SEEDS:
        raise UsageError(f"one seed proves nothing: wanted {MIN_SEEDS} or more, got {len(seeds)}")
    if not config.query:
        raise UsageError("nothing to compare: the dictionary has no query")
    forms = {
        "conditional": config, "matched_unconditional": matched(config),
        "unconditional": replace(config, query=0, turns=0), "shuffled_query": config,
    }  # fmt: skip
    made: dict[str, list[Dictionary]] = {name: [] for name in ARMS}
    for seed in seeds:
        for name, form in forms.items():
            tell(f"{name.replace('_', ' ')}, seed {seed}")
            source: Source = case.source
            if name == "shuffled_query":
                source = Shuffled(source=source, seed=seed)
            place = None if folder is None else folder / f"{name}-{seed}"
            made[name].append(_fitted(form, replace(recipe, seed=seed), source, place))
    return made


def _fitted(
    config: DictionaryConfig, recipe: Recipe, source: Source, place: Path | None
) -> Dictionary:
    """Return a trained dictionary: the one that was kept, if it is of the same training."""
    if place is None:
        return Trainer(config, recipe, source).train()
    about = {"recipe": asdict(recipe), "first_batch": source.batch(0).digest()}
    about = json.loads(json.dumps(about))  # as it is read again
    with suppress(StoreError):
        kept = load_dictionary(place)
        if kept.about == about and kept.dictionary.config == config:
            return kept.dictionary
    made = Trainer(config, recipe, source).train()
    save_dictionary(place, Kept(dictionary=made, about=about))
    return made


@torch.no_grad()
def compared(case: Case, arms: Mapping[str, Sequence[Dictionary]]) -> Comparison:
    """Judge dictionaries as `trained` returns them."""
    moved = _recovered(case, arms)
    fits = {
        name: tuple(
            _fit(case, one, None if moved is None else float(moved[name][at].mean()))
            for at, one in enumerate(made)
        )
        for name, made in arms.items()
    }
    ours = arms["conditional"]
    gains = {name: _gain(case, ours, arms[name]) for name in ARMS[1:]}
    wrong = shuffled(case.judged, 7)
    cost = _mean([_fve(case.judged, one) - _fve(wrong, one) for one in ours])
    leak = smuggling(case, ours, arms["unconditional"])
    causal = None if moved is None else {name: _gain_of_tokens(moved, name) for name in ARMS[1:]}
    reasons = (*_against(fits, gains, cost, leak), *_against_tokens(causal), *_unlike(fits))
    return Comparison(
        **fits, gain=gains["matched_unconditional"],
        gain_over_unconditional=gains["unconditional"],
        gain_over_shuffled=gains["shuffled_query"], tokens_gain=causal,
        wrong_query_cost=cost, smuggling=leak, helps=not reasons, reasons=reasons,
    )  # fmt: skip


_TWINS = {
    "matched_unconditional": "the unconditional twin with as many parameters",
    "unconditional": "the unconditional twin with as many latents",
    "shuffled_query": "the twin trained on shuffled queries",
}


def _against(
    fits: Mapping[str, tuple[Fit, ...]],
    gains: Mapping[str, tuple[float, float, float]],
    cost: float,
    leak: Smuggling,
) -> tuple[str, ...]:
    ours, l0 = fits["conditional"], _mean([fit.l0 for fit in fits["conditional"]])
    said: list[tuple[bool, str]] = []
    for name, twin in _TWINS.items():
        said.append((not gains[name][1] > LEAST_GAIN, f"explains no more than {twin}"))
        each = all(a.fve > b.fve for a, b in zip(ours, fits[name], strict=True))
        said.append((not each, f"does not beat {twin} with every seed"))
        theirs = _mean([fit.l0 for fit in fits[name]])
        said.append((not abs(l0 / max(theirs, 1e-9) - 1) <= L0_SLACK,
                     f"L0 is not that of {twin}: {l0:.2f}, {theirs:.2f}"))  # fmt: skip
        f1, other = _mean([a.f1 for a in ours]), _mean([b.f1 for b in fits[name]])
        said.append((f1 is not None and not f1 > other, f"fires no more rightly than {twin}"))
    said += [
        (not cost > LEAST_GAIN, "the wrong query costs nothing"),
        (not leak.passed, "it smuggles the query"),
    ]
    return tuple(text for against, text in said if against)


def _against_tokens(gains: Mapping[str, tuple[float, float, float]] | None) -> tuple[str, ...]:
    return tuple(
        f"recovers no more of the model's tokens than {_TWINS[name]}"
        for name, (_, low, _) in (gains or {}).items() if not low > 0
    )  # fmt: skip


def _unlike(fits: Mapping[str, tuple[Fit, ...]]) -> tuple[str, ...]:
    """Return in what the twin that got other samples' queries is not like one that got none."""
    found = []
    for key, word in (("fve", "variance explained"), ("f1", "F1"), ("bits", "bits")):
        one, other = (
            _mean([getattr(fit, key) for fit in fits[name]])
            for name in ("shuffled_query", "unconditional")
        )
        if one is None:
            continue
        slack = TWIN_SLACK.get(key, BITS_SLACK * (1 + other))
        if not abs(one - other) <= slack:
            found.append(
                f"the twin trained on shuffled queries is not like one without: {word} "
                f"{one:.3f}, {other:.3f}"
            )
    return tuple(found)


def smuggling(
    case: Case, dictionaries: Sequence[Dictionary], twins: Sequence[Dictionary]
) -> Smuggling:
    """Return how much of the query passes for an image.

    Args:
        case: samples to judge on.
        dictionaries: conditional, one a seed.
        twins: unconditional ones of the same L0.
    """
    judged = case.judged
    null = _mean([_null_image(judged, one) for one in dictionaries])
    left = min(_mean([_left(judged, one) for one in made]) for made in (dictionaries, twins))
    noise = _mean([_noise_l0(judged, one, left) for one in dictionaries])
    plain = _mean([_noise_l0(judged, one, left) for one in twins])
    bits = _mean([_bits(case, one) for one in dictionaries])
    ceiling = max(case.ceiling, _mean([_bits(case, one) for one in twins]))
    probes = [_swapped_probe(case, one) for one in dictionaries]
    said, honest = _mean([told for _, told in probes]), _own_probe(case, twins)
    l0 = _mean(
        [float((one.encode(judged.x, judged.query) > 0).sum(1).float().mean()) for one in twins]
    )
    passed = (
        null <= NULL_IMAGE and noise <= plain + NOISE_SLACK * l0
        and bits <= _allowed(ceiling) and said <= _allowed(honest)
    )  # fmt: skip
    return Smuggling(
        null_image=null, noise_l0=noise, noise_l0_unconditional=plain, bits=bits, ceiling=ceiling,
        probe=_mean([hit for hit, _ in probes]), chance=1 / len(case.asked.unique()),
        probe_bits=said, probe_ceiling=honest, passed=bool(passed),
    )  # fmt: skip


def _allowed(ceiling: float) -> float:
    return ceiling * (1 + BITS_SLACK) + BITS_SLACK


def _fit(case: Case, dictionary: Dictionary, tokens: float | None) -> Fit:
    codes = dictionary.encode(case.judged.x, case.judged.query)
    used = (codes > 0).any(0)
    found = None
    if case.directions is not None and case.codes is not None:
        found = recovery(_directions(dictionary, case), case.directions, codes, case.codes)
    silent = int((~used).sum())
    return Fit(
        fve=_fve(case.judged, dictionary), l0=float((codes > 0).sum(1).float().mean()),
        dead=silent / len(used), parameters=dictionary.parameter_count(),
        alive_parameters=dictionary.parameter_count() - silent * dictionary.latent_parameters(),
        bits=_bits(case, dictionary), mcc=None if found is None else found.mcc,
        f1=None if found is None else found.f1, tokens=tokens,
    )  # fmt: skip


def _directions(dictionary: Dictionary, case: Case) -> Tensor:
    """Return decoder rows, at the mean query where they turn."""
    rows: Tensor = dictionary.W_dec
    if dictionary.config.turns:
        mean = dictionary.turned(case.judged.query, 2).mean(0)
        rows = rows + torch.einsum("t,tlc->lc", mean, dictionary.dec_turn)
    return rows


def _errors(samples: Samples, dictionary: Dictionary) -> Tensor:
    """Return each sample's squared error over the mean variance, `[sample]`."""
    wanted = samples.wanted
    spread = (wanted - wanted.mean(0)).square().sum(1).mean()
    error: Tensor = (wanted - dictionary(samples.x, samples.query)).square().sum(1)
    return error / spread


def _fve(samples: Samples, dictionary: Dictionary) -> float:
    return 1 - float(_errors(samples, dictionary).mean())


def _gain(
    case: Case, ours: Sequence[Dictionary], twins: Sequence[Dictionary]
) -> tuple[float, float, float]:
    """Return estimate and 99 % interval of the gain of FVE, over units, averaged over seeds."""
    total = torch.zeros(len(case.judged.x))
    for one, twin in zip(ours, twins, strict=True):
        total += _errors(case.judged, twin) - _errors(case.judged, one)
    names, place = case.units.unique(return_inverse=True)
    sums = torch.zeros(len(names)).index_add(0, place, total / len(ours))
    return _interval(sums / torch.bincount(place))


def _recovered(
    case: Case, arms: Mapping[str, Sequence[Dictionary]]
) -> dict[str, list[Tensor]] | None:
    """Return what each dictionary recovers of the tokens, `[unit]`, by arm and seed."""
    if case.recovered is None:
        return None
    return {name: [case.recovered(one) for one in made] for name, made in arms.items()}


def _gain_of_tokens(moved: Mapping[str, Sequence[Tensor]], name: str) -> tuple[float, float, float]:
    ours, theirs = (torch.stack(list(moved[arm])).mean(0) for arm in ("conditional", name))
    return _interval(ours - theirs)


def _interval(each: Tensor) -> tuple[float, float, float]:
    """Return the mean over units and its 99 % interval."""
    found = mean_interval(each.double().numpy(), level=0.99)
    return float(found.value), float(found.low), float(found.high)


def _bits(case: Case, dictionary: Dictionary) -> float:
    return query_bits(_fires(dictionary, case.judged), case.asked)


def query_bits(fires: Tensor, asked: Tensor) -> float:
    """Return what the query says of firing: the sum over latents of H(fires) - H(fires | query).

    Counted from samples this lies above 0 where the query says nothing, by an amount that hangs on
    how rare latents are. The mean under shuffled queries, which say nothing, is that amount at any
    density, and is taken off.

    Args:
        fires: `[sample, latent]`, bool.
        asked: number of each sample's query, `[sample]`.
    """
    generator = torch.Generator().manual_seed(11)
    orders = [torch.randperm(len(asked), generator=generator) for _ in range(SHUFFLES)]
    values = fires.double()
    nothing = _mean([_counted_bits(values, asked[order]) for order in orders])
    return _counted_bits(values, asked) - float(nothing)


def _counted_bits(fires: Tensor, asked: Tensor) -> float:
    _, place = asked.unique(return_inverse=True)
    count = torch.bincount(place).double()
    each = torch.zeros(len(count), fires.shape[1], dtype=torch.float64).index_add(0, place, fires)
    inside = (_entropy(each / count[:, None]) * (count / count.sum())[:, None]).sum(0)
    return float((_entropy(fires.mean(0)) - inside).sum())


def _fires(dictionary: Dictionary, samples: Samples) -> Tensor:
    return dictionary.encode(samples.x, samples.query) > 0


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)
    return -nats / math.log(2)


def _null_image(samples: Samples, dictionary: Dictionary) -> float:
    """Return the variance over queries of what is drawn on the mean activation, over the data's."""
    mean = samples.x.mean(0, keepdim=True).expand_as(samples.x)
    drawn = dictionary(mean, samples.query)
    spread = (samples.wanted - samples.wanted.mean(0)).square().sum(1).mean()
    return float((drawn - drawn.mean(0)).square().sum(1).mean() / spread)


def _left(samples: Samples, dictionary: Dictionary) -> float:
    """Return the standard deviation of what is left of a channel."""
    left = samples.wanted - dictionary(samples.x, samples.query)
    return float(left.square().mean().sqrt())


def _noise_l0(samples: Samples, dictionary: Dictionary, size: float) -> float:
    """Return active latents on isotropic noise about the mean."""
    generator = torch.Generator().manual_seed(3)
    noise = samples.x.mean(0) + size * torch.randn(samples.x.shape, generator=generator)
    return float((dictionary.encode(noise, samples.query) > 0).sum(1).float().mean())


def _swapped_probe(case: Case, dictionary: Dictionary) -> tuple[float, float]:
    """Return how well a query that is another sample's is told from what fires; see `_probe`."""
    order = torch.randperm(len(case.asked), generator=torch.Generator().manual_seed(5))
    swapped = replace(case.judged, query=_at(case.judged.query, order))
    return _probe(_fires(dictionary, swapped), case.asked[order])


def _own_probe(case: Case, twins: Sequence[Dictionary]) -> float:
    """Return the bits of a sample's own query that planted or unconditional codes say."""
    said = _mean([_probe(_fires(one, case.judged), case.asked)[1] for one in twins])
    planted = 0.0 if case.codes is None else _probe(case.codes > 0, case.asked)[1]
    return max(float(said), planted)


def _probe(fires: Tensor, asked: Tensor) -> tuple[float, float]:
    """Return how often naive Bayes tells the query from what fires, and the bits that this takes.

    It learns from one half of the samples and is judged on the other.
    """
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(6))
    queries, place = asked[order].unique(return_inverse=True)
    values, half = fires[order].double(), len(asked) // 2
    count = torch.bincount(place[:half], minlength=len(queries)).double()
    chance = torch.zeros(len(queries), values.shape[1], dtype=torch.float64)
    chance.index_add_(0, place[:half], values[:half])
    chance = (chance + 0.5) / (count[:, None] + 1)
    score = values[half:] @ chance.log().T + (1 - values[half:]) @ (1 - chance).log().T
    guess = (score + (count + 1e-9).log()).argmax(1)
    hits = float((guess == place[half:]).double().mean())
    return hits, bits_of_hits(hits, torch.bincount(place))


def bits_of_hits(hits: float, count: Tensor) -> float:
    """Return the least bits about a query with which it can be told so often (Fano's inequality).

    Args:
        hits: share of queries that are told rightly.
        count: samples of each query, `[query]`.
    """
    share = count.double() / count.sum()
    if len(share) < 2 or hits <= float(share.max()):
        return 0.0  # no more than always saying the commonest
    unsure = float(torch.special.entr(share).sum()) / math.log(2)
    wrong = float(_entropy(torch.tensor(hits, dtype=torch.float64)))
    return max(0.0, unsure - wrong - (1 - hits) * math.log2(len(share) - 1))


def _at(value: Tensor | None, order: Tensor) -> Tensor | None:
    return None if value is None else value[order]


def _mean(values: Sequence[Any]) -> Any:
    return None if any(v is None for v in values) else float(np.mean(values))
