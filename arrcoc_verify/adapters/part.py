"""What an author says of a step or a site; whatever can be seen is left out."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from arrcoc_verify.errors import BadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One step as its author gives it; what is left out is told by the function itself.

    Attributes:
        run: function, method or module; returns a tensor, or a mapping or sequence of tensors.
        inputs: what it is called with; None means that its arguments are named like it: a root
            (`images`, `queries`), `image` (the pictures as a tensor), an earlier step, or an entry
            of an earlier step's mapping.
        stage: where it belongs, one of `STAGES`; None means by its role, or where the step before
            it belongs.
        axes: of its result, where the shape does not tell.
        transient: its result is large and cheap, so runs do not keep it.
        pure: it never writes into its inputs, so it need not be given copies.
    """

    run: Callable[..., Any]
    inputs: tuple[str, ...] | None = None
    stage: str | None = None
    axes: tuple[str, ...] | None = None
    transient: bool = False
    pure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a site that is not simply a step's result is found.

    Give one of `module`, `function` and `tap`, or none for the result of a step.

    Attributes:
        module: a torch module, or `<step>.<path in the step's module>`.
        argument: position or name of the module's *input* that is meant; None means its output.
        function: a plain function; found in every namespace that imported it by name.
        tap: name that the model's code passes to `arrcoc_verify.tap.tap`.
        step: the step in which it fires; None means the only one in which it does.
        key: entry of the mapping or sequence found there.
        axes: what each axis is; None means as its shape tells.
        role: one of `ROLES`; None means the word after the stage, where that is a role.
        channels: names of the channels.
        writable: False for a self-report; None means True unless nothing can read it.
    """

    module: nn.Module | str | None = None
    argument: int | str | None = None
    function: Callable[..., Any] | None = None
    tap: str | None = None
    step: str | None = None
    key: str | int | None = None
    axes: tuple[str, ...] | None = None
    role: str | None = None
    channels: tuple[str, ...] = ()
    writable: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what could mean two places."""
        given = [n for n in ("module", "function", "tap") if getattr(self, n) is not None]
        if len(given) > 1:
            raise BadModel(f"a site lies in one place: got {' and '.join(given)}, give one")
        if self.argument is not None and self.module is None:
            raise BadModel("`argument` means an input of a module: give `module` too")


def parameters(run: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments of a callable that can be named; none where it does not tell them."""
    try:
        signature = inspect.signature(run.forward if isinstance(run, nn.Module) else run)
    except (TypeError, ValueError):
        return {}
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: item for name, item in signature.parameters.items() if item.kind not in loose}
