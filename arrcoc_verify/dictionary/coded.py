"""What a dictionary makes of a run, whatever it encodes and decodes.

An autoencoder decodes the site that it encodes, a crosscoder several side by side, a transcoder
another one. Errors have no place in a transcoder's or a crosscoder's reading, so what is decoded is
written in the place of the sites, all at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.dictionary.activations import each_vector
from arrcoc_verify.dictionary.splice import read_query
from arrcoc_verify.dictionary.storage import Kept
from arrcoc_verify.errors import ShapeMismatch
from arrcoc_verify.graph import Edit, Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """A run as a dictionary has it.

    Attributes:
        run: finished run.
        codes: `[image, vector, latent]`.
        given: what is encoded, sites side by side, `[image, vector, channel]`.
        wanted: site -> what should be decoded, `[image, vector, channel]`, float64.
        decoded: site -> what is, `[image, vector, channel]`, float64.
    """

    run: Run
    codes: Tensor
    given: Tensor
    wanted: Mapping[str, Tensor]
    decoded: Mapping[str, Tensor]

    def edits(self) -> list[Edit]:
        """Return what puts everything that is decoded in its sites' place."""
        made = []
        for name, value in self.decoded.items():
            like, axis = self.run[name], self.run.model.site(name).axes.index("channel")
            native = value.reshape(like.movedim(axis, -1).shape).movedim(-1, axis)
            made.append(Edit(site=name, value=native.to(like.dtype), label=f"decode {name}"))
        return made


@torch.no_grad()
def coded(run: Run, kept: Kept) -> Coded:
    """Return what a dictionary makes of a finished run.

    Raises:
        ShapeMismatch: sites have other channels than the dictionary, or numbers of vectors.
        UsageError: a conditional dictionary, and nothing holds the query.
    """
    config = kept.dictionary.config
    held = {name: _vectors(run, name) for name in (*kept.encoded, *kept.decoded)}
    counts = {name: value.shape[1] for name, value in held.items()}
    if len(set(counts.values())) > 1:
        raise ShapeMismatch(f"wanted as many vectors at each site, got {counts}")
    given = torch.cat([held[name] for name in kept.encoded], -1)
    widths = [held[name].shape[-1] for name in kept.decoded]
    if (given.shape[-1], sum(widths)) != (config.d_in, config.outputs):
        raise ShapeMismatch(
            f"{', '.join(kept.encoded)} to {', '.join(kept.decoded)} have {given.shape[-1]} and "
            f"{sum(widths)} channels, the dictionary {config.d_in} and {config.outputs}: was it "
            "trained for other sites?"
        )
    query = read_query(run, kept.dictionary, kept.about.get("query_site"))
    codes = kept.dictionary.encode(given, query)
    made = kept.dictionary.decode(codes, query=query, x=given).double().split(widths, -1)
    return Coded(
        run=run, codes=codes, given=given,
        wanted={name: held[name].double() for name in kept.decoded},
        decoded=dict(zip(kept.decoded, made, strict=True)),
    )  # fmt: skip


def _vectors(run: Run, name: str) -> Tensor:
    return each_vector(run[name], run.model.site(name).axes, name)
