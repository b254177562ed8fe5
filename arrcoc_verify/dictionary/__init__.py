"""Dictionaries: sparse codes of a model's activations, query-conditional where it helps."""

from arrcoc_verify.dictionary.architecture import ARCHITECTURES, Dictionary, DictionaryConfig

__all__ = ["ARCHITECTURES", "Dictionary", "DictionaryConfig"]
