"""The words that scenes are asked with; every one is chosen by a seed, none by a model.

Kinds of query: paraphrase, absent, nonsense, unspecific, anomaly, padding, other scripts.
"""

import unicodedata

import numpy as np

from arrcoc_verify.errors import BadQuery

# The first template is the plain one; paraphrases come from the rest.
TEMPLATES: tuple[str, ...] = (
    "where is the {}?",
    "find the {}",
    "look closely at the {}",
    "what does the {} look like?",
    "show me the {} in this picture",
    "can you see the {}, and where?",
    "describe the {} in detail",
)
UNSPECIFIC: tuple[str, ...] = (
    "describe everything",
    "what is in this picture?",
    "describe the whole image in detail",
    "tell me about this scene",
)
ANOMALY: tuple[str, ...] = (
    "anything odd here?",
    "what does not belong in this picture?",
    "is something out of place?",
)
# Objects that no fixture shows, so no scene can hold them.
ABSENT: tuple[str, ...] = (
    "submarine", "umbrella", "piano", "cactus", "bicycle", "octopus", "typewriter", "accordion",
    "lighthouse buoy", "pineapple", "telescope", "skateboard", "wine glass", "chess board",
)  # fmt: skip
ATTRIBUTES: tuple[str, ...] = ("colour", "size", "shape", "texture", "left edge", "shadow")
SYNONYMS: dict[str, str] = {
    "fish": "swimming animal with fins", "pliers": "gripping tool", "hammer": "tool for nails",
    "scissors": "shears", "measuring tape": "tape measure", "cup": "mug", "dog": "shepherd dog",
    "cat": "kitten", "koala": "marsupial", "crab": "crustacean", "pencil": "writing tool",
    "multimeter": "electrical tester", "wrench": "spanner", "pan": "skillet",
    "pillow": "cushion", "bucket": "pail", "screwdriver": "tool for screws", "plate": "dish",
    "light bulb": "lamp", "eraser": "rubber", "teacup": "cup and saucer", "pig": "hog",
    "polar bear": "arctic bear", "panda": "bamboo bear", "scarlet macaw": "large parrot",
    "weighing scale": "balance for weighing", "nail clippers": "nail cutter", "sheep": "ewe",
    "spray bottle": "bottle with a nozzle", "duck": "waterfowl", "chair": "seat",
}  # fmt: skip
# One question in several scripts; `{}` takes the label as it is.
SCRIPTS: dict[str, str] = {
    "el": "πού είναι το {};", "ru": "где находится {}?", "zh": "{}在哪里？",
    "ar": "أين {}؟", "hi": "{} कहाँ है?", "ja": "{}はどこですか？", "emoji": "🔎 {} ❓",
}  # fmt: skip
FILLER = "please answer carefully and take your time"
_SYLLABLES = ("blor", "vex", "quim", "dra", "fnu", "zol", "trep", "gaw", "mish", "opt", "kiv", "ru")


def check_query(query: object) -> str:
    """The query, if it is text that a person could have written.

    Any script and any length is fine; nothing is cut.

    Raises:
        BadQuery: it is not text, is empty, or holds control characters.
    """
    if not isinstance(query, str):
        raise BadQuery(f"wanted a query as text, got {type(query).__name__}: put it into quotes")
    if not query.strip():
        raise BadQuery("wanted a query with at least one word, got an empty one: say what to find")
    for place, character in enumerate(query):
        broken = unicodedata.category(character) in ("Cc", "Cs")
        if broken and character not in "\n\r\t":
            raise BadQuery(
                f"wanted readable text, got the control character U+{ord(character):04X} at "
                f"position {place}: remove it, or read the file with its right encoding"
            )
    return query


def ask(label: str, template: int = 0) -> str:
    """Asks for a label, with one of the templates (counted round)."""
    return TEMPLATES[template % len(TEMPLATES)].format(label)


def paraphrase(label: str, template: int = 0, colour: str = "") -> str:
    """Asks for the same thing with another template and, where there is one, a synonym."""
    return ask(f"{colour} {SYNONYMS.get(label, label)}".strip(), template + 1)


def ask_attribute(label: str, generator: np.random.Generator) -> str:
    """Asks for one attribute of a labelled object."""
    return f"what is the {_choose(ATTRIBUTES, generator)} of the {label}?"


def ask_absent(generator: np.random.Generator, template: int = 0) -> str:
    """Asks for an object that no fixture shows."""
    return ask(_choose(ABSENT, generator), template)


def unspecific(generator: np.random.Generator) -> str:
    """Asks for everything and nothing."""
    return _choose(UNSPECIFIC, generator)


def anomaly(generator: np.random.Generator) -> str:
    """Asks for whatever is out of place, without naming it."""
    return _choose(ANOMALY, generator)


def nonsense(query: str, generator: np.random.Generator) -> str:
    """As many words as the query has, about as long, without meaning."""
    words = []
    for word in query.split():
        made = ""
        while len(made) < max(len(word), 2):
            made += _choose(_SYLLABLES, generator)
        words.append(made)
    return " ".join(words)


def in_script(label: str, script: str) -> str:
    """Asks for a label in another script (see `SCRIPTS`)."""
    return SCRIPTS[script].format(label)


def pad(query: str, words: int) -> str:
    """The query followed by filler until it has at least so many words."""
    filler = FILLER.split()
    missing = max(words - len(query.split()), 0)
    return " ".join([query, *(filler[i % len(filler)] for i in range(missing))])


def _choose(options: tuple[str, ...], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]
