"""A named identity that a model's own code can pass a value through, so that it becomes a site.

    relevance = tap("balancing.relevance", relevance)

Outside a run it returns its argument and costs one lookup.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Handler = Callable[[str, object], object]

_handler: ContextVar[Handler | None] = ContextVar("arrcoc_verify_tap", default=None)


def tap(name: str, value: T) -> T:
    """Return `value`, or what the current run writes in its place."""
    handler = _handler.get()
    return value if handler is None else handler(name, value)  # type: ignore[return-value]


@contextmanager
def tapping(handler: Handler) -> Iterator[None]:
    """Let `handler(name, value)` see, and replace, every tapped value inside the block."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)
