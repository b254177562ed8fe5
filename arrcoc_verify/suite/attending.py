"""Claims about attending: relevance, and nothing else, becomes tokens under the declared budget."""

import itertools

import torch
from torch import Tensor

from arrcoc_verify.claim import Claim, Contract, Distances, Effects, Measure, Measured
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import token_change
from arrcoc_verify.model import patches_last
from arrcoc_verify.suite.balancing import BROAD_QUERY
from arrcoc_verify.suite.gates import RUNTIME
from arrcoc_verify.suite.spike import pushed, spiked_tokens

DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)
SLACK = 1.0
"""Tokens by which whole numbers may differ from the curve they are rounded from."""


def _lod(lab: Lab) -> tuple[float, float]:
    if lab.model.declaration.lod is None or lab.model.role("tokens") is None:
        raise NotApplicable(f"{lab.model.name} declares no level of detail in tokens")
    return lab.model.declaration.lod


def _is_share(relevance: Tensor) -> bool:
    """Return whether relevance adds up to the same in every picture, as a softmax does."""
    total = relevance.double().sum(1)
    return bool(total.std(unbiased=False) <= 1e-5 * total.abs().mean())


def _known_ends(lab: Lab, relevance: Tensor) -> bool:
    """Return whether the scale of relevance is declared, or plainly 0..1."""
    seen = bool(relevance.amin() >= 0) and bool(0.5 < relevance.amax() <= 1)
    return lab.model.declaration.relevance_range is not None or (seen and not _is_share(relevance))


def _ends(lab: Lab, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the most relevance to force: declared, 0..1, or well beyond the seen."""
    declared = lab.model.declaration.relevance_range
    bottom, top = relevance.amin(), relevance.amax()
    if declared is not None:
        return torch.full_like(bottom, declared[0]), torch.full_like(top, declared[1])
    if _known_ends(lab, relevance):
        return torch.zeros_like(bottom), torch.ones_like(top)
    reach = 2 * (top - bottom)
    least = (bottom - reach).clamp(min=0) if bool(bottom >= 0) else bottom - reach
    return least, top + reach


def _forced(lab: Lab, kind: str) -> Run:
    """Relevance written so that ends of the budget are met: one patch wins, or half get nothing."""

    def make() -> Run:
        (site,) = lab.need("relevance")
        native = lab.clean[site.name]
        flat = patches_last(native, site, lab.grid)
        top, bottom = flat.amax(), flat.amin()
        least, most = _ends(lab, flat)
        if kind == "winner":
            order = flat.argsort(dim=1, descending=True)
            chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order[:, :3], value=True)
            value = torch.where(chosen, most, least + (flat - least) / 2)
        elif kind == "halves":
            high = flat > flat.median(1, keepdim=True).values
            value = torch.where(high, top, least)
        else:  # ties: few levels, so that many patches are equal
            value = ((flat - bottom) / (top - bottom).clamp(min=1e-12) * 4).round() / 4
            value = bottom + value * (top - bottom)
        if _is_share(flat):  # a softmax: what is written must stay one
            value = value / value.sum(1, keepdim=True) * flat.sum(1, keepdim=True)
        return lab.resumed([Edit(site=site.name, value=value.reshape(native.shape).to(native))])

    return lab.kept(f"forced:{kind}", make)


def _runs(lab: Lab) -> list[Run]:
    runs = [lab.clean, lab.asked(BROAD_QUERY)]
    if all(scene.other_query for scene in lab.scenes):
        runs.append(lab.asked("other"))
    if lab.model.role("relevance") is not None:
        runs += [_forced(lab, kind) for kind in ("winner", "halves", "ties")]
    return runs


def in_range(lab: Lab) -> Contract:
    """No patch below the floor or above the ceiling, on natural and on forced relevance."""
    low, high = _lod(lab)
    broken = torch.zeros(len(lab))
    for result in _runs(lab):
        tokens = result.allocation.tokens
        inside = (tokens >= low - 1e-6) & (tokens <= high + 1e-6)
        broken += (~inside.all(1)).double()
    return Contract(broken=broken, cases=len(lab) * len(_runs(lab)))


def _attains(end: int) -> Measure:
    def measure(lab: Lab) -> Contract:
        value = _lod(lab)[end]
        lab.need("relevance")
        kind = "winner" if end == 1 else "halves"
        tokens = _forced(lab, kind).allocation.tokens
        met = (tokens - value).abs().amin(1) <= 1e-6
        (site,) = lab.need("relevance")
        if not _known_ends(lab, patches_last(lab.clean[site.name], site, lab.grid)):
            # Nobody said where relevance ends, so not reaching the end shows nothing.
            named = {"pictures driven to the end (declare relevance_range)": int(met.all())}
            return Contract(broken=torch.zeros(len(lab)), cases=len(lab), exercise=named)
        return Contract(broken=(~met).double(), cases=len(lab))

    return measure


def whole_tokens(lab: Lab) -> Contract:
    """Every count is a whole number, and on the ladder where one is declared."""
    _lod(lab)
    declared = lab.model.declaration
    if not declared.integer and declared.ladder is None:
        raise NotApplicable("the adapter declares tokens that are not whole, and no ladder")
    broken = torch.zeros(len(lab))
    for result in _runs(lab):
        tokens = result.allocation.tokens
        fine = (tokens - tokens.round()).abs() <= 1e-6
        if declared.ladder is not None:
            rungs = torch.tensor(declared.ladder, dtype=torch.float64)
            fine = (tokens[..., None] - rungs).abs().amin(2) <= 1e-6
        broken += (~fine.all(1)).double()
    return Contract(broken=broken, cases=len(lab) * len(_runs(lab)))


def total_is_kept(lab: Lab) -> Contract:
    """The sum is the declared total (or the same for all), on natural and forced relevance."""
    declared = lab.model.declaration
    if not declared.conserved_total:
        raise NotApplicable("the adapter declares no conserved total")
    runs = _runs(lab)
    wanted = declared.total
    if wanted is None:
        wanted = float(lab.clean.allocation.tokens.sum(1).median())
    broken = torch.zeros(len(lab))
    for result in runs:
        off = (result.allocation.tokens.sum(1) - wanted).abs()
        broken += (~(off <= (1e-6 if declared.integer else 1e-4 * wanted))).double()
    return Contract(broken=broken, cases=len(lab) * len(runs))


def more_relevance_never_fewer(lab: Lab) -> Contract:
    """Within a picture, no patch has fewer tokens than one that is strictly less relevant."""
    lab.need("relevance")
    broken = torch.zeros(len(lab))
    runs = _runs(lab)
    for result in runs:
        relevance, order = result.allocation.relevance.sort(dim=1, stable=True)
        tokens = result.allocation.tokens.gather(1, order)
        below = torch.searchsorted(relevance, relevance, side="left")  # strictly less relevant
        padded = torch.cat([tokens[:, :1], tokens.cummax(1).values], 1)
        best = torch.where(below > 0, padded.gather(1, below), tokens)
        broken += (~((best - tokens).amax(1) <= _slack(lab))).double()
    return Contract(broken=broken, cases=len(lab) * len(runs))


def _slack(lab: Lab) -> float:
    return SLACK if lab.model.declaration.integer else 1e-4


def equal_relevance_equal_tokens(lab: Lab) -> Contract:
    """Patches of equal relevance differ by one token at most, wherever they lie."""
    _lod(lab)  # a mask must cut between equals somewhere
    lab.need("relevance")
    result = _forced(lab, "ties")
    broken = torch.zeros(len(lab))
    declared = lab.model.declaration
    # A budget that is spent in rungs must cut one group of equals somewhere.
    allowed = 1 if declared.ladder is not None and declared.conserved_total else 0
    ties = 0
    for index in range(len(lab)):
        relevance, tokens = result.allocation.relevance[index], result.allocation.tokens[index]
        cuts = 0
        for level in relevance.unique():
            group = tokens[relevance == level]
            ties += int(len(group) > 1)
            cuts += int(not float(group.max() - group.min()) <= _slack(lab) + 1e-9)
        broken[index] = float(cuts > allowed)
    return Contract(broken=broken, cases=len(lab), exercise={"ties": ties})


def _several(lab: Lab) -> None:
    ladder = lab.model.declaration.ladder
    if lab.model.role("tokens") is None or (ladder is not None and len(ladder) < 3):
        raise NotApplicable("the adapter declares fewer than three levels of detail")


def _raised(lab: Lab, dose: float) -> Run:
    return lab.kept(
        f"relevance:{dose}",
        lambda: lab.shifted("relevance", dose * lab.spread("relevance"), lab.target, "local"),
    )


def relevance_causes_tokens(lab: Lab) -> Measured:
    """Raise relevance by one spread on the target; the same elsewhere is the placebo."""
    return pushed(lab, "relevance", 4.0)


def tokens_are_graded(lab: Lab) -> Effects:
    """Number of doses of relevance that are told apart by tokens, beyond one."""
    _several(lab)
    reads = torch.stack([lab.tokens(_raised(lab, dose), lab.target) for dose in DOSES], 1)
    steps = reads[:, 1:] - reads[:, :-1]
    return Effects(values=(steps > 0.25).double().sum(1))


def levels_used(lab: Lab) -> Effects:
    """Effective number of token levels in a picture: exp of the entropy of their histogram."""
    _lod(lab)
    _several(lab)
    tokens = lab.clean.allocation.tokens
    counts = []
    for row in tokens:
        share = row.unique(return_counts=True)[1].double() / len(row)
        counts.append(torch.exp(-(share * share.log()).sum()))
    return Effects(values=torch.stack(counts))


def only_relevance_counts(lab: Lab) -> Distances:
    """Freeze relevance while picture and query change: tokens must stay."""
    (site,) = lab.need("relevance")
    order = [*range(1, len(lab)), 0]
    swapped = lab.run_on([lab.scenes[i].image for i in order], [lab.scenes[i].query for i in order])
    frozen = lab.resumed([freeze(site.name, lab.clean)], base=swapped)
    free = token_change(lab.clean.allocation, swapped.allocation) * lab.token_scale
    return Distances(
        values=token_change(lab.clean.allocation, frozen.allocation) * lab.token_scale,
        exercise={"inputs that move tokens when free": int((free > 2).sum())},
    )


def no_popping(lab: Lab) -> Contract:
    """A hair's breadth of relevance moves no patch by more than a few tokens, or one rung."""
    (site,) = lab.need("relevance")
    low, high = _lod(lab)
    native = lab.clean[site.name]
    generator = torch.Generator().manual_seed(lab.seed)
    jitter = torch.rand(native.shape, generator=generator, dtype=torch.float64) - 0.5
    size = 2e-3 * lab.spread("relevance")
    moved = lab.resumed([Edit(site=site.name, value=(native.double() + size * jitter).to(native))])
    jump = (moved.allocation.tokens - lab.clean.allocation.tokens).abs().amax(1)
    ladder = lab.model.declaration.ladder
    allowed = 0.02 * (high - low)
    if ladder is not None:
        rungs = sorted(ladder)
        allowed = max((b - a for a, b in itertools.pairwise(rungs)), default=0.0)
    return Contract(broken=(~(jump <= allowed + 1e-6)).double(), cases=len(lab))


def multiplier_spends(lab: Lab) -> Effects:
    """Raise the budget multiplier by a tenth: tokens of the target follow.

    A price or a level spends less as it rises: the sign is that of what all pictures spend.
    """
    (site,) = lab.need("multiplier")
    value = lab.clean[site.name]
    more = lab.resumed([Edit(site=site.name, value=value * 1.1)])
    spent = more.allocation.tokens.sum() - lab.clean.allocation.tokens.sum()
    sign = -1.0 if float(spent) < 0 else 1.0
    return Effects(
        values=sign * (lab.tokens(more, lab.target) - lab.tokens(lab.clean, lab.target)),
        spiked=spiked_tokens(lab, 1.0),
    )


def budget_only_moves_budget(lab: Lab) -> Distances:
    """Total minus local effect on untouched patches, against what the multiplier alone does."""
    (site,) = lab.need("multiplier")
    lab.need("relevance")
    edit = lab.shifted("relevance", lab.spread("relevance"), lab.target)
    alone = lab.resumed([Edit(site=site.name, value=edit[site.name])])
    rest = ~lab.target
    off = (edit.allocation.tokens - alone.allocation.tokens).square() * rest
    return Distances(values=(off.sum(1) / rest.sum(1)).sqrt() * lab.token_scale)


def keeps_the_most_relevant(lab: Lab) -> Contract:
    """No patch that was left out is more relevant than one that was kept."""
    lab.need("membership", "relevance")
    broken = torch.zeros(len(lab))
    runs = [lab.clean, lab.asked(BROAD_QUERY)]
    left_out = 0
    for result in runs:
        allocation = result.allocation
        kept = allocation.relevance.masked_fill(~allocation.membership, float("inf")).amin(1)
        lost = allocation.relevance.masked_fill(allocation.membership, float("-inf")).amax(1)
        broken += (~(lost <= kept + 1e-12)).double()
        left_out += int((~allocation.membership).any(1).sum())
    return Contract(
        broken=broken, cases=len(lab) * len(runs),
        exercise={"pictures with patches left out": left_out}
    )  # fmt: skip


CLAIMS = (
    Claim(
        id="attending.tokens-in-range", stage="attending", kind="conserved",
        sentence="every patch gets between the fewest and the most tokens",
        operation="natural relevance, and relevance forced to one winner, to halves and to ties",
        source="every budget lies in the declared range", measure=in_range, gates=RUNTIME,
    ),
    Claim(
        id="attending.ceiling-is-attained", stage="attending", kind="conserved",
        sentence="a patch that outbids all others gets exactly the most tokens",
        operation="write the greatest relevance on three patches and none on the rest",
        source="the ceiling must be attainable, or the range is a fiction",
        measure=_attains(1), gates=RUNTIME,
    ),
    Claim(
        id="attending.floor-is-attained", stage="attending", kind="conserved",
        sentence="a patch without relevance gets exactly the fewest tokens",
        operation="write no relevance on half of the patches",
        source="the floor must be attainable, or the range is a fiction",
        measure=_attains(0), gates=RUNTIME,
    ),
    Claim(
        id="attending.tokens-are-whole", stage="attending", kind="conserved",
        sentence="tokens are whole numbers, on the ladder where one is declared",
        operation="natural and forced relevance", source="only declared levels appear",
        measure=whole_tokens, gates=RUNTIME,
    ),
    Claim(
        id="attending.total-is-conserved", stage="attending", kind="conserved",
        sentence="the tokens of a picture add up to the budget",
        operation="natural and forced relevance, two kinds of query",
        source="the total stays within the budget", measure=total_is_kept, gates=RUNTIME,
    ),
    Claim(
        id="attending.more-relevance-never-fewer-tokens", stage="attending", kind="monotone",
        sentence="a more relevant patch never gets fewer tokens than a less relevant one",
        operation="order patches by relevance; greatest fall in tokens, one token allowed",
        source="more relevance never means fewer tokens", measure=more_relevance_never_fewer,
        gates=RUNTIME,
    ),
    Claim(
        id="attending.equal-relevance-equal-tokens", stage="attending", kind="independent",
        sentence="equally relevant patches get equal tokens, wherever they lie",
        operation="round relevance to five levels; spread of tokens inside each level",
        source="equal regions, equal budget", measure=equal_relevance_equal_tokens, gates=RUNTIME,
    ),
    Claim(
        id="attending.relevance-causes-tokens", stage="attending", kind="causes",
        sentence="relevance of a region causes its tokens",
        operation="one spread more relevance on the target, multiplier held; placebo elsewhere",
        source="relevance -> level of detail", measure=relevance_causes_tokens, margin=4.0,
        unit="tokens per patch", gates=RUNTIME,
    ),
    Claim(
        id="attending.relevance-is-graded-into-tokens", stage="attending", kind="monotone",
        sentence="more relevance buys more tokens at several doses, not at one threshold",
        operation="five doses of relevance on the target; steps that buy at least a quarter token",
        source="budgets are discriminative", measure=tokens_are_graded, margin=1.5,
        unit="steps of four", gates=RUNTIME,
    ),
    Claim(
        id="attending.several-levels-are-used", stage="attending", kind="sensitive_to",
        sentence="a photograph uses several levels of detail",
        operation="effective number of token levels in a photograph",
        source="budgets are discriminative: at least three levels", measure=levels_used, margin=2.0,
        unit="levels", gates=RUNTIME,
    ),
    Claim(
        id="attending.only-relevance-counts", stage="attending", kind="mediates",
        sentence="picture and query reach tokens only through relevance",
        operation="freeze relevance, exchange pictures and queries; change of tokens",
        source="mediation is complete", measure=only_relevance_counts, margin=1.0,
        unit="tokens per patch", gates=RUNTIME,
    ),
    Claim(
        id="attending.no-popping", stage="attending", kind="monotone",
        sentence="a hair's breadth of relevance does not make tokens jump",
        operation="jitter relevance by a thousandth of its spread; greatest jump of a patch",
        source="no popping: small changes, bounded changes", measure=no_popping, gates=RUNTIME,
    ),
    Claim(
        id="attending.multiplier-spends-the-budget", stage="attending", kind="causes",
        sentence="the declared budget multiplier is what spends the budget",
        operation="multiplier up by a tenth; tokens of the target, in the direction of all tokens",
        source="the writable multiplier that splits effects must be the causal one",
        measure=multiplier_spends, margin=1.0, unit="tokens per patch", gates=RUNTIME,
    ),
    Claim(
        id="attending.reallocation-is-the-multiplier", stage="attending", kind="mediates",
        sentence="untouched patches change by the shared multiplier and nothing else",
        operation="relevance up on the target; what the rest loses, against the multiplier alone",
        source="total = local + mediated by the budget", measure=budget_only_moves_budget,
        margin=1.0, unit="tokens per patch", gates=RUNTIME,
    ),
    Claim(
        id="attending.keeps-the-most-relevant", stage="attending", kind="conserved",
        sentence="no patch that is left out is more relevant than one that is kept",
        operation="compare the least kept with the most relevant dropped patch",
        source="top-K really is the K most relevant", measure=keeps_the_most_relevant,
        gates=RUNTIME,
    ),
)  # fmt: skip
