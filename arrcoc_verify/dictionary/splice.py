"""A dictionary inside a model: its latents as features, its error as what stays in place.

An activation is `decoded + error`, the error being whatever the dictionary leaves. Latents are
written by the difference of decoded values, so an un-edited splice is the model, bit for bit, and
ablating all latents and the error together leaves the decoder's bias.

A latent is a `Feature`. That of a conditional dictionary belongs to the examples of the run that it
was spliced into: it is read and written with the query that each of them was asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Dictionary
from arrcoc_verify.edit import Write
from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.feature import Change, Feature
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.model import Model


def read_query(run: Run, dictionary: Dictionary, site: str | None) -> Tensor | None:
    """Return the query that a conditional dictionary reads from a run, `[image, query]`.

    Args:
        run: finished.
        dictionary: None is returned for an unconditional one.
        site: that holds the query; None for the one whose role it is.

    Raises:
        UsageError: there is none.
    """
    if not dictionary.config.query:
        return None
    holding = (one.name for one in run.model.sites.values() if one.role == "query")
    named = site or next(holding, None)
    if named is None:
        raise UsageError("a conditional dictionary wants the site that holds the query")
    return run[named].float().flatten(1)


class Splice:
    """A dictionary at a site of a model, for the examples of one run.

    A conditional dictionary reads the query from the run, so edits made here belong to runs on the
    same examples in the same order.

    Attributes:
        model: model under test.
        site: name of the site.
        dictionary: encodes the site's vectors.
        codes: of the run, `[image, patch..., latent]`.
        reconstruction: what the codes stand for, `[image, patch..., channel]`, float64.
        error: what the dictionary leaves, `[image, patch..., channel]`, float64.
    """

    def __init__(
        self, run: Run, site: str, dictionary: Dictionary, *, query_site: str | None = None
    ) -> None:
        """Encode the site's activations in a finished run.

        Raises:
            ShapeMismatch: the dictionary has other channels than the site.
            UsageError: a conditional dictionary and no site with the query; a transcoder.
        """
        self.model, self.site, self.dictionary = run.model, site, dictionary
        declared = run.model.site(site)
        if "channel" not in declared.axes or dictionary.config.transcoder:
            raise UsageError(
                f"{site!r} is spliced by an autoencoder of its channels, got {dictionary.config} "
                f"for axes {declared.axes}"
            )
        self._axis = declared.axes.index("channel")
        self._query = read_query(run, dictionary, query_site)
        self._base = run[site]
        value = self._last(self._base)
        if value.shape[-1] != dictionary.config.d_in:
            raise ShapeMismatch(
                f"site {site!r} has {value.shape[-1]} channels, the dictionary encodes "
                f"{dictionary.config.d_in}: was it trained for another site?"
            )
        with torch.no_grad():
            self.codes = self._encode(value)
            self.reconstruction = self._decode(self.codes).double()
            self.error = value.double() - self.reconstruction

    def _last(self, value: Tensor) -> Tensor:
        return value.movedim(self._axis, -1)

    def _encode(self, value: Tensor) -> Tensor:
        return self.dictionary.encode(value.float(), self._query)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.dictionary.decode(codes, query=self._query)

    def contribution(self, latents: Sequence[int]) -> Tensor:
        """Return what some latents add to the activation, `[image, patch..., channel]`."""
        kept = torch.zeros_like(self.codes)
        kept[..., list(latents)] = self.codes[..., list(latents)]
        with torch.no_grad():
            return self._decode(kept).double() - self._decode(torch.zeros_like(kept)).double()

    def ablate(self, latents: Sequence[int], *, where: Tensor | None = None) -> Edit:
        """Set latents to 0, as the run had them; everything else, the error too, stays."""
        gone = self.contribution(latents)
        return self._moved(-gone, where, f"ablate {len(latents)} latents of {self.site}")

    def push(self, gone: Tensor, direction: Tensor, *, where: Tensor | None = None) -> Edit:
        """Write as much as an ablation does, patch by patch, in another direction: a placebo.

        Args:
            gone: what is ablated, as `contribution` returns it.
            direction: of unit norm, `[channel]`.
            where: mask of patches; None writes everywhere.
        """
        size = gone.norm(dim=-1, keepdim=True)
        return self._moved(size * direction.to(size), where, f"push {self.site} as hard")

    def ablate_error(self, *, where: Tensor | None = None) -> Edit:
        """Take the error away and keep all latents."""
        return self._moved(-self.error, where, f"ablate the error of {self.site}")

    def reconstructed(self, *, where: Tensor | None = None) -> Edit:
        """Put the reconstruction in the activation's place."""
        with torch.no_grad():
            decoded = self._decode(self.codes).double()
        return Edit(
            site=self.site, value=decoded.movedim(-1, self._axis), where=where,
            label=f"reconstruct {self.site}",
        )  # fmt: skip

    def edited(self, codes: Tensor, *, where: Tensor | None = None, label: str = "") -> Edit:
        """Put other codes in the run's place and keep the error.

        Args:
            codes: as `codes`.
            where: mask of patches; None writes everywhere.
            label: how reports call it.
        """
        if codes.shape != self.codes.shape:
            raise ShapeMismatch(
                f"codes of {self.site} have shape {tuple(self.codes.shape)}, "
                f"got {tuple(codes.shape)}"
            )
        with torch.no_grad():
            moved = self._decode(codes).double() - self._decode(self.codes).double()
        return self._moved(moved, where, label or f"edit latents of {self.site}")

    def _moved(self, moved: Tensor, where: Tensor | None, label: str) -> Edit:
        # An edit is cut into batches by its value, so the difference travels as the value does.
        step, base = moved.movedim(-1, self._axis), self._base
        new = torch.where(step == 0, base, (base.double() + step).to(base.dtype))
        return Edit(site=self.site, value=new, where=where, label=label)

    def feature(self, latent: int) -> Feature:
        """Return one latent as a feature; a conditional one for this run's examples only.

        Raises:
            UsageError: there is no such latent.
        """
        if self._query is None:
            return latent_feature(self.model, self.site, self.dictionary, latent)
        _check_latent(self.dictionary, latent)
        each = [self._asked(latent, query) for query in self._query.split(1)]
        return _Asked(
            site=self.site, read=lambda value: _read_each(each, value), channel=self._axis,
            direction=self.dictionary.W_dec.detach()[latent], label=each[0].label,
            each=tuple(each),
        )  # fmt: skip

    def _asked(self, latent: int, query: Tensor) -> Feature:
        """Return a conditional latent under one query, `[1, query]`."""
        dictionary, axis = self.dictionary, self._axis

        def read(value: Tensor) -> Tensor:
            with torch.no_grad():
                codes = dictionary.encode(value.movedim(axis, -1).float(), query)
            return codes[..., latent]

        direction = dictionary.W_dec.detach()[latent]
        if dictionary.config.turns:
            turn = dictionary.turned(query, 2).detach()[0]
            direction = direction + turn @ dictionary.dec_turn.detach()[:, latent]
        return Feature(
            site=self.site, read=read, direction=direction, channel=axis,
            label=f"{self.site} latent {latent}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Asked(Feature):
    """A conditional latent in the examples of one run; `direction` is that of a turn of 0.

    Attributes:
        each: the latent under the query of each example.
    """

    each: tuple[Feature, ...]

    def write(self, change: Change, where: Tensor | None = None, label: str = "") -> Edit:
        """Return the edit that replaces the coefficient by `change` of it, an example at a time."""
        writes = [one.write(change).write for one in self.each]

        def of(rows: slice) -> Write:
            return lambda value: _written_each([w for w in writes[rows] if w is not None], value)

        return _EachExample(
            site=self.site, write=of(slice(None)), where=where, label=label or self.label,
            of=of, count=len(writes),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _EachExample(Edit):
    """An edit that writes to each example of a run as its place in the run says.

    Attributes:
        of: what writes to a slice of the examples.
        count: examples of the run.
    """

    of: Callable[[slice], Write]
    count: int

    def require_length(self, count: int) -> None:
        """Raise ShapeMismatch when the edit is made for another number of examples."""
        super().require_length(count)
        if count != self.count:
            raise ShapeMismatch(
                f"edit of {self.site!r}: its latent is conditional on the queries of "
                f"{self.count} examples, the run has {count}: splice into that run"
            )

    def part(self, rows: slice) -> Edit:
        """Return the edit for a slice of the examples."""
        part = super().part(rows)
        object.__setattr__(part, "write", self.of(rows))
        return part


def _read_each(each: Sequence[Feature], value: Tensor) -> Tensor:
    if len(value) != len(each):
        raise ShapeMismatch(
            f"{each[0].label} is conditional on the queries of {len(each)} examples, got "
            f"activations of {len(value)}: splice into their run"
        )
    return torch.cat([one.read(part) for one, part in zip(each, value.split(1), strict=True)])


def _written_each(writes: Sequence[Write], value: Tensor) -> Tensor:
    return torch.cat([write(part) for write, part in zip(writes, value.split(1), strict=True)])


def _check_latent(dictionary: Dictionary, latent: int) -> None:
    if not 0 <= latent < dictionary.config.latents:
        raise UsageError(f"latents are 0 to {dictionary.config.latents - 1}, got {latent}")


def latent_feature(model: Model, site: str, dictionary: Dictionary, latent: int) -> Feature:
    """Return a latent of an unconditional dictionary as a feature, for runs on any examples.

    Raises:
        UsageError: there is no such latent, or its codes depend on a query.
    """
    _check_latent(dictionary, latent)
    if dictionary.config.query or dictionary.config.transcoder:
        raise UsageError(
            "a conditional latent is read with its run's query: use Splice(run, ...).feature"
        )
    axis = model.site(site).axes.index("channel")

    def read(value: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = dictionary.encode(value.movedim(axis, -1).float())[..., latent]
        return found

    return Feature(
        site=site, read=read, direction=dictionary.W_dec.detach()[latent], channel=axis,
        label=f"{site} latent {latent}",
    )  # fmt: skip
