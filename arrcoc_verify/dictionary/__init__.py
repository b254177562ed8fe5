"""Dictionaries: sparse codes of a model's activations, conditional on the query where that helps."""

from arrcoc_verify.dictionary.architecture import ARCHITECTURES, Dictionary, DictionaryConfig

__all__ = ["ARCHITECTURES", "Dictionary", "DictionaryConfig"]
