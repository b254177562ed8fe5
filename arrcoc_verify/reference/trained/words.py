"""What is said while training: contents (what is meant) and the many ways to ask for them.

The text tower learns to give a question the embedding that its teacher gives to the content alone,
so that templates, preambles and definitions move it little. Nouns and definitions are ImageNet's
21,843 synsets (WordNet), which timm carries.
"""

import importlib.resources
from collections.abc import Sequence

import numpy as np

from arrcoc_verify import _torchvision
from arrcoc_verify.scenes import queries
from arrcoc_verify.scenes.colour import TINTS

COLOURS = tuple(TINTS)
"""Colours that composed objects have; an object without one keeps its own."""
EVERYTHING, ODD, NOTHING = "everything in the scene", "something odd or unusual", "nothing"
"""Contents of queries that name no object: unspecific, after an anomaly, without meaning."""
FRAMES = (
    *queries.TEMPLATES,
    "{}", "the {}", "a {}", "a photo of a {}", "where can I find the {}?", "point at the {}",
    "is there a {}?", "I am looking for the {}", "zoom in on the {}", "tell me about the {}",
    "which part of the image shows the {}?", "give the {} more attention", "locate the {} please",
    "how big is the {}?", "what is written on the {}?", "read the mark on the {}",
    "what is the colour of the {}?", "what is the shape of the {}?", "count the {}",
    "what is on the {}?", "what is next to the {}?",
)  # fmt: skip
PREAMBLES = (
    "please", "hello, could you help me?", "look at this picture carefully.", "quickly now:",
    "answer in one sentence:", "take all the time you need and answer with great care:",
    "I have a question about this photograph, and here it is:", "as an expert,",
    "you will be shown an image; do what it says next.",
)  # fmt: skip
BROAD = (
    *queries.UNSPECIFIC, "describe everything in the picture", "what do you see?",
    "summarise the whole scene", "give an overall description", "list all that is here",
    "describe all of it", "what is shown overall?", "explain the whole photograph",
)  # fmt: skip
STRANGE = (
    *queries.ANOMALY, "is there anything unusual?", "find the anomaly", "what looks strange?",
    "does anything look wrong?", "what is surprising in this image?", "spot the odd one out",
    "is something not as it should be?",
)  # fmt: skip
KINDS = ("named", "broad", "odd", "nothing")
"""What a query asks for: a thing, everything, an anomaly, or nothing that has a meaning."""


def alike(one: str, other: str) -> bool:
    """Return whether one label may stand for the other, as "fish" for "goldfish".

    A query for either has no single answer where both are shown.
    """
    a, b = one.rstrip("s"), other.rstrip("s")
    return a.endswith(b) or b.endswith(a)


def nouns() -> list[tuple[str, tuple[str, ...], str]]:
    """Return (first lemma, other lemmas, definition) of every synset that timm carries."""
    _torchvision.prepare()
    info = importlib.resources.files("timm.data") / "_info"
    lemmas = _table((info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8"))
    meant = _table((info / "imagenet_synset_to_definition.txt").read_text(encoding="utf-8"))
    found = []
    for synset, text in sorted(lemmas.items()):
        first, *others = [word.strip().lower() for word in text.split(",")]
        found.append((first, tuple(others), meant.get(synset, "").lower()))
    return found


def classes() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in the order of a classifier's outputs."""
    _torchvision.prepare()
    info = importlib.resources.files("timm.data") / "_info"
    lemmas = _table((info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8"))
    order = (info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [lemmas[synset] for synset in order]


def _table(text: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def contents(labels: Sequence[str]) -> list[str]:
    """Return every content that is embedded by the teacher, without repeats, in a fixed order."""
    every = [first for first, _, _ in nouns()]
    coloured = [f"{colour} {label}" for label in labels for colour in COLOURS]
    alone = [f"{colour} thing" for colour in COLOURS]
    return list(dict.fromkeys([*labels, *every, *coloured, *alone, EVERYTHING, ODD, NOTHING]))


def asked(content: str, generator: np.random.Generator) -> str:
    """Return one of many ways to ask for a content."""
    text = FRAMES[int(generator.integers(len(FRAMES)))].format(content)
    if generator.random() < 0.25:
        text = f"{PREAMBLES[int(generator.integers(len(PREAMBLES)))]} {text}"
    if generator.random() < 0.1:
        text = queries.pad(text, int(generator.integers(8, 24)))
    return text


def unnamed(kind: str, generator: np.random.Generator) -> str:
    """Return a query of a kind that names no object."""
    if kind == "nothing":
        return queries.nonsense(asked("thing over there", generator), generator)
    among = BROAD if kind == "broad" else STRANGE
    text = among[int(generator.integers(len(among)))]
    return f"{PREAMBLES[0]} {text}" if generator.random() < 0.15 else text
