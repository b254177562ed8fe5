"""Fast composing of training scenes, whole batches at a time, on any device.

A scene is a crop of a photograph with one to four things on it, some tinted, some with a digit that
vanishes where it is not seen in detail. A query asks for one of them, or for something that is not
there. Truth comes free: the boxes of what is asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.errors import UsageError
from arrcoc_verify.reference.trained import words
from arrcoc_verify.reference.trained.objects import Thing
from arrcoc_verify.reference.trained.realising import CELL, GRID, SIZE
from arrcoc_verify.scenes import queries
from arrcoc_verify.scenes.colour import KEPT_CHROMA, TINTS

SPRITE = 100
"""Side of a thing's box in pixels: five cells, as in the verifier's scenes."""
BOX = SPRITE // CELL
STAGE = 352
"""Side at which backgrounds are kept, from which crops are taken."""
MARK = 72.0
"""Contrast of a digit in grey levels."""
NOISE = 5.0
"""Standard deviation of the camera's noise in grey levels."""
GLYPHS = (
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001001010010", "111101111101111", "111101111001111",
)  # fmt: skip
"""Digits of 3 x 5 dots."""


Whole = NDArray[np.int64]
Cast = tuple[Whole, Whole, Whole, Whole, NDArray[np.bool_], Whole, Whole]
"""Things, places, digits, hues `[scene, 4]`; tinted, count and background `[scene]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a scene's query could be instead.

    Attributes:
        label: of what is asked for.
        stage: number of the background photograph.
        paraphrase: the same question in other words.
        other: a question after another thing in the scene, or the same one if there is none.
        absent: a question after what is not there.
    """

    label: str
    stage: int
    paraphrase: str
    other: str
    absent: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Scenes with their truth.

    Attributes:
        pixels: `[image, 3, 320, 320]`, whole numbers 0..255 as floats.
        asked: `[image, patch]`, 1 on the object asked for, 0.5 in the rest of its box, else 0.
        box: `[image, patch]` bool, the box of what is asked for; empty when nothing is.
        content: number of what each query means, in the list of contents.
        kind: `[image]`, place in `words.KINDS`; absent objects are `named` with an empty box.
        digit: `[image]`, the digit on what is asked for, or -1.
        queries: texts.
        said: how else each query could have been put.
    """

    pixels: Tensor
    asked: Tensor
    box: Tensor
    content: Tensor
    kind: Tensor
    digit: Tensor
    queries: list[str]
    said: list["Said"]


def mark_patterns(device: torch.device | str = "cpu") -> Tensor:
    """Return `[digit, 20, 20]`: strokes of one pixel less their own surround, largest value 1.

    Their mean over any few pixels is near zero, so block means lose them (vanishing optotypes).
    """
    made = torch.zeros(len(GLYPHS), CELL, CELL)
    for digit, dots in enumerate(GLYPHS):
        grid = torch.tensor([float(d) for d in dots]).reshape(1, 1, 5, 3)
        big = F.interpolate(grid, scale_factor=3, mode="nearest")[0, 0]
        made[digit, 2:17, 5:14] = big
    edge = made[:, None] - F.avg_pool2d(made[:, None], 3, 1, 1)
    edge = edge - F.avg_pool2d(edge, 3, 1, 1)
    return (edge[:, 0] / edge.abs().amax((1, 2, 3)).reshape(-1, 1, 1)).to(device)


class Studio:
    """Composes batches from things and photographs."""

    def __init__(
        self, things: Sequence[Thing], photographs: Mapping[str, Sequence[Image.Image]],
        contents: Sequence[str], *, labels: Sequence[str], device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """Take what scenes are made of.

        Args:
            things: cut-outs that are put on photographs.
            photographs: label -> photographs of it; no thing of that label is put on them.
            contents: what queries can mean.
            labels: those that may be asked for as absent.
            device: where scenes are made.
        """
        self.device, self.things = torch.device(device), list(things)
        self.sprites = torch.stack([_sprite(t.image) for t in things]).to(self.device)
        shown = [(label, one) for label, many in photographs.items() for one in many]
        self.stages = torch.stack([_stage(one) for _, one in shown]).to(self.device)
        self.staged = [label for label, _ in shown]
        self.where = {text: index for index, text in enumerate(contents)}
        self.labels = list(labels)
        self.marks = mark_patterns(self.device)
        real = np.array([thing.source == "photograph" for thing in things])
        # Photographed things are few and what counts: they come in three of ten draws.
        share = np.where(real, 0.3 / max(real.sum(), 1), 0.7 / max((~real).sum(), 1))
        self.share = share / share.sum()
        shifts = torch.tensor(list(TINTS.values()))
        blue, red = shifts[:, 0], shifts[:, 1]
        self.tints = torch.stack(
            [1.402 * red, -0.344136 * blue - 0.714136 * red, 1.772 * blue], 1
        ).to(self.device)

    def batch(
        self, size: int, generator: np.random.Generator, *, natural: float = 0.5,
        present: float = 0.75, plain: bool = False,
    ) -> Batch:  # fmt: skip
        """Return `size` scenes.

        Args:
            size: number of scenes.
            generator: decides everything.
            natural: share of scenes whose things keep their colours and are asked for by kind.
            present: share of queries that ask for what is there.
            plain: no change of size, and two things: scenes as they are tested on.
        """
        rng, b = generator, size
        count = np.full(b, 2) if plain else rng.choice([1, 2, 3, 4], b, p=[0.1, 0.45, 0.3, 0.15])
        stages = rng.integers(len(self.stages), size=b)
        pixels = self._backgrounds(stages, rng)
        draw = torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62)))
        alphas = torch.zeros(b, 4, SIZE, SIZE, device=self.device)
        tinted = rng.random(b) >= natural
        chosen, places, digits = self._cast(stages, count, rng)
        hues = np.stack([rng.permutation(len(TINTS)) for _ in range(b)])
        for slot in range(4):
            there = torch.as_tensor(count > slot, device=self.device)
            layer = self._layer(chosen[:, slot], hues[:, slot], tinted, rng, plain=plain)
            pixels, alphas[:, slot] = self._paste(pixels, layer, places[:, slot], there)
        coverage = F.avg_pool2d(alphas, CELL)
        pixels, digits = self._marked(pixels, coverage, digits, rng, draw)
        if not plain:
            pixels = self._edited(pixels, places, rng)
        noise = torch.as_tensor(rng.normal(0, NOISE, 1 << 16), device=self.device).float()
        pick = torch.randint(1 << 16, pixels.shape, generator=draw, device=self.device)
        pixels = (pixels + noise[pick]).round().clamp(0, 255)
        cast = (chosen, places, digits, hues, tinted, count, stages)
        return self._asked(pixels, coverage, cast, rng, present)

    def _backgrounds(self, stages: NDArray[Any], rng: np.random.Generator) -> Tensor:
        b = len(stages)
        which = torch.as_tensor(stages, device=self.device)
        stage = self.stages[which].float()
        zoom = torch.as_tensor(rng.uniform(0.5, 1.0, b), device=self.device).float()
        shift = torch.as_tensor(rng.uniform(-1, 1, (b, 2)), device=self.device).float()
        flip = torch.as_tensor(rng.choice([-1.0, 1.0], b), device=self.device).float()
        theta = torch.zeros(b, 2, 3, device=self.device)
        theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom
        theta[:, :, 2] = shift * (1 - zoom)[:, None]
        at = F.affine_grid(theta, [b, 3, SIZE, SIZE], align_corners=False)
        seen = F.grid_sample(stage, at, mode="bilinear", align_corners=False,
                             padding_mode="border")  # fmt: skip
        light = _luma(seen)
        fade = torch.as_tensor(rng.choice([0.5, 1.0], b), device=self.device).float()
        seen = light + (seen - light) * fade.reshape(b, 1, 1, 1)
        contrast = torch.as_tensor(rng.uniform(0.45, 0.9, b), device=self.device).float()
        return 128 + (seen - 127.5) * contrast.reshape(b, 1, 1, 1)

    def _cast(
        self, stages: Whole, count: Whole, rng: np.random.Generator
    ) -> tuple[Whole, Whole, Whole]:
        """Return things `[scene, 4]` of different labels, places in cells and digits."""
        b = len(stages)
        chosen = rng.choice(len(self.things), (b, 4), p=self.share)
        places = np.zeros((b, 4, 2), dtype=np.int64)
        room = GRID - BOX + 1
        for row in range(b):
            taken: list[Whole] = []
            for slot in range(count[row]):
                known = {self.things[chosen[row, s]].label for s in range(slot)}
                known.add(self.staged[stages[row]])
                if _told_by(self.things[chosen[row, slot]].label, known):
                    chosen[row, slot] = self._another(known, rng)
                place = _free_place(taken, room, rng)
                taken.append(place)
                places[row, slot] = place
        return chosen, places, rng.integers(0, len(GLYPHS), (b, 4))

    def _another(self, known: set[str], rng: np.random.Generator) -> int:
        """Return a thing that no name of those known may mean."""
        share = self.share * [not _told_by(thing.label, known) for thing in self.things]
        if not share.any():
            raise UsageError(f"too few labels: nothing to put beside {', '.join(sorted(known))}")
        return int(rng.choice(len(self.things), p=share / share.sum()))

    def _layer(
        self, which: NDArray[Any], hue: NDArray[Any], tinted: NDArray[Any],
        rng: np.random.Generator, *, plain: bool,
    ) -> Tensor:  # fmt: skip
        b = len(which)
        layer = self.sprites[torch.as_tensor(which, device=self.device)].float()
        if not plain:
            theta = torch.zeros(b, 2, 3, device=self.device)
            zoom = torch.as_tensor(1 / rng.uniform(0.75, 1.05, b), device=self.device).float()
            turn = torch.as_tensor(rng.normal(0, 0.2, b), device=self.device).float()
            flip = torch.as_tensor(rng.choice([-1.0, 1.0], b), device=self.device).float()
            theta[:, 0, 0], theta[:, 0, 1] = zoom * turn.cos() * flip, -zoom * turn.sin()
            theta[:, 1, 0], theta[:, 1, 1] = zoom * turn.sin() * flip, zoom * turn.cos()
            at = F.affine_grid(theta, [b, 4, SPRITE, SPRITE], align_corners=False)
            layer = F.grid_sample(layer, at, mode="bilinear", align_corners=False)
        colour, alpha = layer[:, :3], layer[:, 3:] / 255
        light = _luma(colour)
        paint = light + (colour - light) * KEPT_CHROMA
        shift = self.tints[torch.as_tensor(hue, device=self.device)][:, :, None, None]
        on = torch.as_tensor(tinted, device=self.device).reshape(b, 1, 1, 1)
        return torch.cat([torch.where(on, paint + shift, colour), alpha], 1)

    def _paste(self, pixels: Tensor, layer: Tensor, places: NDArray[Any], there: Tensor):  # type: ignore[no-untyped-def]  # noqa: ANN202
        b = len(pixels)
        at = torch.as_tensor(places * CELL, device=self.device)
        span = torch.arange(SPRITE, device=self.device)
        rows, columns = at[:, 0, None] + span, at[:, 1, None] + span
        batch = torch.arange(b, device=self.device)[:, None, None]
        alpha = layer[:, 3] * there[:, None, None]
        pixels, mask = pixels.clone(), torch.zeros(b, SIZE, SIZE, device=self.device)
        for channel in range(3):
            under = pixels[batch, channel, rows[:, :, None], columns[:, None, :]]
            over = under * (1 - alpha) + layer[:, channel] * alpha
            pixels[batch, channel, rows[:, :, None], columns[:, None, :]] = over
        mask[batch, rows[:, :, None], columns[:, None, :]] = alpha
        return pixels, mask

    def _marked(self, pixels: Tensor, coverage: Tensor, digits: NDArray[Any], rng, draw):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Put a digit into one of the best covered cells of every thing, in half of the scenes."""
        b = len(pixels)
        best = coverage.flatten(2)
        score = (
            (best > 0.9).float()
            + best * 0.5
            + torch.rand(best.shape, generator=draw, device=self.device) * 0.1
        )
        cell = score.argmax(2).cpu().numpy()
        good = (best.amax(2) > 0.8).cpu().numpy()
        marked = (rng.random(b) < 0.7)[:, None] & good
        pixels = pixels.clone()
        field = torch.zeros(b, GRID * GRID, CELL, CELL, device=self.device)
        rows = torch.arange(b, device=self.device)
        for slot in range(4):
            on = torch.as_tensor(marked[:, slot], device=self.device)
            at = torch.as_tensor(cell[:, slot], device=self.device)
            pattern = self.marks[torch.as_tensor(digits[:, slot], device=self.device)]
            field[rows, at] += pattern * on[:, None, None]
        plane = field.reshape(b, GRID, GRID, CELL, CELL).permute(0, 1, 3, 2, 4)
        pixels = pixels + MARK * plane.reshape(b, 1, SIZE, SIZE)
        return pixels, np.where(marked, digits, -1)

    def _edited(self, pixels: Tensor, places: NDArray[Any], rng: np.random.Generator) -> Tensor:
        """Shift one thing's box in luminance in some scenes: loudness without a meaning."""
        shift = torch.zeros(len(pixels), GRID, GRID, device=self.device)
        for row in np.flatnonzero(rng.random(len(pixels)) < 0.35):
            r, c = places[row, int(rng.integers(2))]
            shift[row, r : r + BOX, c : c + BOX] = float(rng.uniform(-45, 45))
        return pixels + F.interpolate(shift[:, None], scale_factor=CELL, mode="nearest")

    def _asked(
        self, pixels: Tensor, coverage: Tensor, cast: Cast, rng: np.random.Generator, present: float
    ) -> Batch:  # fmt: skip
        chosen, places, digits, hues, tinted, *_ = cast
        b = len(pixels)
        colours = tuple(TINTS)
        asked = torch.zeros(b, GRID * GRID)
        box = torch.zeros(b, GRID, GRID, dtype=torch.bool)
        content, kind, digit, texts, says = [], [], [], [], []
        covered = coverage.flatten(2).cpu()
        for row in range(b):
            draw = rng.random()
            name = self.things[chosen[row, 0]].label
            hue = f"{colours[hues[row, 0]]} " if tinted[row] else ""
            if draw < present:
                r, c = places[row, 0]
                box[row, r : r + BOX, c : c + BOX] = True
                flat = box[row].flatten().float()
                asked[row] = flat * (0.5 + 0.5 * (covered[row, 0] > 0.12))
                plainly = tinted[row] and rng.random() < 0.1
                said, which = (f"{hue}thing" if plainly else hue + name), 0
            elif draw < present + (1 - present) * 0.4:
                there = {self.things[i].label for i in chosen[row]}
                name = next(x for x in rng.permutation(self.labels) if not _told_by(x, there))
                said, which = (f"{colours[hues[row, 3]]} {name}" if tinted[row] else str(name)), 0
            else:
                which = int(rng.integers(1, 4))
                said = (words.EVERYTHING, words.ODD, words.NOTHING)[which - 1]
            texts.append(words.asked(said, rng) if which == 0
                         else words.unnamed(words.KINDS[which], rng))  # fmt: skip
            content.append(self.where.get(said, self.where[words.NOTHING]))
            kind.append(which)
            digit.append(int(digits[row, 0]) if draw < present else -1)
            says.append(self._said(said, texts[-1], cast, row, rng))
        to = self.device
        return Batch(
            pixels=pixels, asked=asked.to(to), box=box.flatten(1).to(to),
            content=torch.tensor(content, device=to), kind=torch.tensor(kind, device=to),
            digit=torch.tensor(digit, device=to), queries=texts, said=says,
        )  # fmt: skip

    def _said(self, said: str, query: str, cast: Cast, row: int, rng: np.random.Generator) -> Said:
        chosen, _, _, hues, tinted, count, stages = cast
        colours = tuple(TINTS)
        second = self.things[chosen[row, 1]].label
        hue = f"{colours[hues[row, 1]]} " if tinted[row] else ""
        frames = [queries.TEMPLATES[i] for i in rng.permutation(len(queries.TEMPLATES))]
        there = {self.things[i].label for i in chosen[row]}
        absent = next(x for x in rng.permutation(self.labels) if not _told_by(x, there))
        return Said(
            label=self.things[chosen[row, 0]].label, stage=int(stages[row]),
            paraphrase=next(text for f in frames if (text := f.format(said)) != query),
            other=frames[1].format(hue + second if count[row] > 1 else said),
            absent=frames[2].format(absent),
        )  # fmt: skip


def _told_by(label: str, others: Iterable[str]) -> bool:
    return any(words.alike(str(label), other) for other in others)


def _free_place(taken: list[Whole], room: int, rng: np.random.Generator) -> Whole:
    """Return row and column of a box that meets no other, if one is found soon."""
    place = rng.integers(0, room, 2)
    for _ in range(59):
        if all(np.abs(place - other).max() >= BOX for other in taken):
            break
        place = rng.integers(0, room, 2)
    return place


def _luma(rgb: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", rgb, rgb.new_tensor([0.299, 0.587, 0.114]))[:, None]


def _sprite(image: Image.Image) -> Tensor:
    """Return `[4, SPRITE, SPRITE]` uint8: the thing as large as fits, a small border left."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
    scale = (SPRITE - 2 * round(0.06 * SPRITE)) / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.resize(size, Image.Resampling.LANCZOS)
    sheet = Image.new("RGBA", (SPRITE, SPRITE), (128, 128, 128, 0))
    sheet.paste(small, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    array = np.asarray(sheet).copy()
    light = array[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]
    # Luma within 128 +- 64, as composed scenes have it, so that edits have room.
    array[..., :3] = np.clip(array[..., :3] + ((128 - light) * 0.5)[..., None], 0, 255)
    return torch.from_numpy(array).permute(2, 0, 1)


def _stage(photograph: Image.Image) -> Tensor:
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.convert("RGB").crop((left, top, left + side, top + side))
    sized = square.resize((STAGE, STAGE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(sized).copy()).permute(2, 0, 1)
