"""Texts that the text tower is taught with, and what each of them means."""

import numpy as np

from arrcoc_verify.reference.trained import words


class Sayings:
    """Draws texts and what they mean, for the text tower."""

    def __init__(self, contents: list[str], labels: list[str]) -> None:
        """Take the list of contents that the teacher has embedded."""
        self.contents = contents
        self.where = {text: index for index, text in enumerate(contents)}
        self.nouns = [(n, o, d) for n, o, d in words.nouns() if n in self.where]
        own = {f"{c} {x}" for c in words.COLOURS for x in (*labels, "thing")} | set(labels)
        self.own = [text for text in contents if text in own]
        self.plain = (words.EVERYTHING, words.ODD, words.NOTHING)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[list[str], list[int]]:
        """Return `count` texts and the numbers of their contents."""
        texts, which = [], []
        draws = rng.random((count, 2))
        for first, second in draws:
            if first < 0.08:
                place = int(rng.integers(3))
                texts.append(words.unnamed(words.KINDS[place + 1], rng))
                which.append(self.where[self.plain[place]])
                continue
            if first < 0.5:
                said = meant = self.own[int(rng.integers(len(self.own)))]
            else:
                meant, others, definition = self.nouns[int(rng.integers(len(self.nouns)))]
                said = meant
                if second < 0.25 and others:
                    said = others[int(rng.integers(len(others)))]
                elif second < 0.5 and definition:
                    said = definition
            texts.append(words.asked(said, rng))
            which.append(self.where[meant])
        return texts, which
