"""The default first step: pictures to a tensor, so that a simple model needs only functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """Resizes pictures and returns them as a tensor.

    Attributes:
        size: height and width in pixels.
    """

    size: tuple[int, int]

    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "image 3 height width"]:
        """Return RGB in 0..1, float32; a picture of the right size is not resampled."""
        height, width = self.size
        rows = []
        for picture in images:
            rgb = picture.convert("RGB")
            if rgb.size != (width, height):
                rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
            rows.append(torch.from_numpy(np.array(rgb)).permute(2, 0, 1))
        return torch.stack(rows).float() / 255
