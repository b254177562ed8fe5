"""What a conditional dictionary is compared with: twins without the query, or with another's."""

from dataclasses import dataclass, replace

import torch

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.training import Source
from arrcoc_verify.errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffled:
    """A source whose queries belong to other samples."""

    source: Source
    seed: int

    def batch(self, step: int) -> Samples:
        """Return a batch with its queries shuffled."""
        return shuffled(self.source.batch(step), self.seed + step)

    def held_out(self) -> Samples:
        """Return held-out samples with their queries shuffled."""
        return shuffled(self.source.held_out(), self.seed - 1)


def shuffled(samples: Samples, seed: int) -> Samples:
    """Return the samples with each other's queries."""
    if samples.query is None:
        raise UsageError("there is no query to shuffle: the samples hold none")
    order = torch.randperm(len(samples.x), generator=torch.Generator().manual_seed(seed % 2**62))
    return replace(samples, query=samples.query[order])


def matched(config: DictionaryConfig) -> DictionaryConfig:
    """Return the unconditional dictionary with as many parameters as a conditional one."""
    plain = replace(config, query=0, turns=0, prefixes=())
    wanted = Dictionary(config).parameter_count()
    made = Dictionary(plain)
    more = (wanted - made.parameter_count()) / made.latent_parameters()
    return replace(plain, latents=config.latents + max(0, round(more)), prefixes=())
