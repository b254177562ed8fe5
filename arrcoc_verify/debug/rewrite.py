"""A model with something written at a site in every run: for repairs and planted failures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from arrcoc_verify.attach import attached, pick, put
from arrcoc_verify.errors import BadModel
from arrcoc_verify.model import Model, Output, Site, Step


def with_write(model: Model, site: str, write: Callable[..., Tensor], *extra: str) -> Model:
    """Return a model in which `write(activation, *extra results)` replaces a site's activation.

    Args:
        model: left as it is.
        site: name of the site.
        write: returns a new tensor of the same shape.
        extra: earlier steps (or `step.key`) whose results `write` also gets.
    """
    where = model.site(site)
    steps = [_written(step, where, write, extra, model) for step in model.steps]
    return replace(model, steps=tuple(steps))


def _written(
    step: Step, site: Site, write: Callable[..., Tensor], extra: Sequence[str], model: Model
) -> Step:
    if step.name != site.at.step:
        return step
    count = len(step.inputs)

    def run(*values: Any) -> Any:
        own, others = values[:count], values[count:]
        at = site.at
        if isinstance(at, Output):
            result = step.run(*own)
            return put(result, at.key, write(pick(result, at.key, site), *others))
        with attached([site], lambda _, value: write(value, *others), model.modules):
            return step.run(*own)

    return replace(step, run=run, inputs=(*step.inputs, *extra))


def with_pictures(model: Model, change: Callable[[Image.Image], Image.Image]) -> Model:
    """Return a model that is shown each picture after `change`."""
    return _with_root(model, "images", lambda images: [change(image) for image in images])


def with_queries(model: Model, change: Callable[[str], str]) -> Model:
    """Return a model that is asked each query after `change`; what gets empty stays as it was."""
    return _with_root(
        model, "queries", lambda texts: [change(text).strip() or text for text in texts]
    )


def _with_root(model: Model, root: str, change: Callable[[Any], Any]) -> Model:
    steps = []
    for step in model.steps:
        places = [k for k, source in enumerate(step.inputs) if source == root]
        steps.append(_changed(step, places, change) if places else step)
    if all(new is old for new, old in zip(steps, model.steps, strict=True)):
        raise BadModel(f"no step of {model.name!r} reads {root!r}, so they cannot be changed")
    return replace(model, steps=tuple(steps))


def _changed(step: Step, places: Sequence[int], change: Callable[[Any], Any]) -> Step:
    def run(*values: Any) -> Any:
        given = list(values)
        for place in places:
            given[place] = change(given[place])
        return step.run(*given)

    return replace(step, run=run)
