"""Claims about balancing: tensions act, trade off, answer the input, and are as reported."""

import torch
from torch import Tensor

from arrcoc_verify.claim import Claim, Contract, Distances, Effects, Measure
from arrcoc_verify.effect import frozen_for
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import change, mean_over, relevance_change
from arrcoc_verify.model import SCORERS, TENSIONS, patches_last
from arrcoc_verify.suite.gates import QUERY, RUNTIME
from arrcoc_verify.suite.spike import spiked_vector

BROAD_QUERY = "describe everything in the whole scene"
ODD_QUERY = "is there anything odd or unusual here?"
PUSH = 0.2
"""How far a tension is moved, on its scale of 0 to 1."""


def _pushed(lab: Lab, name: str, amount: float) -> Run:
    """One tension moved, kept inside 0..1."""
    (site,) = lab.need("tensions")
    before = lab.clean[site.name]
    axis = site.axes.index("channel")
    shape = [1] * before.ndim
    shape[axis] = -1
    push = torch.zeros(before.shape[axis], dtype=before.dtype)
    push[lab.channel("tensions", name, TENSIONS)] = amount
    low, high = lab.model.declaration.tension_range
    wide = bool(before.amin() < low) or bool(before.amax() > high)  # another scale than declared
    value = before + push.reshape(shape)
    value = value if wide else value.clamp(low, high)
    return lab.resumed([Edit(site=site.name, value=value)])


def _weights(lab: Lab, result: Run) -> Tensor:
    return lab.vector(result, "weights", SCORERS)


def _favours(name: str) -> Measure:
    def measure(lab: Lab) -> Effects:
        channel = SCORERS.index(lab.model.profile.favours[name])
        up, down = (_weights(lab, _pushed(lab, name, sign * PUSH)) for sign in (1, -1))
        moved = (up - down).mean(0).tolist()
        told = {f"weight of {s}": m for s, m in zip(SCORERS, moved, strict=True)}
        return Effects(
            values=(up - down)[:, channel],
            spiked=spiked_vector(lab, "weights", SCORERS, SCORERS[channel], 0.02),
            numbers=told,
        )

    return measure


def _moves(name: str) -> Measure:
    def measure(lab: Lab) -> Effects:
        up, down = _pushed(lab, name, PUSH), _pushed(lab, name, -PUSH)
        return Effects(values=change(down.allocation, up.allocation))

    return measure


def tensions_trade_off(lab: Lab) -> Effects:
    """What the favoured scorer gains, both others lose: the least loss over the tensions."""
    least = []
    for name in TENSIONS:
        channel = SCORERS.index(lab.model.profile.favours[name])
        gain = _weights(lab, _pushed(lab, name, PUSH)) - _weights(lab, _pushed(lab, name, -PUSH))
        others = [c for c in range(3) if c != channel]
        least.append(-gain[:, others].amax(1))
    return Effects(values=torch.stack(least).amin(0))


def _answers(name: str, query: str, sign: int) -> Measure:
    """A tension under another kind of query, against the scene's own."""

    def measure(lab: Lab) -> Effects:
        channel = TENSIONS.index(name)
        plain = lab.vector(lab.clean, "tensions", TENSIONS)[:, channel]
        other = lab.vector(lab.asked(query), "tensions", TENSIONS)[:, channel]
        return Effects(
            values=sign * (other - plain),
            spiked=spiked_vector(lab, "tensions", TENSIONS, name, 0.05),
        )

    return measure


def tensions_answer_the_image(lab: Lab) -> Effects:
    """How far the least mobile tension goes when the same query meets the other pictures."""
    others = lab.run_on([scene.image for scene in (*lab.scenes[1:], lab.scenes[0])])
    plain = lab.vector(lab.clean, "tensions", TENSIONS)
    moved = (lab.vector(others, "tensions", TENSIONS) - plain).abs()
    return Effects(values=moved.amin(1))


def _mean_of(lab: Lab, role: str) -> tuple[str, Tensor]:
    """The mean of a site over scenes and kinds of query: the fixed heuristic to compare with."""
    (site,) = lab.need(role)
    runs = [lab.clean, lab.asked(BROAD_QUERY), lab.asked(ODD_QUERY)]
    stacked = torch.cat([result[site.name] for result in runs])
    return site.name, stacked.double().mean(0, keepdim=True).to(stacked.dtype)


def weights_are_not_fixed(lab: Lab) -> Effects:
    """Replace the weights by their mean over images and queries."""
    name, mean = _mean_of(lab, "weights")
    runs = [lab.clean, lab.asked(BROAD_QUERY), lab.asked(ODD_QUERY)]
    moved = [
        change(result.allocation, lab.resumed([_all(lab, name, mean)], base=result).allocation)
        for result in runs
    ]
    return Effects(values=torch.stack(moved).mean(0))


def _all(lab: Lab, name: str, value: Tensor) -> Edit:
    native = lab.clean[name]
    return Edit(site=name, value=value.expand(native.shape).clone())


def query_acts_through_tensions(lab: Lab) -> Effects:
    """Share of a broad query's effect on the weights that freezing the tensions removes."""
    (tension,) = lab.need("tensions")
    broad = lab.asked(BROAD_QUERY)
    whole = (_weights(lab, broad) - _weights(lab, lab.clean)).abs().amax(1)
    held = lab.resumed([freeze(tension.name, lab.clean)], base=broad)
    left = (_weights(lab, held) - _weights(lab, lab.clean)).abs().amax(1)
    return Effects(
        values=torch.where(
            whole > 1e-6, 1 - left / whole.clamp(min=1e-12), torch.zeros_like(whole)
        ),
        exercise={"queries that move the weights": int((whole > 1e-3).sum())},
    )


def _reported(said: str, applied: str, names: tuple[str, ...]) -> Measure:
    """Scenes in which the report is off, over queries of four kinds."""

    def measure(lab: Lab) -> Contract:
        lab.need(said, applied)
        runs = [lab.clean, lab.asked(BROAD_QUERY), lab.asked(ODD_QUERY), lab.asked("other")]
        broken = torch.zeros(len(lab))
        spread = torch.zeros(1, dtype=torch.float64)
        values = []
        for result in runs:
            told = lab.vector(result, said, names)
            real = lab.vector(result, applied, names)
            values.append(real)
            broken += (~((told - real).abs().amax(1) <= 1e-5)).double()
        spread = torch.cat(values).std(0).max()
        return Contract(
            broken=broken, cases=len(lab) * len(runs),
            exercise={"values that differ between cases": int(spread > 1e-6)},
        )  # fmt: skip

    return measure


def weights_are_shares(lab: Lab) -> Contract:
    """Weights below 0, or that do not add up to 1, over queries of four kinds."""
    lab.need("weights")
    runs = [lab.clean, lab.asked(BROAD_QUERY), lab.asked(ODD_QUERY), lab.asked("absent")]
    broken = torch.zeros(len(lab))
    for result in runs:
        weights = _patch_weights(lab, result)
        fine = (weights >= -1e-6).all(2) & ((weights.sum(2) - 1).abs() <= 1e-4)
        broken += (~fine.all(1)).double()
    return Contract(broken=broken, cases=len(lab) * len(runs))


def tensions_in_range(lab: Lab) -> Contract:
    """Tensions outside the declared scale, over queries of four kinds."""
    lab.need("tensions")
    low, high = lab.model.declaration.tension_range
    runs = [lab.clean, lab.asked(BROAD_QUERY), lab.asked(ODD_QUERY), lab.asked("absent")]
    broken = torch.zeros(len(lab))
    for result in runs:
        found = lab.vector(result, "tensions", TENSIONS)
        broken += (~((found >= low - 1e-6) & (found <= high + 1e-6)).all(1)).double()
    return Contract(broken=broken, cases=len(lab) * len(runs))


def applied_weights_make_the_mix(lab: Lab) -> Contract:
    """Recompute the mix from weights and scores; count scenes in which it is not the model's."""
    lab.need("weights", "mix")
    broken = torch.zeros(len(lab))
    runs = [lab.clean, lab.asked("other"), lab.asked(BROAD_QUERY)]
    for result in runs:
        scores = torch.stack([lab.map(result, role) for role in SCORERS], 2)
        made = (scores * _patch_weights(lab, result)).sum(2)
        real = lab.map(result, "mix")
        # Up to an affine map: a model may scale its mix, but not make it of something else.
        off = _unexplained(made, real)
        broken += (~(off <= 1e-3)).double()
    return Contract(broken=broken, cases=len(lab) * len(runs))


def _patch_weights(lab: Lab, result: Run) -> Tensor:
    """Weights as `[scene, patch or 1, scorer]`, whether they vary over patches or not."""
    (site,) = lab.need("weights")
    if not site.per_patch:
        return _weights(lab, result)[:, None, :]
    value = patches_last(result[site.name], site, lab.grid).double()
    return value[:, :, [lab.channel("weights", name, SCORERS) for name in SCORERS]]


def _unexplained(made: Tensor, real: Tensor) -> Tensor:
    a, b = made - made.mean(1, keepdim=True), real - real.mean(1, keepdim=True)
    fit = (a * b).sum(1) ** 2 / ((a * a).sum(1) * (b * b).sum(1)).clamp(min=1e-30)
    return torch.where((b * b).sum(1) > 0, 1 - fit, torch.ones_like(fit))


def monotone_in_scores(lab: Lab) -> Contract:
    """Raise each score on the target: its mean relevance must not fall behind the rest."""
    broken = torch.zeros(len(lab))
    doses = (0.5, 1.0, 2.0)
    names = [role for role in SCORERS if lab.model.role(role) is not None]
    rest = ~lab.target
    for role in names:
        last = mean_over(lab.clean.allocation.relevance, lab.target) - mean_over(
            lab.clean.allocation.relevance, rest
        )
        for dose in doses:
            result = lab.shifted(role, dose * lab.spread(role), lab.target, "unrepaired")
            lead = mean_over(result.allocation.relevance, lab.target) - mean_over(
                result.allocation.relevance, rest
            )
            broken += (~(lead >= last - 1e-9)).double()
            last = lead
    if not names:
        raise NotApplicable(f"{lab.model.name} declares no score maps")
    return Contract(broken=broken, cases=len(lab) * len(names) * len(doses))


def edit_stays_local(lab: Lab) -> Distances:
    """Raise query relevance on the target, weights and normalisers held; look elsewhere."""
    role = next((r for r in reversed(SCORERS) if lab.model.role(r)), None)
    if role is None:
        raise NotApplicable(f"{lab.model.name} declares no score maps")
    if frozen_for(lab.model, "unrepaired") is None:
        raise NotApplicable(
            "repair cannot be taken out: there are no writable weights or normalisers to hold, or "
            "a total is conserved and no multiplier declared"
        )
    result = lab.shifted(role, lab.spread(role), lab.target, "unrepaired")
    moved = (result.allocation.relevance - lab.clean.allocation.relevance).square()
    inside = mean_over(moved, lab.target).sqrt()
    outside = mean_over(moved, ~lab.target).sqrt()
    return Distances(
        values=torch.where(
            inside > 0, outside / inside.clamp(min=1e-30), torch.full_like(inside, 9.0)
        ),
        exercise={"edits that moved the target": int((inside > 0).sum())},
    )


def maps_mediate_everything(lab: Lab) -> Distances:
    """Freeze the maps and what weighs them while picture and query change: relevance must stay.

    Tensions decide the weights; where a model has none, the weights themselves are held.
    """
    sites = lab.need(*SCORERS)
    weighing = lab.model.role("tensions") or lab.model.role("weights")
    held = [*sites, *([weighing] if weighing else [])]
    order = [*range(1, len(lab)), 0]
    swapped = lab.run_on([lab.scenes[i].image for i in order], [lab.scenes[i].query for i in order])
    frozen = lab.resumed([freeze(site.name, lab.clean) for site in held], base=swapped)
    size = max(float(lab.clean.allocation.relevance.std(1, unbiased=False).median()), 1e-30)
    off = relevance_change(lab.clean.allocation, frozen.allocation) / size
    free = relevance_change(lab.clean.allocation, swapped.allocation) / size
    return Distances(
        values=off, exercise={"inputs that move relevance when free": int((free > 0.1).sum())}
    )


_TENSION_CLAIMS = tuple(
    Claim(
        id=f"balancing.{name}-favours-its-scorer", stage="balancing", kind="causes",
        sentence=f"more of the tension {name} gives its scorer more weight",
        operation=f"move {name} by 0.2 up and down; weight of the scorer that the profile says "
        f"it favours",
        source="opponent processing: three tensions weigh the scorers against each other",
        measure=_favours(name), margin=0.02, unit="weight", gates=RUNTIME,
    )
    for name in TENSIONS
) + tuple(
    Claim(
        id=f"balancing.{name}-moves-tokens", stage="balancing", kind="causes",
        sentence=f"the tension {name} moves the allocation",
        operation=f"move {name} by 0.2 up and down; half the L1 distance of the token shares",
        source="reported tensions are the causal ones",
        measure=_moves(name), margin=0.002, unit="share of tokens", gates=RUNTIME,
    )
    for name in TENSIONS
)  # fmt: skip

CLAIMS = (
    *_TENSION_CLAIMS,
    Claim(
        id="balancing.tensions-trade-off", stage="balancing", kind="causes",
        sentence="what one tension gives its scorer, both others lose",
        operation="each tension 0.2 up and down; least loss of the scorers it does not favour",
        source="opponents are anti-correlated",
        measure=tensions_trade_off, margin=0.005, unit="weight", gates=RUNTIME,
    ),
    Claim(
        id="balancing.focus-falls-for-broad-queries", stage="balancing", kind="sensitive_to",
        sentence="asking for everything lowers focus",
        operation=f"ask {BROAD_QUERY!r}; fall of focus",
        source="tensions depend on the query",
        measure=_answers("focus", BROAD_QUERY, -1), margin=0.05, unit="tension",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="balancing.compress-rises-for-broad-queries", stage="balancing", kind="sensitive_to",
        sentence="asking for everything raises compress",
        operation=f"ask {BROAD_QUERY!r}; rise of compress",
        source="compress(describe) above compress(tiny detail)",
        measure=_answers("compress", BROAD_QUERY, 1), margin=0.05, unit="tension",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="balancing.exploit-falls-for-odd-queries", stage="balancing", kind="sensitive_to",
        sentence="asking for oddities lowers exploit",
        operation=f"ask {ODD_QUERY!r}; fall of exploit",
        source="exploit(where is X) above exploit(anomalies)",
        measure=_answers("exploit", ODD_QUERY, -1), margin=0.05, unit="tension",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="balancing.tensions-answer-the-image", stage="balancing", kind="sensitive_to",
        sentence="at the same query, every tension depends on the picture",
        operation="other pictures with the same query; least change of the three tensions",
        source="tensions depend on the image at fixed query",
        measure=tensions_answer_the_image, margin=0.0005, unit="tension", gates=RUNTIME,
    ),
    Claim(
        id="balancing.weights-are-not-fixed", stage="balancing", kind="necessary",
        sentence="weights that answer the context matter: their mean does not do the same",
        operation="replace the weights by their mean over images and three kinds of query",
        source="tensions are navigated, not fixed heuristics",
        measure=weights_are_not_fixed, margin=0.01, unit="share of tokens", gates=RUNTIME,
    ),
    Claim(
        id="balancing.query-acts-through-tensions", stage="balancing", kind="mediates",
        sentence="a query changes the weights through the tensions and not around them",
        operation="broad query with the tensions frozen; share of the change of weights that is "
        "gone",
        source="reported tensions are the causal ones",
        measure=query_acts_through_tensions, margin=0.9, unit="share of the effect",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="balancing.reported-weights-are-applied", stage="report", kind="conserved",
        sentence="the weights that the model reports are the weights it applies",
        operation="compare report and applied weights over four kinds of query",
        source="self-reports are claims too",
        measure=_reported("reported_weights", "weights", SCORERS), gates=RUNTIME,
    ),
    Claim(
        id="balancing.reported-tensions-are-applied", stage="report", kind="conserved",
        sentence="the tensions that the model reports are the tensions it applies",
        operation="compare report and applied tensions over four kinds of query",
        source="self-reports are claims too",
        measure=_reported("reported_tensions", "tensions", TENSIONS), gates=RUNTIME,
    ),
    Claim(
        id="balancing.weights-are-shares", stage="balancing", kind="conserved",
        sentence="the weights are shares: none is negative and they add up to 1",
        operation="weights over four kinds of query",
        source="what one scorer gains, the others lose", measure=weights_are_shares, gates=RUNTIME,
    ),
    Claim(
        id="balancing.tensions-in-range", stage="balancing", kind="conserved",
        sentence="the tensions lie on their declared scale",
        operation="tensions over four kinds of query",
        source="a tension lies between its two poles", measure=tensions_in_range, gates=RUNTIME,
    ),
    Claim(
        id="balancing.weights-make-the-mix", stage="balancing", kind="conserved",
        sentence="the mix is the weighted sum of the three scores",
        operation="recompute it from weights and scores, up to scale and offset",
        source="contributions add up to relevance",
        measure=applied_weights_make_the_mix, gates=RUNTIME,
    ),
    Claim(
        id="balancing.more-score-never-less-relevance", stage="balancing", kind="monotone",
        sentence="raising a region's score never lowers its lead in relevance",
        operation="each score up by half, one and two spreads on the target, weights held",
        source="raising one patch's score in any way never lowers its rank",
        measure=monotone_in_scores, gates=RUNTIME,
    ),
    Claim(
        id="balancing.scores-act-where-they-are", stage="balancing", kind="no_effect",
        sentence="a score changes relevance where it is and hardly elsewhere",
        operation="query relevance up on the target, weights and normalisers held; change "
        "elsewhere "
        "over change inside",
        source="direct effect beats side effect",
        measure=edit_stays_local, margin=0.1, unit="share of the change inside", gates=RUNTIME,
    ),
    Claim(
        id="balancing.scores-mediate-everything", stage="balancing", kind="mediates",
        sentence="picture and query reach relevance only through the three scores and the tensions",
        operation="freeze scores and tensions (without any, weights), exchange pictures and "
        "queries; change of relevance",
        source="mediation is complete",
        measure=maps_mediate_everything, margin=0.01, unit="spreads of relevance", gates=RUNTIME,
    ),
)  # fmt: skip
