"""Claims about knowing: each scorer measures what it is named for, and nothing else."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.claim import Claim, Contract, Distances, Effects, Measure
from arrcoc_verify.graph import Edit, Run, ask
from arrcoc_verify.intervention import patch
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.model import SCORERS
from arrcoc_verify.scenes.colour import fade
from arrcoc_verify.scenes.edits import pixels_of
from arrcoc_verify.suite.gates import QUERY, RUNTIME
from arrcoc_verify.suite.place import no_prior
from arrcoc_verify.suite.spike import pushed, spiked_map, spiked_tokens

SPREADS = "spreads of the score over patches"
DOSES = (0.0, 0.34, 0.67, 1.0)
PREAMBLE = "please answer this very carefully and take all the time you need:"
GREY_STEP = 32
"""Grey levels by which the surround is moved away from an unchanged target."""


def _rise(factor: str, role: str) -> Measure:
    def measure(lab: Lab) -> Effects:
        low, high = lab.edited(factor, 0.0), lab.edited(factor, 1.0)
        inside, outside = lab.target, lab.elsewhere
        return Effects(
            values=lab.over(high, role, inside) - lab.over(low, role, inside),
            placebos=lab.over(high, role, outside) - lab.over(low, role, outside),
            spiked=spiked_map(lab, role, 0.3),
        )

    return measure


def _graded(factor: str, role: str) -> Measure:
    """Share of dose pairs in order, ties at half, and doses that are told apart."""

    def measure(lab: Lab) -> Effects:
        reads = torch.stack([lab.over(lab.edited(factor, d), role, lab.target) for d in DOSES], 1)
        pairs = [(i, j) for i in range(len(DOSES)) for j in range(i + 1, len(DOSES))]
        steps = torch.stack([reads[:, j] - reads[:, i] for i, j in pairs], 1)
        ordered = (steps > 1e-9).double() + 0.5 * (steps.abs() <= 1e-9).double()
        return Effects(values=ordered.mean(1))

    return measure


def _ignores(kind: str, role: str) -> Measure:
    def measure(lab: Lab) -> Distances:
        spiked = lab.shifted(role, _margin_of(role) * lab.spread(role), None)
        return Distances(values=lab.moved(lab.asked(kind), role), spiked=lab.moved(spiked, role))

    return measure


def _margin_of(role: str) -> float:
    return 0.05 if role != "query_relevance" else 0.25


def _spared(factor: str, role: str) -> Measure:
    """How far an edit of one factor moves another factor's score in the region."""

    def measure(lab: Lab) -> Distances:
        low, high = lab.edited(factor, 0.0), lab.edited(factor, 1.0)
        off = lab.over(high, role, lab.target) - lab.over(low, role, lab.target)
        return Distances(values=off.abs(), spiked=spiked_map(lab, role, 0.5))

    return measure


def information_is_local(lab: Lab) -> Distances:
    """Compare the score of moved pictures with the moved score."""
    no_prior(lab)
    rows, columns = lab.grid
    down, across = max(rows // 3, 1), max(columns // 3, 1)
    before = lab.map(lab.clean, "information").reshape(-1, rows, columns)
    after = lab.map(lab.rolled(down, across), "information").reshape(-1, rows, columns)
    off = after - before.roll((down, across), (1, 2))
    keep = torch.ones(rows, columns, dtype=torch.bool)
    edge = max(1, min(rows, columns) // 8)  # near the seam, context may legitimately differ
    for seam_row in (0, down):
        keep[[(seam_row + i) % rows for i in range(-edge, edge)], :] = False
    for seam_column in (0, across):
        keep[:, [(seam_column + i) % columns for i in range(-edge, edge)]] = False
    if not keep.any():
        raise NotApplicable("the grid is too small to move pictures by whole cells")
    size = max(lab.spread("information"), 1e-12)
    values = off[:, keep].square().mean(1).sqrt() / size
    spiked = lab.moved(
        lab.shifted("information", 0.1 * lab.spread("information"), None), "information"
    )
    return Distances(values=values, spiked=spiked)


def _surrounded(lab: Lab, sign: int) -> Run:
    """Every cell but the target's moved in luminance; the target's pixels are the same."""

    def make() -> Run:
        images = []
        for index, scene in enumerate(lab.edited_scenes("salience", 0.0)):
            inside = pixels_of(lab.target[index].numpy(), lab.grid, scene.image.size)
            moved = scene.pixels.astype(np.int64) + sign * GREY_STEP * ~inside[..., None]
            images.append(Image.fromarray(moved.clip(0, 255).astype(np.uint8)))
        return lab.run_on(images)

    return lab.kept(f"surround:{sign}", make)


def salience_is_relational(lab: Lab) -> Effects:
    """Keep the target's pixels and move everything else away from it."""
    blended = lab.edited("salience", 0.0)
    apart = torch.stack(
        [lab.over(_surrounded(lab, sign), "salience", lab.target) for sign in (-1, 1)]
    ).mean(0)
    return Effects(
        values=apart - lab.over(blended, "salience", lab.target),
        spiked=spiked_map(lab, "salience"),
    )


def salience_has_no_polarity(lab: Lab) -> Effects:
    """The weaker of the two answers: surround darker, surround brighter."""
    blended = lab.over(lab.edited("salience", 0.0), "salience", lab.target)
    both = [lab.over(_surrounded(lab, sign), "salience", lab.target) - blended for sign in (-1, 1)]
    return Effects(values=torch.minimum(*both), spiked=spiked_map(lab, "salience"))


def salience_sees_colour(lab: Lab) -> Effects:
    """Take the target's colour away and leave its luminance: it should stand out less."""

    def make() -> Run:
        images = []
        for index, scene in enumerate(lab.scenes):
            inside = pixels_of(lab.target[index].numpy(), lab.grid, scene.image.size)
            grey = fade(scene.pixels, 0.0)
            images.append(Image.fromarray(np.where(inside[..., None], grey, scene.pixels)))
        return lab.run_on(images)

    grey = lab.kept("grey target", make)
    return Effects(
        values=lab.over(lab.clean, "salience", lab.target) - lab.over(grey, "salience", lab.target),
        spiked=spiked_map(lab, "salience", 0.1),
    )


def query_survives_preamble(lab: Lab) -> Distances:
    """Put a dozen words that ask for nothing before the query."""
    queries = [f"{PREAMBLE} {scene.query}" for scene in lab.scenes]
    result = lab.kept("preamble", lambda: ask(lab.clean, queries, read=lab.inner_sites))
    spiked = lab.shifted("query_relevance", 0.25 * lab.spread("query_relevance"), None)
    return Distances(
        values=lab.moved(result, "query_relevance"), spiked=lab.moved(spiked, "query_relevance")
    )


def query_finds_target(lab: Lab) -> Effects:
    """Double dissociation: each object scores higher when it is the one that is asked for."""
    asked, other = lab.clean, lab.asked("other")
    score = "query_relevance"
    target = lab.over(asked, score, lab.target) - lab.over(other, score, lab.target)
    rival = lab.over(other, score, lab.distractor) - lab.over(asked, score, lab.distractor)
    outside = lab.over(asked, score, lab.elsewhere) - lab.over(other, score, lab.elsewhere)
    return Effects(values=(target + rival) / 2, placebos=outside, spiked=spiked_map(lab, score))


def query_beats_absent(lab: Lab) -> Effects:
    """The target's score when it is asked for, less when an absent object is."""
    role = "query_relevance"
    return Effects(
        values=lab.over(lab.clean, role, lab.target)
        - lab.over(lab.asked("absent"), role, lab.target),
        spiked=spiked_map(lab, role),
    )


def query_needs_content(lab: Lab) -> Effects:
    """The asked object against the rest of the same picture."""
    rest = ~(lab.target | lab.distractor)
    role = "query_relevance"
    return Effects(
        values=lab.over(lab.clean, role, lab.target) - lab.over(lab.clean, role, rest),
        spiked=spiked_map(lab, role),
    )


def _causes_tokens(role: str) -> Measure:
    """Raise a score by one spread on the target; an equal rise elsewhere is the placebo."""
    return lambda lab: pushed(lab, role, 2.0)


def _necessary(role: str) -> Measure:
    """Bring the target's score down to the picture's mean: tokens go, if they came from it."""

    def measure(lab: Lab) -> Effects:
        (site,) = lab.need(role)
        scores = lab.map(lab.clean, role)
        high = lab.target & (scores > scores.mean(1, keepdim=True))
        counts = high.sum(1)
        if int((counts > 0).sum()) < len(lab):
            high = torch.where(counts[:, None] > 0, high, lab.target)
        level = scores.amin(1)
        write = _lowered(lab, role, level)
        before = lab.tokens(lab.clean, lab.target)
        after = lab.resumed([Edit(site=site.name, value=write, where=high)], "local")
        return Effects(
            values=before - lab.tokens(after, lab.target),
            spiked=spiked_tokens(lab, 1.0),
            exercise={"raised patches": int(counts.sum())},
        )

    return measure


def _lowered(lab: Lab, role: str, level: Tensor) -> Tensor:
    (site,) = lab.need(role)
    native = lab.clean[site.name]
    shape = (len(lab),) + (1,) * (native.ndim - 1)
    return level.reshape(shape).to(native.dtype).expand(native.shape).clone()


def _features_carry(role: str, factor: str) -> Measure:
    """Denoising: feature vectors of the high run, patched into the low run, bring its score."""

    def measure(lab: Lab) -> Effects:
        (site,) = lab.need(f"{role}_features")
        if factor == "query":
            low, high = lab.asked("other"), lab.clean
        else:
            low, high = lab.edited(factor, 0.0), lab.edited(factor, 1.0)
        before = lab.over(low, role, lab.target)
        whole = lab.over(high, role, lab.target) - before
        patched = lab.resumed([patch(site.name, high, where=lab.target)], base=low)
        gained = lab.over(patched, role, lab.target) - before
        size = whole.abs().clamp(min=0.1)
        return Effects(
            values=gained / size * whole.sign(),
            exercise={"pairs that differ": int((whole.abs() > 0.1).sum())},
        )

    return measure


def in_range(lab: Lab) -> Contract:
    """No score map is flat, and none saturates on every photograph."""
    broken = torch.zeros(len(lab))
    names = [role for role in SCORERS if lab.model.role(role) is not None]
    if not names:
        raise NotApplicable(f"{lab.model.name} declares no score maps")
    for role in names:
        values = lab.map(lab.clean, role)
        top = values.amax(1, keepdim=True)
        pinned = (values == top).double().mean(1)
        broken += (pinned > 0.5).double()
    return Contract(broken=broken, cases=len(lab) * len(names))


def _scorer_claims() -> list[Claim]:
    said = {
        "information": "information",
        "salience": "salience",
        "query_relevance": "query relevance",
    }
    short = {"information": "information", "salience": "salience", "query_relevance": "query"}
    factor = {"information": "information", "salience": "salience", "query_relevance": "query"}
    claims = []
    for role in SCORERS:
        gates = RUNTIME + (QUERY if role == "query_relevance" else ())
        claims += [
            Claim(
                id=f"knowing.{short[role]}-causes-tokens", stage="balancing", kind="causes",
                sentence=f"{said[role]} of a region causes its tokens",
                operation=f"add one spread to the {said[role]} score of the target, budget "
                f"multiplier "
                "held; placebo: the same elsewhere",
                source="seed question: do information, salience and query features cause the "
                "allocation",
                measure=_causes_tokens(role), margin=2.0, unit="tokens per patch", gates=gates,
            ),
            Claim(
                id=f"knowing.{short[role]}-is-necessary", stage="balancing", kind="necessary",
                sentence=f"without its {said[role]} a region loses tokens",
                operation=f"set the target's {said[role]} to the least in its picture, "
                f"multiplier held",
                source="per-way ablation has its own signature",
                measure=_necessary(role), margin=1.0, unit="tokens per patch", gates=gates,
            ),
            Claim(
                id=f"knowing.{short[role]}-features-carry-the-score", stage="knowing",
                kind="sufficient",
                sentence=f"the {said[role]} score is read from its feature vectors",
                operation="patch the target's feature vectors of the high run into the low run; "
                "share of the score's rise that comes with them",
                source="denoising tests sufficiency (arXiv 2404.15255)",
                measure=_features_carry(role, factor[role]), margin=0.5, unit="share of the rise",
                gates=gates,
            ),
        ]  # fmt: skip
    return claims


CLAIMS = (
    Claim(
        id="knowing.information-follows-entropy", stage="knowing", kind="sensitive_to",
        sentence="more entropy in a region raises its information score",
        operation="luminance entropy of the target from 1 to 4 bits at equal mean, variance and "
        "edges",
        source="more unpredictable content scores higher",
        measure=_rise("information", "information"), margin=0.3, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.information-is-graded", stage="knowing", kind="monotone",
        sentence="information rises with every step of entropy",
        operation="four doses of entropy; share of dose pairs in order, ties at half",
        source="dose-response within pictures",
        measure=_graded("information", "information"), margin=0.75, unit="share of dose pairs",
        gates=RUNTIME,
    ),
    Claim(
        id="knowing.information-ignores-query", stage="knowing", kind="no_effect",
        sentence="the information score does not depend on the query",
        operation="ask for the other object; root mean square change of the map",
        source="propositional knowing is objective",
        measure=_ignores("other", "information"), margin=0.05, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.information-is-about-the-patch", stage="knowing", kind="no_effect",
        sentence="the information score depends on what is there, not on where it lies",
        operation="move the picture by whole cells; change of the moved map away from the seams",
        source="the score is about the patch, not where it lies",
        measure=information_is_local, margin=0.1, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-follows-contrast", stage="knowing", kind="sensitive_to",
        sentence="more contrast to the surround raises a region's salience score",
        operation="mean luminance of the target from its surround's to 40 grey levels away",
        source="salience follows local contrast",
        measure=_rise("salience", "salience"), margin=0.3, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-is-graded", stage="knowing", kind="monotone",
        sentence="salience rises with every step of contrast",
        operation="four doses of contrast; share of dose pairs in order, ties at half",
        source="dose-response within pictures",
        measure=_graded("salience", "salience"), margin=0.75, unit="share of dose pairs",
        gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-is-relational", stage="knowing", kind="sensitive_to",
        sentence="a region whose pixels stay the same stands out when its surround moves away",
        operation="shift every cell but the target's by 32 grey levels, both ways",
        source="salience is relational pop-out",
        measure=salience_is_relational, margin=0.2, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-has-no-polarity", stage="knowing", kind="sensitive_to",
        sentence="a region stands out both from a darker and from a brighter surround",
        operation="the weaker of the answers to a darker and to a brighter surround",
        source="polarity does not matter",
        measure=salience_has_no_polarity, margin=0.05, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-sees-colour", stage="knowing", kind="sensitive_to",
        sentence="a coloured region stands out more than the same region in grey",
        operation="take the target's chroma away, luminance kept; fall of its salience",
        source="colour contrast without luminance contrast is salient",
        measure=salience_sees_colour, margin=0.1, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.salience-ignores-query", stage="knowing", kind="no_effect",
        sentence="the salience score does not depend on the query",
        operation="ask for the other object; root mean square change of the map",
        source="salience is query-free in this profile",
        measure=_ignores("other", "salience"), margin=0.05, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.query-finds-the-asked", stage="knowing", kind="sensitive_to",
        sentence="query relevance is higher on the object that is asked for, whichever it is",
        operation="ask for the target, then for the distractor; double dissociation",
        source="relevance is a relation of patch and query",
        measure=query_finds_target, margin=0.2, unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-needs-content", stage="knowing", kind="sensitive_to",
        sentence="the asked object scores above the rest of its picture",
        operation="query relevance of the target against all cells without objects",
        source="the query alone makes nothing relevant",
        measure=query_needs_content, margin=0.2, unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-beats-absent", stage="knowing", kind="sensitive_to",
        sentence="a region scores higher when it is asked for than when something absent is",
        operation="ask for an object that is not in the picture",
        source="the patch alone is not enough",
        measure=query_beats_absent, margin=0.2, unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-survives-paraphrase", stage="knowing", kind="no_effect",
        sentence="other words for the same thing leave query relevance nearly as it was",
        operation="paraphrase the query; root mean square change of the map",
        source="paraphrases are stable",
        measure=_ignores("paraphrase", "query_relevance"), margin=0.25, unit=SPREADS,
        gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.query-survives-preamble", stage="query", kind="no_effect",
        sentence="words before the question leave query relevance nearly as it was",
        operation=f"put {PREAMBLE!r} before the query; root mean square change of the map",
        source="padding and chat templates do not matter",
        measure=query_survives_preamble, margin=0.25, unit=SPREADS, gates=RUNTIME + QUERY,
    ),
    Claim(
        id="knowing.entropy-spares-salience", stage="knowing", kind="independent",
        sentence="entropy at equal contrast leaves the salience score nearly as it was",
        operation="entropy of the target up; change of its salience",
        source="the three scorers are independent",
        measure=_spared("information", "salience"), margin=0.5, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.contrast-spares-information", stage="knowing", kind="independent",
        sentence="contrast at equal entropy leaves the information score nearly as it was",
        operation="contrast of the target up; change of its information",
        source="the three scorers are independent",
        measure=_spared("salience", "information"), margin=0.5, unit=SPREADS, gates=RUNTIME,
    ),
    Claim(
        id="knowing.entropy-spares-query-relevance", stage="knowing", kind="independent",
        sentence="entropy leaves the query relevance of a region nearly as it was",
        operation="entropy of the target up; change of its query relevance",
        source="the three scorers are independent",
        measure=_spared("information", "query_relevance"), margin=0.5, unit=SPREADS,
        gates=RUNTIME,
    ),
    Claim(
        id="knowing.contrast-spares-query-relevance", stage="knowing", kind="independent",
        sentence="contrast leaves the query relevance of a region nearly as it was",
        operation="contrast of the target up; change of its query relevance",
        source="the three scorers are independent",
        measure=_spared("salience", "query_relevance"), margin=0.5, unit=SPREADS,
        gates=RUNTIME,
    ),
    Claim(
        id="knowing.scores-are-not-flat", stage="knowing", kind="conserved",
        sentence="no score map is one value over most of a picture",
        operation="share of patches at the map's greatest value, each scorer, each photograph",
        source="a dead scorer looks vivid when it is rescaled",
        measure=in_range, gates=RUNTIME,
    ),
    *_scorer_claims(),
)  # fmt: skip
