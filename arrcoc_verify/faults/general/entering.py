"""Faults on the way in: what is done to pictures and queries before any step reads them.

Source: fault catalogues of data loading and tokenising (channel order, orientation, crops, scaling,
truncation, templates, caches, batches that are mixed up).
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from arrcoc_verify.faults.general.operator import Operator, named
from arrcoc_verify.faults.planting import entering
from arrcoc_verify.model import Model

Picture = Image.Image
OfPicture = Callable[[Picture], Picture]
OfQuery = Callable[[str], str]


def _array(change: Callable[[np.ndarray], np.ndarray]) -> OfPicture:
    def of(picture: Picture) -> Picture:
        changed = change(np.asarray(picture.convert("RGB")))
        return Image.fromarray(np.ascontiguousarray(changed).astype(np.uint8))

    return of


def cropped(picture: Picture) -> Picture:
    """The middle seven tenths, enlarged."""
    width, height = picture.size
    box = (width * 3 // 20, height * 3 // 20, width * 17 // 20, height * 17 // 20)
    return picture.crop(box).resize(picture.size, Image.Resampling.BICUBIC)


def boxed(picture: Picture) -> Picture:
    """Squeezed to seven tenths of its height, black bars above and below."""
    width, height = picture.size
    out = Image.new("RGB", picture.size)
    squeezed = picture.resize((width, height * 7 // 10), Image.Resampling.BICUBIC)
    out.paste(squeezed, (0, height * 3 // 20))
    return out


def reduced(factor: int) -> OfPicture:
    """At a fraction of its resolution."""

    def of(picture: Picture) -> Picture:
        small = (max(1, picture.width // factor), max(1, picture.height // factor))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size)

    return of


def posterised(bits: int) -> OfPicture:
    """With few bits a channel."""
    return lambda picture: ImageOps.posterize(picture.convert("RGB"), bits)


def corner_lost(array: np.ndarray) -> np.ndarray:
    """The lower right quarter is black."""
    out = array.copy()
    out[array.shape[0] // 2 :, array.shape[1] // 2 :] = 0
    return out


def wrapped(array: np.ndarray) -> np.ndarray:
    """Brightened in eight bits, so that bright pixels wrap around."""
    return array + np.uint8(100)


def halves_exchanged(array: np.ndarray) -> np.ndarray:
    """The left half on the right."""
    return np.roll(array, array.shape[1] // 2, 1)


PICTURES: dict[str, tuple[str, OfPicture]] = {
    "picture-mirrored": ("is mirrored", ImageOps.mirror),
    "picture-turned": ("is turned by a quarter", lambda p: p.transpose(Image.Transpose.ROTATE_90)),
    "picture-transposed": ("has its axes exchanged",
                           lambda p: p.transpose(Image.Transpose.TRANSPOSE)),
    "picture-upside-down": ("stands on its head", ImageOps.flip),
    "picture-red-and-blue": ("has red and blue exchanged", _array(lambda a: a[..., ::-1])),
    "picture-green-first": ("has its channels rotated", _array(lambda a: np.roll(a, 1, 2))),
    "picture-grey": ("loses its colours", lambda p: ImageOps.grayscale(p).convert("RGB")),
    "picture-negative": ("is a negative", lambda p: ImageOps.invert(p.convert("RGB"))),
    "picture-cropped": ("is cropped to its middle", cropped),
    "picture-boxed": ("is squeezed between black bars", boxed),
    "picture-corner-lost": ("loses a quarter", _array(corner_lost)),
    "picture-wrapped": ("overflows its eight bits", _array(wrapped)),
    "picture-halves-exchanged": ("has its halves exchanged", _array(halves_exchanged)),
    "picture-one-channel": ("is read from its red channel only",
                            _array(lambda a: np.repeat(a[..., :1], 3, 2))),
}  # fmt: skip
PICTURE_DOSES: dict[str, tuple[str, Callable[[float], OfPicture], tuple[float, ...]]] = {
    "picture-reduced": ("loses resolution", lambda d: reduced(int(d)), (16, 8)),
    "picture-blurred": ("is blurred",
                        lambda d: lambda p: p.filter(ImageFilter.GaussianBlur(d)), (8.0, 4.0)),
    "picture-posterised": ("has few bits", lambda d: posterised(int(d)), (1, 2)),
    "picture-moved": ("lies some pixels off",
                      lambda d: _array(lambda a: np.roll(a, int(d), 1)), (48, 24)),
}  # fmt: skip
GLUE = re.compile(r"[^\w\s]")


def _words(change: Callable[[list[str]], list[str]]) -> OfQuery:
    return lambda query: " ".join(change(query.split())) or "."


QUERIES: dict[str, tuple[str, OfQuery]] = {
    "query-first-word": ("is read up to its first word", _words(lambda w: w[:1])),
    "query-last-word": ("is read from its last word on", _words(lambda w: w[-1:])),
    "query-first-half": ("is read up to its middle", lambda q: q[: (len(q) + 1) // 2]),
    "query-second-half": ("is read from its middle on", lambda q: q[len(q) // 2 :]),
    "query-every-second": ("loses every second word", _words(lambda w: w[::2])),
    "query-longest-word": ("is reduced to its longest word",
                           _words(lambda w: [max(w, key=len)] if w else w)),
    "query-backwards": ("is read backwards", lambda q: q[::-1]),
    "query-templated": ("is put into a template that asks for everything",
                        lambda q: f"describe everything in the whole scene: {q}"),
    "query-capitals-lost": ("loses every word with a capital",
                            _words(lambda w: [x for x in w if x == x.lower()])),
    "query-punctuated-lost": ("loses every word with a sign next to it",
                              _words(lambda w: [x for x in w if not GLUE.search(x)])),
    "query-vowels-lost": ("loses its vowels", lambda q: re.sub("[aeiou]", "", q) or "."),
    "query-constant": ("is replaced by a fixed question", lambda _: "where is the orange fish?"),
}  # fmt: skip
QUERY_DOSES: dict[str, tuple[str, Callable[[float], OfQuery], tuple[float, ...]]] = {
    "query-cut": ("is cut after some words", lambda d: _words(lambda w: w[: int(d)]), (3, 6)),
    "query-tail": ("keeps its last words only", lambda d: _words(lambda w: w[-int(d) :]), (2, 5)),
    "query-clipped": ("is cut after some characters", lambda d: lambda q: q[: int(d)], (20, 40)),
}  # fmt: skip


def each(change: Callable[[object], object]) -> Callable[[Sequence[object]], Sequence[object]]:
    """Return the change of a batch that changes each entry by itself."""
    return lambda batch: [change(one) for one in batch]


def remembering(key: Callable[[str], object]) -> Callable[[Model], Model]:
    """Plant a cache of queries under too coarse a key."""

    def plant(model: Model) -> Model:
        kept: dict[object, str] = {}
        return entering(model, "queries", lambda batch: [kept.setdefault(key(q), q) for q in batch])

    return plant


def stale(root: str) -> Callable[[Model], Model]:
    """Plant a buffer that hands over the batch before, wherever its length allows."""

    def plant(model: Model) -> Model:
        last: dict[int, Sequence[object]] = {}

        def change(batch: Sequence[object]) -> Sequence[object]:
            before = last.get(len(batch), batch)
            last[len(batch)] = batch
            return before

        return entering(model, root, change)

    return plant


BATCHES: dict[str, tuple[str, Callable[[Sequence[object]], Sequence[object]]]] = {
    "batch-first-for-all": ("the first of a batch stands for all", lambda b: [b[0]] * len(b)),
    "batch-rolled": ("each gets that of its neighbour in the batch", lambda b: [*b[1:], b[0]]),
    "batch-sorted": ("a batch comes back in another order", lambda b: list(b)[::-1]),
}
CACHES: dict[str, tuple[str, Callable[[str], object]]] = {
    "query-cached-by-length": ("queries of one length share a cache entry", len),
    "query-cached-by-start": ("queries that begin alike share a cache entry", lambda q: q[:14]),
    "query-cached-by-end": ("queries that end alike share a cache entry", lambda q: q[-4:]),
}


def _one(name: str, root: str, said: str, change: Callable[..., object],
         strength: float | None = None) -> Operator:  # fmt: skip
    stage = "input" if root == "images" else "query"
    what = "the picture" if root == "images" else "the query"
    return Operator(
        name=name, stage=stage, sentence=f"{what} {said}", strength=strength,
        also=("encoder",) if root == "images" else (),
        plant=lambda model: entering(model, root, each(change)),
    )  # fmt: skip


def _batched(name: str, root: str) -> Operator:
    said, change = BATCHES[name]
    stage = "input" if root == "images" else "query"
    return Operator(
        name=named(name, root), stage=stage, sentence=f"of {root}, {said}",
        also=("runtime", *(("encoder",) if root == "images" else ())),
        plant=lambda model: entering(model, root, change),
    )  # fmt: skip


def operators() -> tuple[Operator, ...]:
    """Return every operator on pictures and queries."""
    found = [_one(named(n, "all"), "images", said, c) for n, (said, c) in PICTURES.items()]
    found += [
        _one(named(n, "all", dose), "images", said, make(dose), dose)
        for n, (said, make, doses) in PICTURE_DOSES.items()
        for dose in doses
    ]
    found += [_one(named(n, "all"), "queries", said, c) for n, (said, c) in QUERIES.items()]
    found += [
        _one(named(n, "all", dose), "queries", said, make(dose), dose)
        for n, (said, make, doses) in QUERY_DOSES.items()
        for dose in doses
    ]
    found += [_batched(name, root) for name in BATCHES for root in ("images", "queries")]
    for name, (said, key) in CACHES.items():
        found.append(
            Operator(name=named(name, "all"), stage="query", also=("runtime",), sentence=said,
                     plant=remembering(key))
        )  # fmt: skip
    for root in ("images", "queries"):
        found.append(
            Operator(name=named("batch-stale", root), stage="runtime",
                     also=("input", "encoder") if root == "images" else ("query",),
                     sentence=f"the {root} of the batch before are read", plant=stale(root))
        )  # fmt: skip
    return tuple(found)
