"""Finds what words name in a picture, by an open_clip model whose weights are on this machine.

Windows of several sizes are compared with the label and with phrases that name nothing, as CLIP
tells classes (Radford et al., arXiv 2103.00020); the window that is surest is the region. It says
where something like it is, not where its edges are. Nothing is downloaded, and only safetensors are
read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify import _torchvision
from arrcoc_verify.errors import BadModel, BadRegion
from arrcoc_verify.scenes.scene import Box, Region

SHARES = (1.0, 0.6, 0.4, 0.25)
"""Sides of the windows, as shares of the picture's sides."""

NOTHING = ("a photo", "a photo of the background", "a photo of a wall", "a photo of something")
"""Phrases that name no thing: a window has to be surer of the label than of all of these."""

SURE = 0.5
"""Least probability of the label in its window."""

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The two towers.

    Attributes:
        images: pictures to unit vectors `[image, channel]`.
        texts: texts to unit vectors `[text, channel]`.
        scale: what cosines are multiplied by before the softmax.
    """

    images: Callable[[Sequence[Image.Image]], Tensor]
    texts: Callable[[Sequence[str]], Tensor]
    scale: float


def find_label(picture: Image.Image, label: str, folder: Path, name: str) -> tuple[Region, str]:
    """Return the region of a picture that is most like a label, and how sure that is.

    Raises:
        BadModel: the folder holds no open_clip model with safetensors.
        BadRegion: nothing of the label is found.
    """
    box, sure = surest(picture, label, load(folder))
    if sure < SURE:
        raise BadRegion(
            f"no {label} was found in {name} (at best with probability {sure:.2f}): "
            "give its box by --region x,y,w,h"
        )
    return Region(box=box, label=label), f"{label} found with probability {sure:.3f}"


def surest(picture: Image.Image, label: str, encoder: Encoder) -> tuple[Box, float]:
    """Return the window that is surest of a label, and its probability; of equals the smallest."""
    boxes = windows(picture.size)
    texts = encoder.texts([f"a photo of a {label}", *NOTHING])
    sure: list[float] = []
    for start in range(0, len(boxes), _BATCH):
        crops = [picture.crop((x, y, x + w, y + h)) for x, y, w, h in boxes[start : start + _BATCH]]
        logits = encoder.scale * encoder.images(crops) @ texts.T
        sure += logits.softmax(1)[:, 0].tolist()
    best = max(range(len(boxes)), key=lambda at: (round(sure[at], 3), -boxes[at][2] * boxes[at][3]))
    return boxes[best], sure[best]


def windows(size: tuple[int, int]) -> list[Box]:
    """Return boxes of every share of the picture, each half over the next, inside it."""
    wide, high = size
    found: list[Box] = []
    for share in SHARES:
        across, down = max(1, round(wide * share)), max(1, round(high * share))
        lefts = _starts(wide, across)
        found += [(x, y, across, down) for y in _starts(high, down) for x in lefts]
    return found


def _starts(length: int, side: int) -> list[int]:
    count = 1 + -(-(length - side) * 2 // side) if length > side else 1
    return [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]


def load(folder: Path) -> Encoder:
    """Return the encoder of a folder with `open_clip_config.json` and a safetensors file.

    Raises:
        BadModel: it holds none, or they do not fit.
    """
    if not (folder / "open_clip_config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise BadModel(
            f"wanted a folder with open_clip_config.json and its weights as .safetensors, got "
            f"{folder}: save one by open_clip, or give the box by --region x,y,w,h"
        )
    _torchvision.prepare()
    import open_clip

    place = f"local-dir:{folder.resolve()}"
    try:
        model, _, prepare = open_clip.create_model_and_transforms(place, weights_only=True)
        tokens = open_clip.get_tokenizer(place)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise BadModel(
            f"wanted an open_clip model in {folder}, it cannot be loaded: {error}"
        ) from error
    model.eval()
    return _encoder(model, prepare, tokens)


def _encoder(model: Any, prepare: Any, tokens: Any) -> Encoder:
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        with torch.inference_mode():
            seen = torch.stack([prepare(one.convert("RGB")) for one in pictures])
            found: Tensor = model.encode_image(seen, normalize=True)
        return found

    def texts(given: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model.encode_text(tokens(list(given)), normalize=True)
        return found

    return Encoder(images=images, texts=texts, scale=float(model.logit_scale.detach().exp()))
