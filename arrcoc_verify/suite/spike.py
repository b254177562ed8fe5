"""Spiked positive controls: an effect of a known size, written into the model under test.

What a claim would read if the effect were there. A reading that does not find it means that the
check, not the model, is blind.
"""

import torch
from torch import Tensor

from arrcoc_verify.claim import Effects
from arrcoc_verify.graph import Edit
from arrcoc_verify.lab import FULL_RANGE, Lab


def spiked_map(lab: Lab, role: str, size: float = 0.2) -> Tensor:
    """Return the reading when a score map is `size` spreads higher on the target, `[scene]`."""
    result = lab.shifted(role, size * lab.spread(role), lab.target)
    return lab.over(result, role, lab.target) - lab.over(lab.clean, role, lab.target)


def spiked_tokens(lab: Lab, size: float) -> Tensor:
    """Return the reading when the target has `size` more tokens a patch, `[scene]`."""
    site = lab.model.role("tokens")
    if site is None:
        return torch.full((len(lab),), size, dtype=torch.float64)  # a mask has no small changes
    native = size / lab.token_scale
    edit = Edit(site=site.name, write=lambda old: old.double() + native, where=lab.target)
    return lab.tokens(lab.resumed([edit]), lab.target) - lab.tokens(lab.clean, lab.target)


def pushed(lab: Lab, role: str, margin: float) -> Effects:
    """Return what one spread more of a map on the target does to its tokens, multiplier held.

    Targets that hold nearly all they can get are pushed down instead, so that there is room to
    answer. The placebo is the same push at an equal region elsewhere.
    """
    size = lab.spread(role)
    before = lab.tokens(lab.clean, lab.target)
    ceiling = FULL_RANGE if lab.model.declaration.lod is None else lab.model.declaration.lod[1]
    ceiling = ceiling * (1.0 if lab.model.role("tokens") is None else lab.token_scale)
    down = before > ceiling - max(margin, 1.0)
    moved = {}
    for name, region in (("target", lab.target), ("elsewhere", lab.elsewhere)):
        up = lab.tokens(lab.shifted(role, size, region, "local"), lab.target) - before
        if bool(down.any()):
            low = lab.tokens(lab.shifted(role, -size, region, "local"), lab.target)
            up = torch.where(down, before - low, up)
        moved[name] = up
    return Effects(
        values=moved["target"], placebos=moved["elsewhere"], spiked=spiked_tokens(lab, margin)
    )


def spiked_vector(lab: Lab, role: str, names: tuple[str, ...], name: str, size: float) -> Tensor:
    """Return the reading when one weight or tension is `size` higher, `[scene]`."""
    result = lab.shifted(role, size, None)
    channel = names.index(name)
    return (lab.vector(result, role, names) - lab.vector(lab.clean, role, names))[:, channel]
