"""Claims on features: latents of a model's own dictionaries cause tokens.

Latents are chosen on the selection scenes, as those that answer most to their factor's contrast
pair, and asserted on others. Ablating them on the target, the budget multiplier held, must take
tokens from it; the placebo writes as much, patch by patch, in directions drawn at random. It says
that these directions matter, not that the dictionary's other latents do not: where all readouts
weigh alike, as many others take as many tokens, and they cause them too.
These claims are made where dictionaries are given; an audit without any does not have them.
"""

import fnmatch
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from arrcoc_verify.claim import Claim, Effects, Measure
from arrcoc_verify.dictionary.pages import LEVEL as PAGE_LEVEL
from arrcoc_verify.dictionary.pages import Answer, codes_of, crop, feature_pages, heaviest
from arrcoc_verify.dictionary.splice import Splice
from arrcoc_verify.dictionary.storage import Kept
from arrcoc_verify.graph import Edit
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import mean_over
from arrcoc_verify.report import event
from arrcoc_verify.report.writer import RecordWriter
from arrcoc_verify.suite import CLAIMS, select
from arrcoc_verify.suite.gates import RUNTIME
from arrcoc_verify.suite.spike import spiked_tokens
from arrcoc_verify.verdict import Estimate

FACTORS = {
    "information": "information_features", "salience": "salience_features",
    "query": "query_relevance_features",
}  # fmt: skip
"""Factor -> role of the site whose dictionary is asked."""
CHOSEN = 16
"""Latents that a claim is about."""
MARGIN = 4.0
"""Tokens a patch, of 64..400."""
DRAWS = 8
"""Random directions of the placebo; what each moves, either way, is averaged."""
SHOWN = 8
"""Latents of each dictionary that an audit's page shows."""
PICTURES = 4
"""Patches of each."""


def feature_claims(selected: Lab, dictionaries: Sequence[Kept]) -> list[Claim]:
    """Return the claims that dictionaries allow; latents are chosen when the first is measured.

    Args:
        selected: scenes that nothing is asserted on.
        dictionaries: of the model's sites, one a site.
    """
    claims = []
    for factor, kept in _asked(selected, dictionaries).items():
        chosen = functools.cache(functools.partial(choose, selected, kept, factor))
        claims.append(Claim(
            id=f"knowing.{factor}-latents-cause-tokens",
            sentence=f"what the dictionary of {kept.site} finds to answer to {factor} causes the "
                     "target's tokens",
            stage="knowing", kind="causes",
            operation=f"ablate {CHOSEN} latents on the target, multiplier held, "
                      f"against as much in each of {DRAWS} random directions",
            source="latents chosen on the selection scenes", measure=_measure(kept, chosen),
            margin=MARGIN, unit="tokens per patch", gates=RUNTIME,
        ))  # fmt: skip
    return claims


def _asked(lab: Lab, dictionaries: Sequence[Kept]) -> dict[str, Kept]:
    """Return factor -> dictionary of its site, for factors that have one."""
    found = {}
    for factor, role in FACTORS.items():
        site = lab.model.role(role)
        kept = next((one for one in dictionaries if site and one.site == site.name), None)
        if kept is not None:
            found[factor] = kept
    return found


def with_features(patterns: Sequence[str], features: Sequence[Claim]) -> list[Claim]:
    """Return the built-in claims and those on features whose ids match any of the patterns.

    Raises:
        UnknownName: a pattern matches nothing.
    """
    own = [one for one in features if any(fnmatch.fnmatchcase(one.id, p) for p in patterns)]
    known = [one.id for one in CLAIMS]
    others = [
        p for p in patterns
        if fnmatch.filter(known, p) or not any(fnmatch.fnmatchcase(one.id, p) for one in own)
    ]  # fmt: skip
    return [*select(others), *own]


def feature_events(
    selected: Lab, lab: Lab, dictionaries: Sequence[Kept], writer: RecordWriter
) -> list[event.Features]:
    """Return what a record says of dictionaries; pictures of patches are kept in it.

    Latents are those that claims rest on and those that carry most, by the selection scenes; what
    they are is measured on others.

    Args:
        selected: scenes that choose.
        lab: scenes that latents are measured on.
        dictionaries: of the model's sites, one a site.
        writer: of the record.

    Raises:
        NotApplicable: too few independent photographs.
    """
    asked = {one.site: factor for factor, one in _asked(selected, dictionaries).items()}
    made = []
    for kept in dictionaries:
        factor = asked.get(kept.site, "")
        first = choose(selected, kept, factor)[: SHOWN // 2] if factor else ()
        most = heaviest(codes_of(selected.clean, kept), SHOWN + len(first))
        latents = [*first, *(one for one in most if one not in first)][:SHOWN]
        rows = []
        for page in feature_pages(lab, kept, top=PICTURES, latents=latents):
            top = tuple(
                event.TopPatch(
                    scene=one["scene"], query=one["query"], patch=one["patch"], code=one["code"],
                    image=writer.put_image(crop(lab, one["index"], one["patch"])),
                )
                for one in page.top
            )  # fmt: skip
            rows.append(event.FeatureRow(
                latent=page.latent, chosen=factor if page.latent in first else "",
                density=page.density, way=page.way, top=top,
                looks_like=page.name.texts if page.name else (),
                tokens=None if page.tokens is None else _estimate(lab, page.tokens, "tokens"),
                answers={name: _estimate(lab, one, "own strength")
                         for name, one in page.answers.items()},
            ))  # fmt: skip
        made.append(event.Features(site=kept.site, rows=tuple(rows)))
    return made


def _estimate(lab: Lab, one: Answer, unit: str) -> Estimate:
    return Estimate(
        value=one.value, low=one.low, high=one.high, level=PAGE_LEVEL,
        n=len(set(lab.clusters())), unit=unit, method="over independent clusters",
    )  # fmt: skip


def choose(lab: Lab, kept: Kept, factor: str) -> tuple[int, ...]:
    """Return the latents that answer most to a factor, strongest first; none where none does."""
    if factor == "query":
        high, low = lab.clean, lab.asked("other")
    else:
        high, low = lab.edited(factor, 1.0), lab.edited(factor, 0.0)
    answer = _over_target(lab, codes_of(high, kept)) - _over_target(lab, codes_of(low, kept))
    mean = answer.mean(0)
    return tuple(mean.topk(min(CHOSEN, int((mean > 0).sum()))).indices.tolist())


def _over_target(lab: Lab, codes: Tensor) -> Tensor:
    each = [mean_over(codes[..., latent], lab.target) for latent in range(codes.shape[-1])]
    return torch.stack(each, 1)


def _measure(kept: Kept, choice: Callable[[], tuple[int, ...]]) -> Measure:
    def measure(lab: Lab) -> Effects:
        chosen = choice()
        if not chosen:
            raise NotApplicable(f"no latent of the dictionary of {kept.site} answers")
        splice = Splice(
            lab.clean, kept.site, kept.dictionary, query_site=kept.about.get("query_site")
        )
        before = lab.tokens(lab.clean, lab.target)

        def lost(edit: Edit) -> Tensor:
            return before - lab.tokens(lab.resumed([edit], "local"), lab.target)

        gone = splice.contribution(chosen)
        pushed = [
            lost(splice.push(gone, direction, where=lab.target)).abs()
            for direction in _directions(kept.dictionary.config.d_in, lab.seed)
        ]  # fmt: skip
        return Effects(
            values=lost(splice.ablate(chosen, where=lab.target)),
            placebos=torch.stack(pushed).mean(0), spiked=spiked_tokens(lab, MARGIN),
            numbers={"latents": len(chosen)},
        )  # fmt: skip

    return measure


def _directions(channels: int, seed: int) -> Tensor:
    """Return unit vectors drawn evenly over the sphere, `[draw, channel]`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(DRAWS, channels, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn)
