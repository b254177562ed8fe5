"""Features: what is read from a site as a coefficient a patch, and written back by moving it.

A channel, a direction and a latent are features alike. Writing a coefficient moves the
activation by what the feature writes and by nothing else, so what a dictionary does not explain
stays in place: an un-edited feature changes no bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.graph import Edit
from arrcoc_verify.model import Model, Site, along_channel

Read = Callable[[Tensor], Tensor]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A coefficient at a site that can be read and written.

    Attributes:
        site: name of the site.
        read: activation as the site holds it -> coefficient `[image, ...]`, without channels.
        direction: what one unit of the coefficient adds, `[channel]`.
        channel: axis of the channels in the activation.
        label: how reports call it.
    """

    site: str
    read: Read
    direction: Tensor
    channel: int
    label: str

    def write(self, change: Change, where: Tensor | None = None, label: str = "") -> Edit:
        """Return the edit that replaces the coefficient by `change` of it.

        Args:
            change: new coefficients from old ones, same shape.
            where: `[image, patch]` or `[patch]` mask; None writes everywhere.
            label: how reports call the edit.
        """

        def write(value: Tensor) -> Tensor:
            old = self.read(value)
            new = change(old)
            if new.shape != old.shape:
                raise ShapeMismatch(
                    f"{self.label}: the change returned {tuple(new.shape)}, wanted the shape of "
                    f"what it was given, {tuple(old.shape)}"
                )
            moved = (new - old).unsqueeze(self.channel)
            shape = [1] * value.ndim
            shape[self.channel] = len(self.direction)
            step = moved.to(value.dtype) * self.direction.to(value).reshape(shape)
            # Where nothing changes, no bit changes: adding -0.0 or rounding must not show.
            return torch.where(moved == 0, value, value + step)

        return Edit(site=self.site, write=write, where=where, label=label or self.label)

    def ablate(self, where: Tensor | None = None) -> Edit:
        """Set the coefficient to 0."""
        return self.write(torch.zeros_like, where, f"ablate {self.label}")

    def clamp(self, level: float, where: Tensor | None = None) -> Edit:
        """Set the coefficient to a level."""
        return self.write(
            lambda old: torch.full_like(old, level), where, f"set {self.label} to {level:g}"
        )

    def steer(self, amount: float, where: Tensor | None = None) -> Edit:
        """Add to the coefficient."""
        return self.write(lambda old: old + amount, where, f"steer {self.label} by {amount:+g}")


def channel_feature(model: Model, site: str, channel: str) -> Feature:
    """Return a named channel of a site as a feature.

    Raises:
        UsageError: the site has no such channel.
    """
    declared = model.site(site)
    axis = _channel_axis(declared)
    if channel not in declared.channels:
        raise UsageError(f"site {site!r} has the channels {declared.channels}, not {channel!r}")
    at = declared.channels.index(channel)
    return Feature(
        site=site, read=lambda value: value.select(axis, at), channel=axis,
        direction=torch.eye(len(declared.channels))[at], label=f"{site}[{channel}]",
    )  # fmt: skip


def direction_feature(model: Model, site: str, direction: Tensor, label: str = "") -> Feature:
    """Return a direction as a feature; its coefficient is the projection on it.

    Args:
        model: model under test.
        site: name of a site with channels.
        direction: `[channel]`, of any length but 0; made a unit vector.
        label: how reports call it.
    """
    declared = model.site(site)
    size = float(direction.norm())
    if not size > 0 or direction.ndim != 1:
        raise UsageError(f"a direction is a vector that is not 0, got {tuple(direction.shape)}")
    unit = direction / size
    axis = _channel_axis(declared)

    def read(value: Tensor) -> Tensor:
        return (value * along_channel(unit.to(value), declared)).sum(axis)

    return Feature(
        site=site, read=read, direction=unit, channel=axis, label=label or f"direction at {site}"
    )


def _channel_axis(site: Site) -> int:
    if "channel" not in site.axes:
        raise UsageError(f"site {site.name!r} has axes {site.axes}: no channels to take one from")
    return site.axes.index("channel")
