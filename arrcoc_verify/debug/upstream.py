"""What lies before the scorers: how the picture is read, what the query means, what is encoded.

Wordings that mean the same, and operations that undo a mistake in reading, are whole experiments:
nothing is written into the model. Transplants tell an encoder from a scorer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.experiment import Evidence, judged
from arrcoc_verify.debug.pictures import ESTIMATOR, OPERATIONS, estimators, operated
from arrcoc_verify.graph import Edit, Run, ask, resume
from arrcoc_verify.intervention import freeze
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Site
from arrcoc_verify.scenes import queries as wordings
from arrcoc_verify.stats.interval import mean_interval
from arrcoc_verify.stats.sample import MIN_UNITS, average_clusters

_ASKING = frozenset({
    "a", "an", "and", "any", "are", "at", "can", "carefully", "closely", "could", "describe",
    "detail", "do", "does", "find", "for", "going", "how", "i", "image", "in", "is", "it",
    "kindly", "like", "locate", "look", "me", "of", "on", "photo", "picture", "please", "see",
    "show", "take", "tell", "that", "the", "there", "this", "time", "to", "what", "where",
    "which", "with", "you", "your", "answer", "now", "then", "spot", "point", "out",
})  # fmt: skip
"""Words that only say how something is asked for."""

MOST_TRANSPLANTS = 6


def wordings_of(query: str, label: str = "") -> list[str]:
    """Return other wordings of a query: its content words alone, and in each template."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", query)
    content = " ".join(word for word in words if word.lower() not in _ASKING)
    asked = list(dict.fromkeys(text for text in (content, label) if text))
    made = [text for one in asked for text in (one, *(t.format(one) for t in wordings.TEMPLATES))]
    known = wordings.SYNONYMS
    made += [content.replace(word, known[word]) for word in known if word in content.lower()]
    return [text for text in dict.fromkeys(made) if text != query]


@dataclass(kw_only=True)
class Upstream:
    """What was found before the scorers.

    Attributes:
        code: `preprocessing`, `query_mismatch`, `encoder_blind` or "" for nothing.
        detail: in plain words.
        evidence: every experiment.
        undecided: what could not be told apart, and what would tell.
    """

    code: str = ""
    detail: str = ""
    evidence: list[Evidence] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


def of_pictures(bench: Bench, goal: Goal) -> Upstream:
    """Try each operation that undoes a mistake in reading pictures, on case and donors.

    An operation is named when it brings the case's tokens back, and for those that move content
    about, when the scorers' maps also follow the picture better with it.
    """
    found = Upstream()
    image, query, donors = bench.case.image, bench.case.query, bench.donors
    names = list(OPERATIONS)
    made = bench.run_on([operated([image], name)[0] for name in names], [query] * len(names))
    tokens = bench.tokens(made)
    fit = _follows(bench, bench.clean, [image])[0]
    fits = _follows(bench, made, [image] * len(names))
    best: tuple[float, str] | None = None
    for at, name in enumerate(names):
        effect = float(tokens[at]) - bench.before
        met = bool(goal.met(tokens[at : at + 1])[0])
        over = _on_donors(bench, name) if met and donors.scenes else None
        everywhere = over is not None and over[0] > 0
        lives = name not in _CHANGING or fits[at] > fit
        sure = everywhere or name not in _ENHANCING or not donors.scenes
        restores = "yes" if met and lives and sure else "no"
        if met and not everywhere and over is not None and over[1] < 0 and not _alone(bench, goal):
            restores = "no"  # it harms all others, so the model reads pictures as they are
        why = ""
        if met and restores == "no":
            why = ", but others do not gain by it" if lives else ", but maps follow it less"
        found.evidence.append(
            Evidence(
                experiment=f"the picture {name}{why}", code="preprocessing", effect=effect,
                interval=(effect, effect), tokens=float(tokens[at]), restores=restores,
                basis="picture", part=f"picture:{name}", replication=over,
            )
        )  # fmt: skip
        if restores == "yes" and (best is None or effect * goal.sign > best[0]):
            best = (effect * goal.sign, name)
    if best is not None:
        found.code, found.detail = "preprocessing", f"it is mended by the picture {best[1]}"
    return found


_ENHANCING = frozenset({"polarity inverted", "range stretched"})
"""Operations that may help a sound model as well: they count when they help it everywhere."""

_CHANGING = _ENHANCING | {
    "turned upside down", "mirrored", "turned by half a circle", "rows and columns exchanged",
}  # fmt: skip
"""Operations that move content or contrast: scorers must follow the picture better with them."""


def _alone(bench: Bench, goal: Goal) -> bool:
    """Return whether donors get what they should, so that only this case may be read wrongly."""
    return float(bench.right(goal).mean()) >= 0.5


def _on_donors(bench: Bench, name: str) -> tuple[float, float] | None:
    donors = bench.donors
    images = operated([scene.image for scene in donors.scenes], name)
    after = bench.run_on(images, [scene.query for scene in donors.scenes])
    change = (mean_over(after.allocation.tokens, donors.cells) - donors.tokens).numpy()
    means = average_clusters(change, donors.clusters)
    if len(means) < MIN_UNITS:
        return None
    ends = mean_interval(means, 0.9, bench.seed, method="t")
    return ends.low, ends.high


def _follows(bench: Bench, run: Run, shown: Sequence[Image.Image]) -> NDArray[np.float64]:
    """Return how well information and salience follow the picture as shown, mean correlation."""
    total, count = np.zeros(len(run)), 0
    seen = np.stack([estimators(image, bench.grid) for image in shown])
    for role, column in ESTIMATOR.items():
        found = bench.map(run, role)
        if found is None:
            continue
        values = found.numpy()
        for at in range(len(run)):
            one, two = values[at], seen[at, :, column]
            if np.ptp(one) > 0 and np.ptp(two) > 0:
                total[at] += np.corrcoef(one, two)[0, 1]
        count += 1
    return total / max(count, 1)


def of_queries(bench: Bench, goal: Goal, other: str = "") -> Upstream:
    """Ask the same in other words: does query relevance then find it?

    It does when the gain stays with the balancer held, or goes with query relevance held: a
    balancer may well spend on query relevance only what a query that is found deserves.

    Args:
        bench: the case.
        goal: what the region should get.
        other: another query to compare with, from the user.
    """
    found = Upstream()
    if bench.model.declaration.query_path == "none":
        return found
    texts = wordings_of(bench.case.query, bench.case.label)
    texts += [other] if other and other not in texts else []
    if texts:
        free, balancer, scorer = _asked(bench, texts)
        gain = _gain(free, bench, goal)
        through = goal.met(balancer) | (_gain(balancer, bench, goal) >= 0.5 * gain)
        if scorer is not None:
            through |= _gain(scorer, bench, goal) < 0.5 * gain
        ok = (goal.met(free) & through).numpy()
        change = (free - bench.before).numpy()
        ends = (float(change.min()), float(change.max()))
        best = int((free * goal.sign).argmax())
        found.evidence.append(
            Evidence(
                experiment=f"the best of {len(texts)} other wordings, {texts[best]!r} "
                f"({int(ok.sum())} mend it)", code="query_mismatch", effect=float(change[best]),
                interval=ends, tokens=float(free[best]), restores="yes" if ok.any() else "no",
                basis="query", part="query", n=len(texts),
            )
        )  # fmt: skip
        if other:
            at = texts.index(other)
            found.evidence.append(
                Evidence(
                    experiment=f"asked {other!r} in its place", code="query_mismatch",
                    effect=float(change[at]), interval=(float(change[at]),) * 2,
                    tokens=float(free[at]), restores="yes" if ok[at] else "no", basis="query",
                    part="query against",
                )
            )  # fmt: skip
        if ok.any():
            good = texts[int(np.flatnonzero(ok)[0])]
            found.code, found.detail = "query_mismatch", f"asked as {good!r} the region gets them"
            return found
    _severed(bench, found)
    return found


def _gain(tokens: Tensor, bench: Bench, goal: Goal) -> Tensor:
    return ((tokens - bench.before) * goal.sign).clamp(min=0)


def _asked(bench: Bench, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the region's tokens under other queries: free, balancer held, query relevance held.

    The last is None where no map of query relevance can be held.
    """
    from arrcoc_verify.debug.bench import repeated

    base = repeated(bench.clean, len(texts))
    free = ask(base, list(texts), read=bench.inner)

    def held(*roles: str) -> Tensor | None:
        sites = [bench.writable(role) for role in roles]
        holds = [freeze(site.name, base) for site in sites if site is not None]
        return bench.tokens(resume(free, edits=holds, read=bench.inner)) if holds else None

    tokens, balancer = bench.tokens(free), held("weights", "tensions")
    return tokens, tokens if balancer is None else balancer, held("query_relevance")


NOTHING = "blorvex quimdra"
"""Words without a meaning."""


def _severed(bench: Bench, found: Upstream) -> None:
    """Look whether any query arrives at all, and whether this one says more than nonsense."""
    from arrcoc_verify.debug.bench import repeated

    query = bench.case.query
    texts = [s.query for s in bench.donors.scenes[:6]] or list(wordings.UNSPECIFIC)
    texts = [text for text in dict.fromkeys(texts) if text != query]
    base = repeated(bench.clean, len(texts) + 2)
    asked = ask(base, [query, NOTHING, *texts], read=bench.inner)
    site = bench.model.role("query")
    if site is not None:
        values = [asked[site.name].double().flatten(1)] if asked[site.name].ndim > 1 else []
        what = f"what is at {site.name}"
    else:
        maps = [bench.map(asked, role) for role in ("query_relevance", "relevance", "tokens")]
        values, what = [one for one in maps if one is not None], "every map"
    if not values:
        return
    differs = torch.stack([(one - one[:1]).abs().amax(1) for one in values]).amax(0) > 0
    moved = bench.tokens(asked) - bench.before
    arrived, meant = bool(differs[2:].any()), bool(differs[1])
    for said, same, rows in (
        (f"{len(texts)} queries for other things", not arrived, slice(2, None)),
        ("words that mean nothing", not meant, slice(1, 2)),
    ):
        found.evidence.append(
            Evidence(
                experiment=f"asked {said}: {what} "
                + ("stays the same to the last bit" if same else "changes"),
                code="query_mismatch", effect=float(moved[rows].mean()),
                interval=(float(moved[rows].min()), float(moved[rows].max())),
                tokens=float(bench.before + moved[rows].mean()), restores="no", basis="query",
                part="query severed" if same else "query arrives", n=len(moved[rows]),
            )
        )  # fmt: skip
    if not arrived:
        found.code = "query_mismatch"
        found.detail = "no query reaches the model: all mean the same to it"
    elif not meant:
        found.code = "query_mismatch"
        found.detail = "the query means no more to the model than words without a meaning"


def of_encoder(bench: Bench, goal: Goal) -> Upstream:
    """Transplant donors' objects, asked for by the donors' queries: as pixels, then as features.

    If every donor's features bring more than its pixels, and on average at least half of what is
    missing (donors' objects differ in what they get), the encoder loses what is there. It does not
    where the pixels of half of the donors reach the goal through it.
    """
    found = Upstream()
    sites = [s for s in bench.model.sites.values() if s.stage == "encoder" and s.writable]
    right = np.flatnonzero(bench.right(goal))[:MOST_TRANSPLANTS]
    if not sites or len(right) < 2:
        if not sites:
            found.undecided.append(
                "encoder or scorer: the model has no encoder site to transplant into"
            )
        return found
    donors = [bench.donors.scenes[i] for i in right]
    pasted = [_pasted(bench, scene) for scene in donors]
    asked = [scene.query for scene in donors]
    whole = bench.tokens(bench.run_on(pasted, asked))
    seen = float(goal.met(whole).double().mean()) >= 0.5
    found.evidence.append(
        _transplant("pixels", "", whole, bench, goal, restores=judged(goal, whole))
    )
    for site in sites[-1:] if seen else sites:  # where they do, its last word is enough to say so
        tokens = _features(bench, site, pasted, asked)
        if tokens is None:
            continue
        more = (tokens - whole) * goal.sign
        half = goal.sign * (goal.tokens - bench.before) / 2
        lost = not seen and bool((more > 0).all()) and float(more.mean()) >= half
        restores = "yes" if lost else "no"
        found.evidence.append(
            _transplant("features", site.name, tokens, bench, goal, restores=restores)
        )
        if lost:
            found.code = "encoder_blind"
            found.detail = f"donors' features at {site.name} bring tokens, donors' pixels do not"
            return found
    return found


def _transplant(
    what: str, site: str, tokens: Tensor, bench: Bench, goal: Goal, *, restores: str
) -> Evidence:
    change = (tokens - bench.before).numpy()
    met = int(goal.met(tokens).sum())
    return Evidence(
        experiment=f"donors' objects in the region as {what}{f' at {site}' if site else ''} "
        f"({met} of {len(tokens)} reach the goal)",
        # As pixels they go through the encoder as well: a control, which speaks for no cause.
        code="encoder_blind" if what == "features" else "", effect=float(change.mean()),
        interval=(float(change.min()), float(change.max())), tokens=float(tokens.mean()),
        restores=restores, basis="transplant", part=f"{what} {site}".strip(),
        n=len(tokens),
    )  # fmt: skip


def _pasted(bench: Bench, scene: object) -> Image.Image:
    """Return the case's picture with a donor's object, from its own box, in the region's box."""
    image = bench.case.image.copy()
    x, y, wide, high = bench.case.box
    left, top, across, down = scene.target.box  # type: ignore[attr-defined]
    cut = scene.image.crop((left, top, left + across, top + down))  # type: ignore[attr-defined]
    image.paste(cut.resize((wide, high), Image.Resampling.LANCZOS), (x, y))
    return image


def _features(
    bench: Bench, site: Site, pasted: Sequence[Image.Image], asked: Sequence[str]
) -> Tensor | None:
    """Return the region's tokens with each donor's object seen at another place, written back.

    The pasted pictures are turned upside down and encoded; the region's features are taken from
    where the object then lies, and written where it should have been seen.
    """
    from arrcoc_verify.graph import run

    turned = [one.transpose(Image.Transpose.ROTATE_180) for one in pasted]
    read = [*bench.inner, site.name]
    base = run(bench.model, list(pasted), list(asked), read=read)
    there = run(bench.model, turned, list(asked), read=read)[site.name]
    flips = [i for i, axis in enumerate(site.axes) if axis in ("row", "column", "height", "width")]
    if site.axes.count("patch"):
        flips = [site.axes.index("patch")]
    if not flips:
        return None
    value = torch.flip(there, flips)
    if site.per_patch:
        edit = Edit(site=site.name, value=value, where=bench.case.cells)
    elif {"height", "width"} <= set(site.axes):
        edit = Edit(site=site.name, value=_inside(bench, site, base[site.name], value))
    else:
        return None
    return bench.tokens(resume(base, edits=[edit], read=bench.inner))


def _inside(bench: Bench, site: Site, old: Tensor, new: Tensor) -> Tensor:
    """Return `old` with `new` inside the region's pixels."""
    rows, columns = bench.grid
    plane = bench.case.cells.reshape(rows, columns)
    high, wide = (old.shape[site.axes.index(axis)] for axis in ("height", "width"))
    mask = plane[torch.arange(high) * rows // high][:, torch.arange(wide) * columns // wide]
    shape = [1] * old.ndim
    shape[site.axes.index("height")], shape[site.axes.index("width")] = high, wide
    ordered = mask if site.axes.index("height") < site.axes.index("width") else mask.T
    return torch.where(ordered.reshape(shape), new, old)
