"""Claims in a user's own words: what causes, ignores, carries or needs what, and by how much.

Each function returns a `Claim` like those of the built-in suite; it is measured and decided by the
same code. Source of the kinds of claim: DESIGN of the built-in suite, `suite/`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from arrcoc_verify.claim import Claim, Distances, Effects, Measured
from arrcoc_verify.errors import BadConfig, UnknownName
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.lab import Lab
from arrcoc_verify.model import ROLES, SCORERS
from arrcoc_verify.suite.gates import QUERY, RUNTIME
from arrcoc_verify.suite.spike import spiked_tokens

REGIONS = ("target", "distractor")
"""Regions of a scene that a claim can be about."""

FACTORS = ("information", "salience", "query")
"""What can be changed in a picture and its query."""

OTHERS = ("other", "paraphrase", "absent", "nonsense")
"""Other queries that a scene has; `query` means `other`."""

By = Literal["activation", "picture"]
SOURCE = "said by the user"


def causes(factor: str, *, region: str = "target", at_least: float, by: By = "activation") -> Claim:
    """Return the claim that a factor of a region causes its tokens, at least so many.

    Args:
        factor: `information`, `salience`, `query_relevance` or another site's role that holds one
            number a patch; with `by="picture"` information, salience or query.
        region: `target` or `distractor` of the scenes.
        at_least: tokens per patch that must be gained.
        by: `activation` raises the map by one spread on the region, multiplier held, against the
            same rise elsewhere; `picture` edits the pixels (or asks for the region, or for the
            other object), against an equal region elsewhere.
    """
    _known("region", region, REGIONS)
    if by == "picture":
        return _picture_causes(factor, region, at_least)
    if by != "activation":
        raise UnknownName("way to intervene", by, ("activation", "picture"))
    _known("role", factor, ROLES)

    def measure(lab: Lab) -> Effects:
        size = lab.spread(factor)
        inside = getattr(lab, region)
        before = lab.tokens(lab.clean, inside)
        there = lab.shifted(factor, size, inside, "local")
        placebo = lab.shifted(factor, size, lab.elsewhere, "local")
        return Effects(
            values=lab.tokens(there, inside) - before,
            placebos=lab.tokens(placebo, inside) - before,
            spiked=_spike(lab, inside, at_least),
        )

    return _claim(
        f"causes-{factor}-{region}", _taken_up(factor), "causes", measure, at_least,
        sentence=f"{_words(factor)} of the {region} causes its tokens, "
        f"at least {at_least:g} a patch",
        operation="one spread more of it on the region, multiplier held; placebo elsewhere",
    )  # fmt: skip


def _picture_causes(factor: str, region: str, at_least: float) -> Claim:
    _known("factor", factor, FACTORS)

    def measure(lab: Lab) -> Effects:
        inside = getattr(lab, region)
        low, high = _both(lab, factor, region)
        return Effects(
            values=lab.tokens(high, inside) - lab.tokens(low, inside),
            placebos=lab.tokens(high, lab.elsewhere) - lab.tokens(low, lab.elsewhere),
            spiked=_spike(lab, inside, at_least),
        )

    asked = factor == "query"
    operation = "ask for it, then for the other object" if asked else "edit its pixels, low to high"
    said = "asking for" if asked else f"{factor} in the pixels of"
    return _claim(
        f"causes-{factor}-{region}-picture", "query" if asked else "knowing", "causes", measure,
        at_least,
        sentence=f"{said} the {region} causes its tokens, at least {at_least:g} a patch",
        operation=f"{operation}; placebo: an equal region elsewhere",
    )  # fmt: skip


def ignores(role: str, factor: str, *, within: float) -> Claim:
    """Return the claim that a map does not answer a factor, within a margin.

    Args:
        role: a site's role that holds one number a patch, such as `information` or `relevance`.
        factor: `query` (the other object is asked for), `paraphrase`, `absent`, `nonsense`, or
            `information` or `salience` of the target's pixels.
        within: largest root mean square change, in spreads of the map.
    """
    _known("role", role, ROLES)
    _known("factor", factor, (*FACTORS, *OTHERS))
    edited = factor in ("information", "salience")

    def measure(lab: Lab) -> Distances:
        if edited:
            low, high = _both(lab, factor, "target")
            values = (lab.over(high, role, lab.target) - lab.over(low, role, lab.target)).abs()
        else:
            values = lab.moved(lab.asked("other" if factor == "query" else factor), role)
        spiked = lab.shifted(role, within * lab.spread(role), None)
        return Distances(values=values, spiked=lab.moved(spiked, role))

    return _claim(
        f"{role}-ignores-{factor}", _stage(role), "no_effect", measure, within,
        sentence=f"{_words(role)} ignores {_words(factor)}, within {within:g} of its spread",
        operation=f"change {_words(factor)}; root mean square change of the map",
        unit="spreads of the map",
    )  # fmt: skip


def mediates(role: str, *, factor: str = "query", at_least: float = 0.9) -> Claim:
    """Return the claim that a factor reaches the target's tokens through one site.

    Args:
        role: role of the site that is frozen.
        factor: `query`, or `information` or `salience` of the target's pixels.
        at_least: share of the factor's effect that must be gone when the site is frozen, 0..1.
    """
    _known("role", role, ROLES)
    _known("factor", factor, FACTORS)

    def measure(lab: Lab) -> Effects:
        (site,) = lab.need(role)
        low, high = _both(lab, factor, "target")
        frozen = lab.resumed([freeze(site.name, low)], base=high)
        before = lab.tokens(low, lab.target)
        whole = lab.tokens(high, lab.target) - before
        left = lab.tokens(frozen, lab.target) - before
        return Effects(
            values=1 - left.abs() / whole.abs().clamp(min=1.0),
            exercise={f"scenes in which {factor} moves tokens": int((whole.abs() > 1).sum())},
        )

    return _claim(
        f"{role}-mediates-{factor}", _stage(role), "mediates", measure, at_least,
        sentence=f"{_words(factor)} reaches the target's tokens through {_words(role)}, "
        f"at least {at_least:.0%} of its effect",
        operation=f"change {_words(factor)} with {_words(role)} frozen; share of the effect gone",
        unit="share of the effect",
    )  # fmt: skip


def necessary(role: str, *, region: str = "target", at_least: float) -> Claim:
    """Return the claim that a region loses tokens when a map is brought down on it.

    Args:
        role: a site's role that holds one number a patch.
        region: `target` or `distractor` of the scenes.
        at_least: tokens per patch that must be lost.
    """
    _known("role", role, ROLES)
    _known("region", region, REGIONS)

    def measure(lab: Lab) -> Effects:
        (site,) = lab.need(role)
        inside = getattr(lab, region)
        lowest = _filled(lab, role, lab.map(lab.clean, role).amin(1))
        after = lab.resumed([Edit(site=site.name, value=lowest, where=inside)], "local")
        return Effects(
            values=lab.tokens(lab.clean, inside) - lab.tokens(after, inside),
            spiked=_spike(lab, inside, at_least),
        )

    return _claim(
        f"necessary-{role}-{region}", _taken_up(role), "necessary", measure, at_least,
        sentence=f"without its {_words(role)} the {region} loses at least {at_least:g} tokens "
        "a patch",
        operation="write the picture's lowest value on the region, multiplier held",
    )  # fmt: skip


def _claim(  # noqa: PLR0913 - the fields of a claim
    words: str,
    stage: str,
    kind: str,
    measure: Callable[[Lab], Measured],
    margin: float,
    *,
    sentence: str,
    operation: str,
    unit: str = "tokens per patch",
) -> Claim:
    if not margin >= 0:
        raise BadConfig(f"wanted a margin of 0 or more in {unit}, got {margin!r}")
    return Claim(
        id=f"own.{words.replace('_', '-')}", stage=stage, kind=kind, sentence=sentence,
        operation=operation, source=SOURCE, measure=measure, margin=float(margin), unit=unit,
        gates=RUNTIME + (QUERY if "query" in words else ()),
    )  # fmt: skip


def renamed(claim: Claim, name: str) -> Claim:
    """Return the claim under another id, so that two of one kind can stand in one run."""
    return dataclasses.replace(claim, id=name)


def _known(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownName(kind, name, known)


def _stage(role: str) -> str:
    if role in SCORERS or role.endswith("_features"):
        return "knowing"
    return "attending" if role in ("demand", "multiplier", "lod", "tokens") else "balancing"


def _taken_up(role: str) -> str:
    """Return the stage that must make tokens of a map: where the fault lies if it does not."""
    return "attending" if role in ("relevance", "demand", "multiplier", "lod") else "balancing"


def _words(name: str) -> str:
    return "the query" if name == "query" else name.replace("_", " ")


def _both(lab: Lab, factor: str, region: str) -> tuple[Run, Run]:
    """Return the runs with little and with much of a factor in a region."""
    if factor == "query":
        two = lab.asked("other"), lab.clean
        return two if region == "target" else (two[1], two[0])
    return lab.edited(factor, 0.0, region), lab.edited(factor, 1.0, region)


def _spike(lab: Lab, inside: Tensor, size: float) -> Tensor | None:
    """Return what is read when the region has `size` more tokens; None where that is not there."""
    if size == 0:
        return None
    if inside is lab.target:
        return spiked_tokens(lab, size)
    (site,) = lab.need("tokens")
    edit = Edit(site=site.name, write=lambda old: old + size, where=inside)
    return lab.tokens(lab.resumed([edit]), inside) - lab.tokens(lab.clean, inside)


def _filled(lab: Lab, role: str, level: Tensor) -> Tensor:
    (site,) = lab.need(role)
    native = lab.clean[site.name]
    shape = (len(lab),) + (1,) * (native.ndim - 1)
    return torch.broadcast_to(level.reshape(shape).to(native.dtype), native.shape).clone()
