"""A face detector that works offline: three small networks in a cascade, weights in the package.

Source: Zhang et al., Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks (2016). The weights are those of facenet-pytorch 2.6.0 (MIT, notice in fixtures/faces).
It finds frontal faces from about 20 pixels on; it was trained on photographs and says nothing about
drawings, profiles or who somebody is.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import interpolate

from arrcoc_verify.errors import BadModel
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.scenes.scene import Box

SMALLEST = 20
"""Side in pixels of the smallest face that is looked for."""

LONGEST = 1024
"""Larger pictures are reduced to this side first."""

_STEP = 0.709
"""Factor from one size of the pyramid to the next: half the area."""

_SURE = (0.6, 0.7, 0.7)
"""Least probability after each network."""

_CELL, _STRIDE = 12, 2
_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A face that was found.

    Attributes:
        box: (x, y, width, height) in pixels of the picture, inside it.
        probability: of being a face, as the last network says.
    """

    box: Box
    probability: float


def find_faces(image: Image.Image) -> list[Face]:
    """Return the faces of a picture, the largest first; empty where there is none."""
    picture = image.convert("RGB")
    scale = max(1.0, max(picture.size) / LONGEST)
    if scale > 1:
        size = (round(picture.width / scale), round(picture.height / scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        boxes, sure = _cascade(pixels, _networks())
    faces = [
        Face(box=box, probability=float(p))
        for row, p in zip((boxes * scale).tolist(), sure, strict=True)
        if (box := _clipped(row, image.size)) is not None
    ]
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def _clipped(corners: Sequence[float], size: tuple[int, int]) -> Box | None:
    left, top = max(0, round(corners[0])), max(0, round(corners[1]))
    right, bottom = min(size[0], round(corners[2])), min(size[1], round(corners[3]))
    if right - left < 1 or bottom - top < 1:
        return None
    return left, top, right - left, bottom - top


class _Cut(nn.Module):
    """Flattens `[n, channel, row, column]` with columns first, as the weights expect."""

    def forward(self, value: Tensor) -> Tensor:
        """Return `[n, column * row * channel]`."""
        return value.permute(0, 3, 2, 1).flatten(1)


def _stack(
    channels: Sequence[int], kernels: Sequence[int], pools: Sequence[int]
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k, (kernel, pool) in enumerate(zip(kernels, pools, strict=True)):
        layers += [nn.Conv2d(channels[k], channels[k + 1], kernel), nn.PReLU(channels[k + 1])]
        layers += [nn.MaxPool2d(pool, 2, ceil_mode=True)] if pool else []
    return layers


class _Network(nn.Module):
    """One of the three: a trunk, a head for the probability and one for the box."""

    def __init__(self, trunk: list[nn.Module], face: nn.Module, box: nn.Module) -> None:
        super().__init__()
        self.trunk, self.face, self.box = nn.Sequential(*trunk), face, box

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of a face and four corrections, in sides of the box."""
        value = self.trunk((pixels - 127.5) / 128)
        return self.face(value).softmax(1)[:, 1], self.box(value)


def _built() -> dict[str, _Network]:
    small = _stack((3, 10, 16, 32), (3, 3, 3), (2, 0, 0))
    middle = _stack((3, 28, 48, 64), (3, 3, 2), (3, 3, 0))
    large = _stack((3, 32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2, 0))
    middle += [_Cut(), nn.Linear(576, 128), nn.PReLU(128)]
    large += [_Cut(), nn.Linear(1152, 256), nn.PReLU(256)]
    return {
        "pnet": _Network(small, nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)),
        "rnet": _Network(middle, nn.Linear(128, 2), nn.Linear(128, 4)),
        "onet": _Network(large, nn.Linear(256, 2), nn.Linear(256, 4)),
    }


@functools.cache
def _networks() -> dict[str, _Network]:
    folder = fixtures.folder() / "faces"
    try:
        content = (folder / "mtcnn.safetensors").read_bytes()
        wanted = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BadModel(
            f"wanted the face detector's weights in {folder}, cannot read them "
            f"({error.strerror}): reinstall arrcoc_verify"
        ) from error
    if hashlib.sha256(content).hexdigest() != wanted["files"]["mtcnn.safetensors"]["sha256"]:
        raise BadModel(
            f"the face detector's weights in {folder} are not those of the manifest: "
            "the file was changed; reinstall arrcoc_verify"
        )
    weights, nets = load(content), _built()
    for name, net in nets.items():
        own = {key.partition(".")[2]: w for key, w in weights.items() if key.startswith(name)}
        net.load_state_dict(own)
        net.eval()
    return nets


def _cascade(pixels: Tensor, nets: dict[str, _Network]) -> tuple[Tensor, Tensor]:
    boxes, sure = _proposals(pixels, nets["pnet"])
    for name, side, least in (("rnet", 24, _SURE[1]), ("onet", 48, _SURE[2])):
        boxes, cut = _crops(pixels, _squared(boxes), side)
        if not len(boxes):
            return boxes, boxes.new_zeros(0)
        found = [nets[name](part) for part in cut.split(_CHUNK)]
        sure = torch.cat([part[0] for part in found])
        moved = torch.cat([part[1] for part in found])
        keep = sure > least
        boxes, sure, moved = boxes[keep], sure[keep], moved[keep]
        if name == "rnet":
            pick = _distinct(boxes, sure, 0.7)
            boxes, sure, moved = boxes[pick], sure[pick], moved[pick]
        boxes = _corrected(boxes, moved)
    pick = _distinct(boxes, sure, 0.7, of_smaller=True)
    return boxes[pick], sure[pick]


def _proposals(pixels: Tensor, net: _Network) -> tuple[Tensor, Tensor]:
    """Return boxes where the first network, run at each size of a pyramid, sees a face."""
    high, wide = pixels.shape[2:]
    scale = _CELL / SMALLEST
    rows: list[Tensor] = []
    while min(high, wide) * scale >= _CELL:
        size = (int(high * scale + 1), int(wide * scale + 1))
        sure, moved = net(interpolate(pixels, size=size, mode="area"))
        at = (sure[0] >= _SURE[0]).nonzero()
        place = at.flip(1).float() * _STRIDE
        corners = torch.cat([((place + 1) / scale).floor(), ((place + _CELL) / scale).floor()], 1)
        probability, change = sure[0][at[:, 0], at[:, 1]], moved[0][:, at[:, 0], at[:, 1]].T
        pick = _distinct(corners, probability, 0.5)
        rows.append(torch.cat([corners, probability[:, None], change], 1)[pick])
        scale *= _STEP
    if not rows:
        return pixels.new_zeros(0, 4), pixels.new_zeros(0)
    found = torch.cat(rows)
    found = found[_distinct(found[:, :4], found[:, 4], 0.7)]
    side = (found[:, 2:4] - found[:, :2]).repeat(1, 2)
    return found[:, :4] + found[:, 5:] * side, found[:, 4]


def _squared(boxes: Tensor) -> Tensor:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], 1)


def _crops(pixels: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the boxes that touch the picture, and what is in them, `[n, 3, side, side]`."""
    high, wide = pixels.shape[2:]
    kept, cut = [], []
    for row in boxes:
        left, top, right, bottom = (int(value) for value in row)
        left, top = max(left, 1) - 1, max(top, 1) - 1
        right, bottom = min(right, wide), min(bottom, high)
        if right > left and bottom > top:
            kept.append(row)
            part = pixels[:, :, top:bottom, left:right]
            cut.append(interpolate(part, size=(side, side), mode="area"))
    if not kept:
        return boxes[:0], pixels.new_zeros(0, 3, side, side)
    return torch.stack(kept), torch.cat(cut)


def _corrected(boxes: Tensor, moved: Tensor) -> Tensor:
    side = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
    return boxes + moved * side


def _distinct(boxes: Tensor, sure: Tensor, most: float, *, of_smaller: bool = False) -> Tensor:
    """Return which boxes stay when those are dropped that overlap a surer one by more than `most`.

    Args:
        boxes: corners `[n, 4]`.
        sure: probability of each.
        most: largest overlap, as a share of the union, or of the smaller box.
        of_smaller: which of the two.
    """
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    left = sure.argsort(descending=True, stable=True)
    kept = []
    while len(left):
        first, rest = left[0], left[1:]
        kept.append(int(first))
        start = torch.maximum(boxes[first, :2], boxes[rest, :2])
        stop = torch.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = (stop - start + 1).clamp(min=0).prod(1)
        whole = torch.minimum(area[first], area[rest])
        if not of_smaller:
            whole = area[first] + area[rest] - shared
        left = rest[shared / whole <= most]
    return torch.tensor(kept, dtype=torch.long)
