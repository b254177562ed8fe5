"""Claims about the whole: from a picture and a query to tokens, with edits of picture and words."""

import numpy as np
from torch import Tensor

from arrcoc_verify.claim import Claim, Distances, Effects, Measure
from arrcoc_verify.effect import frozen_for
from arrcoc_verify.graph import Edit, Run, ask
from arrcoc_verify.intervention import freeze, patch
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import change
from arrcoc_verify.model import SCORERS
from arrcoc_verify.stats.description import gini
from arrcoc_verify.suite.balancing import BROAD_QUERY
from arrcoc_verify.suite.gates import QUERY, RUNTIME
from arrcoc_verify.suite.place import no_prior
from arrcoc_verify.suite.spike import spiked_tokens

PLACE = ("input.position-prior", "input.blank-image")


def _edit_causes(factor: str) -> Measure:
    """Raise a factor of the target in the picture, the multiplier held where there is one."""

    def measure(lab: Lab) -> Effects:
        scorers = [role for role in SCORERS if lab.model.role(role) is not None]
        if scorers and factor not in scorers:
            raise NotApplicable(f"{lab.model.name} declares scorers, and none for {factor}")
        low, high = lab.edited(factor, 0.0), lab.edited(factor, 1.0)
        held = frozen_for(lab.model, "local")
        if held:
            high = lab.resumed([freeze(name, low) for name in held], base=high)
        return Effects(
            values=lab.tokens(high, lab.target) - lab.tokens(low, lab.target),
            placebos=lab.tokens(high, lab.elsewhere) - lab.tokens(low, lab.elsewhere),
            spiked=spiked_tokens(lab, 4.0),
        )

    return measure


def query_causes_tokens(lab: Lab) -> Effects:
    """Double dissociation in tokens: each object gains when it is the one that is asked for."""
    asked, other = lab.clean, lab.asked("other")
    held = frozen_for(lab.model, "local")
    if held:
        other = lab.resumed([freeze(name, asked) for name in held], base=other)
    gain = lab.tokens(asked, lab.target) - lab.tokens(other, lab.target)
    loss = lab.tokens(other, lab.distractor) - lab.tokens(asked, lab.distractor)
    rest = lab.tokens(asked, lab.elsewhere) - lab.tokens(other, lab.elsewhere)
    return Effects(values=(gain + loss) / 2, placebos=rest, spiked=spiked_tokens(lab, 4.0))


def query_acts_through_coupling(lab: Lab) -> Effects:
    """Patch the coupling map of one query into the run of the other: tokens follow the map."""
    (site,) = lab.need("query_relevance")
    asked, other = lab.clean, lab.asked("other")
    moved = lab.resumed([patch(site.name, asked)], base=other)
    whole = _preference(lab, asked) - _preference(lab, other)
    came = _preference(lab, moved) - _preference(lab, other)
    return Effects(
        values=came / whole.abs().clamp(min=1.0) * whole.sign(),
        exercise={"scenes in which the query moves tokens": int((whole.abs() > 1).sum())},
    )


def _preference(lab: Lab, result: Run) -> Tensor:
    return lab.tokens(result, lab.target) - lab.tokens(result, lab.distractor)


def paraphrase_is_stable(lab: Lab) -> Distances:
    """Change of the allocation under other words for the same thing."""
    return Distances(values=change(lab.clean.allocation, lab.asked("paraphrase").allocation))


def asked_beats_loud(lab: Lab) -> Effects:
    """The asked object, blended in, against a distractor that stands out."""
    quiet = lab.edited_scenes("salience", 0.0)
    louder = Lab(lab.model, quiet, lab.seed, lab.scale)
    result = lab.kept("loud distractor", lambda: louder.edited("salience", 1.0, "distractor"))
    loud = ask(result, [s.other_query or s.query for s in lab.scenes])
    gain = lab.tokens(result, lab.target) - lab.tokens(loud, lab.target)
    taken = lab.tokens(result, lab.distractor) - lab.tokens(lab.clean, lab.distractor)
    return Effects(values=gain - 0.5 * taken.clamp(min=0))


def specific_concentrates(lab: Lab) -> Effects:
    """Gini of tokens for a query that names an object, less that for one that names nothing."""
    plain = lab.asked(BROAD_QUERY).allocation.tokens.numpy()
    asked = lab.clean.allocation.tokens.numpy()
    named = np.array([gini(row) for row in asked]) - np.array([gini(row) for row in plain])
    inside = lab.tokens(lab.clean, lab.target) - lab.tokens(lab.asked(BROAD_QUERY), lab.target)
    return Effects(values=inside, numbers={"gini difference": float(named.mean())})


def mirror_is_equivariant(lab: Lab) -> Distances:
    """The mirror image gets the mirrored relevance."""
    no_prior(lab)
    rows, columns = lab.grid
    before = lab.clean.allocation.relevance.reshape(-1, rows, columns)
    after = lab.flipped().allocation.relevance.reshape(-1, rows, columns).flip(2)
    size = max(float(lab.clean.allocation.relevance.std(1, unbiased=False).median()), 1e-30)
    return Distances(values=(after - before).square().mean((1, 2)).sqrt() / size)


def absent_spreads(lab: Lab) -> Effects:
    """How much less the target gets when an absent object is asked for."""
    return Effects(
        values=lab.tokens(lab.clean, lab.target) - lab.tokens(lab.asked("absent"), lab.target),
        spiked=spiked_tokens(lab, 1.0),
    )


def stages_carry_the_edit(lab: Lab) -> Effects:
    """Share of the query's effect on relevance that is gone when the coupling map is frozen."""
    held = [s for s in (lab.model.role("tensions"), lab.model.role("weights")) if s is not None]
    (site,) = lab.need("query_relevance")
    other = lab.asked("other")
    frozen = lab.resumed(
        [freeze(site.name, lab.clean), *(freeze(s.name, lab.clean) for s in held[:1])], base=other
    )
    whole = _preference(lab, other) - _preference(lab, lab.clean)
    left = _preference(lab, frozen) - _preference(lab, lab.clean)
    return Effects(
        values=1 - left.abs() / whole.abs().clamp(min=1.0),
        exercise={"scenes in which the query moves tokens": int((whole.abs() > 1).sum())},
    )


def place_does_not_matter(lab: Lab) -> Distances:
    """Move the picture by whole cells: relevance of the moved target against before."""
    no_prior(lab)
    rows, columns = lab.grid
    down, across = max(rows // 4, 1), max(columns // 4, 1)
    moved = lab.rolled(down, across)
    region = lab.target.reshape(-1, rows, columns).roll((down, across), (1, 2)).flatten(1)
    before = lab.over(lab.clean, "relevance", lab.target)
    after = lab.over(moved, "relevance", region)
    return Distances(values=(after - before).abs())


def score_edit_reaches_tokens(lab: Lab) -> Effects:
    """Write the greatest query relevance on a region that nobody asked for."""
    (site,) = lab.need("query_relevance")
    top = float(lab.map(lab.clean, "query_relevance").amax())
    native = lab.clean[site.name]
    edit = Edit(site=site.name, value=native.clone().fill_(top), where=lab.distractor)
    after = lab.resumed([edit], "local")
    return Effects(
        values=lab.tokens(after, lab.distractor) - lab.tokens(lab.clean, lab.distractor),
        spiked=spiked_tokens(lab, 4.0),
    )


CLAIMS = (
    Claim(
        id="whole.entropy-causes-tokens", stage="knowing", kind="causes",
        sentence="more entropy in a region of the picture causes more tokens there",
        operation="luminance entropy of the target from 1 to 4 bits, multiplier held; placebo: "
        "elsewhere",
        source="information features change the allocation", measure=_edit_causes("information"),
        margin=4.0, unit="tokens per patch", gates=RUNTIME + PLACE,
    ),
    Claim(
        id="whole.contrast-causes-tokens", stage="knowing", kind="causes",
        sentence="more contrast of a region to its surround causes more tokens there",
        operation="mean luminance of the target from its surround's to 40 grey levels away, "
        "multiplier held; placebo: elsewhere",
        source="salience features guide attending", measure=_edit_causes("salience"),
        margin=4.0, unit="tokens per patch", gates=RUNTIME + PLACE,
    ),
    Claim(
        id="whole.query-causes-tokens", stage="query", kind="causes",
        sentence="asking for an object causes more tokens on it, whichever it is",
        operation="ask for the target, then for the distractor, multiplier held; double "
        "dissociation; "
        "placebo: elsewhere",
        source="tokens move to what is asked", measure=query_causes_tokens, margin=4.0,
        unit="tokens per patch", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.asked-beats-absent", stage="query", kind="causes",
        sentence="an object gets more tokens when it is asked for than when something absent is",
        operation="ask for an object that is not in the picture",
        source="nothing relevant, nothing spent on it", measure=absent_spreads, margin=1.0,
        unit="tokens per patch", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.tokens-follow-the-patched-coupling", stage="balancing", kind="sufficient",
        sentence="the coupling map of one query, patched into another's run, brings its allocation",
        operation="patch query relevance; share of the preference between the objects that follows",
        source="swapping coupling activations between queries moves the allocation",
        measure=query_acts_through_coupling, margin=0.5, unit="share of the effect",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.coupling-is-needed", stage="query", kind="mediates",
        sentence="a query prefers one object to another through the coupling map alone",
        operation="freeze coupling and tensions, ask for the other object; share of the effect "
        "gone",
        source="removing query-conditional features removes the query effect",
        measure=stages_carry_the_edit, margin=0.9, unit="share of the effect",
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.coupling-lifts-what-nobody-asked-for", stage="balancing", kind="sufficient",
        sentence="query relevance written on an object that was not asked for brings it tokens",
        operation="write the greatest query relevance on the distractor, multiplier held",
        source="coupling is steerable", measure=score_edit_reaches_tokens, margin=4.0,
        unit="tokens per patch", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.paraphrase-is-stable", stage="query", kind="no_effect",
        sentence="other words for the same thing leave the allocation nearly as it was",
        operation="paraphrase the query; half the L1 distance of the token shares",
        source="paraphrases are stable", measure=paraphrase_is_stable, margin=0.02,
        unit="share of tokens", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.asking-beats-loudness", stage="balancing", kind="causes",
        sentence="asking for a quiet object moves more tokens to it than a loud neighbour takes",
        operation="target blended in, distractor standing out; gain by asking against half of what "
        "loudness brought the distractor",
        source="a loud distractor must not win against what is asked", measure=asked_beats_loud,
        margin=1.0, unit="tokens per patch", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.naming-concentrates-tokens", stage="balancing", kind="sensitive_to",
        sentence="naming an object gives it more tokens than asking for everything",
        operation=f"the scene's query against {BROAD_QUERY!r}",
        source="specific queries concentrate", measure=specific_concentrates, margin=1.0,
        unit="tokens per patch", gates=RUNTIME + QUERY,
    ),
    Claim(
        id="whole.mirror-image-mirrors-relevance", stage="knowing", kind="independent",
        sentence="the mirror image gets the mirrored relevance",
        operation="mirror the picture left to right; root mean square difference",
        source="flips find exchanged axes, which transposition cannot",
        measure=mirror_is_equivariant,
        margin=0.4, unit="spreads of relevance", gates=RUNTIME,
    ),
    Claim(
        id="whole.place-does-not-matter", stage="knowing", kind="independent",
        sentence="an object that is moved with its surroundings keeps its relevance",
        operation="move the picture by whole cells; change of the target's mean relevance",
        source="no spatial prior is declared", measure=place_does_not_matter, margin=1.0,
        unit="spreads of relevance", gates=RUNTIME,
    ),
)  # fmt: skip
