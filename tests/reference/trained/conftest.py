"""The trained reference model, loaded once, and scenes for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc_verify.adapters import load
from arrcoc_verify.graph import run
from arrcoc_verify.reference.trained.realising import SIZE
from arrcoc_verify.scenes import scenes

ANSWER = "realising.answer"
READ = ("realising.patches", ANSWER)


@pytest.fixture(scope="session")
def model():
    """The model with the shipped weights."""
    return load("reference:trained")


@pytest.fixture(scope="session")
def shown():
    """Three composed scenes."""
    return scenes("assert", grid=(16, 16), size=SIZE, per_cluster=1)[:3]


@pytest.fixture(scope="session")
def clean(model, shown):
    """The model on them, with realised patches and answers."""
    return run(model, [s.image for s in shown], [s.query for s in shown], read=list(READ))


@pytest.fixture
def noise():
    """A picture of noise, another one for each seed."""

    def made(seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return made


@pytest.fixture
def pixels():
    """Whole numbers 0..255 of any picture, `[1, 3, 320, 320]`."""

    def made(seed):
        drawn = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (1, 3, SIZE, SIZE), generator=drawn).float()

    return made
