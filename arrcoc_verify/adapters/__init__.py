"""Make a model under test from what a user names: an embedded one, a file, a factory, a folder."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from arrcoc_verify import _torchvision
from arrcoc_verify.adapters import budget
from arrcoc_verify.adapters.callables import describe, whole
from arrcoc_verify.adapters.declared import from_mapping, read_toml
from arrcoc_verify.adapters.locate import locate, told
from arrcoc_verify.adapters.part import Part, Place
from arrcoc_verify.adapters.weights import CONVERT, SUFFIXES, kind_of, refusal
from arrcoc_verify.errors import BadModel, UnknownName, UsageError
from arrcoc_verify.model import Model

__all__ = ["FORMS", "Part", "Place", "budget", "describe", "load", "whole"]

FORMS = (
    "reference:analytic, reference:trained[@WEIGHTS], FILE.toml, package.module:factory, "
    "FILE.py:factory or arrcoc01:FOLDER"
)
"""What a model can be named by."""

REFERENCES = ("analytic", "trained")


def load(spec: str) -> Model:
    """Return the model under test that `spec` names.

    Args:
        spec: one of `FORMS`. A factory takes no arguments and returns a `Model`, or a mapping of
            the arguments of `describe`; the working folder is importable.

    Raises:
        BadModel: it cannot be loaded, or not safely; says what was wanted and what to try.
        UnknownName: a name in it does not exist; the nearest is suggested.
    """
    _torchvision.prepare()  # a user's file may import timm
    try:
        model = _named(spec)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise told(f"model {spec!r} cannot be loaded", error) from error
    return replace(model, spec=spec)


def _named(spec: str) -> Model:
    kind, colon, rest = spec.partition(":")
    if kind == "reference" and colon:
        return _reference(rest)
    if kind == "arrcoc01" and colon:
        from arrcoc_verify.adapters.arrcoc01 import published

        return published(Path(rest))
    if spec.endswith(".toml"):
        return read_toml(Path(spec))
    if not colon and spec.endswith(SUFFIXES):
        raise BadModel(_not_a_model(Path(spec)))
    if not (kind and colon and rest):
        raise BadModel(f"{spec!r} names no model; wanted {FORMS}")
    return _made(spec)


def _reference(rest: str) -> Model:
    name, at, path = rest.partition("@")
    if name not in REFERENCES:
        raise UnknownName("reference model", name, REFERENCES)
    if at and name != "trained":
        raise BadModel(f"reference:{name} takes no weights; wanted reference:trained@FILE")
    make = importlib.import_module(f"arrcoc_verify.reference.{name}").model
    model = make(Path(path)) if at else make()
    if not isinstance(model, Model):
        raise BadModel(f"reference:{name} is not a model")
    return model


def _not_a_model(path: Path) -> str:
    if not path.is_file():
        return f"there is no file {path}, and weights alone are no model; wanted {FORMS}"
    kind = kind_of(path)
    if kind in ("pickle", "unknown"):
        return refusal(path, kind)
    return (
        f"{path} holds weights, and weights alone are no model: write a FILE.toml beside it with "
        "[[module]] make = 'FILE.py:Net', weights = "
        f"{path.name!r}; or {CONVERT}"
    )


def _made(spec: str) -> Model:
    factory = locate(spec)
    if isinstance(factory, Model):
        return factory
    if not callable(factory):
        raise BadModel(
            f"{spec!r} is a {type(factory).__name__}; wanted a Model or a function that returns one"
        )
    try:
        made = factory()
    except Exception as error:
        if isinstance(error, UsageError):
            raise
        raise told(f"the factory {spec!r} failed", error) from error
    if isinstance(made, Model):
        return made
    if isinstance(made, Mapping):
        return from_mapping(made)
    raise BadModel(
        f"the factory {spec!r} returned a {type(made).__name__}; wanted a Model (make one with "
        "arrcoc_verify.adapters.describe, or .whole for one torch module) or a mapping of its "
        "arguments"
    )
