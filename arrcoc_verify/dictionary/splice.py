"""A dictionary inside a model: its latents as features, its error as what stays in place.

An activation is `decoded + error`, the error being whatever the dictionary leaves. Latents are
written by the difference of decoded values, so an un-edited splice is the model, bit for bit, and
ablating all latents and the error together leaves the decoder's bias.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Dictionary
from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.feature import Feature
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.model import Model


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
        self._query = self._read_query(run, query_site)
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

    def _read_query(self, run: Run, query_site: str | None) -> Tensor | None:
        if not self.dictionary.config.query:
            return None
        named = query_site or next(
            (site.name for site in run.model.sites.values() if site.role == "query"), None
        )
        if named is None:
            raise UsageError("a conditional dictionary wants the site that holds the query")
        return run[named].float().flatten(1)

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
        """Return one latent as a feature.

        Raises:
            UsageError: there is no such latent, or it turns with the query or is conditional:
                use `ablate` and `edited`, which know the run's queries.
        """
        return latent_feature(self.model, self.site, self.dictionary, latent)


def latent_feature(model: Model, site: str, dictionary: Dictionary, latent: int) -> Feature:
    """Return a latent of an unconditional dictionary as a feature, for runs on any examples.

    Raises:
        UsageError: there is no such latent, or its codes depend on a query.
    """
    if not 0 <= latent < dictionary.config.latents:
        raise UsageError(f"latents are 0 to {dictionary.config.latents - 1}, got {latent}")
    if dictionary.config.query or dictionary.config.transcoder:
        raise UsageError(
            "a conditional latent is read with its run's query: use Splice.ablate and Splice.edited"
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
