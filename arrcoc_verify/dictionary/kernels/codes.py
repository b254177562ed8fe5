"""Codes of a batch, sparse: what encoding hands to decoding and to the backward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Active latents of a batch in compressed rows, one sample after the other.

    Attributes:
        values: what each active latent counts for, not negative, `[entry]`. A 0 stays where a
            sample has fewer positive pre-activations than were asked for: shapes then depend on
            the request alone, and a 0 gets no gradient.
        indices: the latent of each entry, `[entry]`, int64.
        offsets: where each sample's entries start, and their number last, `[sample + 1]`, int64.
        latents: size of the dictionary.
    """

    values: Tensor
    indices: Tensor
    offsets: Tensor
    latents: int

    @property
    def samples(self) -> int:
        """Samples in the batch."""
        return self.offsets.shape[0] - 1

    @property
    def rows(self) -> Tensor:
        """The sample of each entry, `[entry]`."""
        samples = torch.arange(self.samples, device=self.values.device)
        counts = self.offsets.diff()
        return samples.repeat_interleave(counts, output_size=self.values.shape[0])

    def dense(self) -> Tensor:
        """Return the codes with all zeros in place, `[sample, latent]`."""
        full = self.values.new_zeros(self.samples, self.latents)
        return full.index_put_((self.rows, self.indices), self.values, accumulate=True)


def regular(values: Tensor, indices: Tensor, latents: int) -> Codes:
    """Return codes of which every sample has the same number, from `[sample, k]` tensors."""
    samples, k = values.shape
    offsets = torch.arange(samples + 1, device=values.device) * k
    return Codes(
        values=values.reshape(-1), indices=indices.reshape(-1), offsets=offsets, latents=latents
    )
