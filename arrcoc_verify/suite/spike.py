"""Spiked positive controls: an effect of a known size, written into the model under test.

What a claim would read if the effect were there. A reading that does not find it means that the
check, not the model, is blind.
"""

import torch
from torch import Tensor

from arrcoc_verify.graph import Edit
from arrcoc_verify.lab import Lab


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


def spiked_vector(lab: Lab, role: str, names: tuple[str, ...], name: str, size: float) -> Tensor:
    """Return the reading when one weight or tension is `size` higher, `[scene]`."""
    result = lab.shifted(role, size, None)
    channel = names.index(name)
    return (lab.vector(result, role, names) - lab.vector(lab.clean, role, names))[:, channel]
