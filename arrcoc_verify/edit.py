"""One write into a site: a function, a value or a draw, everywhere or in a mask of patches.

An edit is data; nothing happens until a run uses it. What it writes to an image depends on that
image's place in the run, never on how the run was cut into batches.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.model import Site, spread

Write = Callable[[Tensor], Tensor]
Draw = Callable[[range], Tensor]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to write at a site.

    Attributes:
        site: name of the site.
        write: receives the activation, returns a new tensor of the same shape (never in place).
        value: set this in place of `write`: leading axis is the image, or size 1.
        draw: makes the value for the examples it is given by position, so that what an example gets
            does not depend on the size of the batch it goes through in.
        where: `[image, patch]` or `[patch]` mask; None writes everywhere.
        label: how reports call it.
    """

    site: str
    write: Write | None = None
    value: Tensor | None = None
    draw: Draw | None = None
    where: Tensor | None = None
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse edits that would do nothing or two things."""
        if sum(source is not None for source in (self.write, self.value, self.draw)) != 1:
            raise UsageError(
                f"edit of {self.site!r} needs exactly one of `write`, `value` and `draw`"
            )
        if self.where is not None and not bool(self.where.any()):
            raise UsageError(f"edit of {self.site!r} selects no patch, so it would do nothing")

    def require_length(self, count: int) -> None:
        """Raise when the edit is made for another number of images than `count`.

        Raises:
            ShapeMismatch: a value or mask has a leading axis that is neither 1 nor `count`; cut
                into batches it would be written to the wrong images without a word.
        """
        held = {"value": self.value}
        held["where"] = None if self.where is None or self.where.ndim == 1 else self.where
        for name, tensor in held.items():
            if tensor is not None and tensor.ndim and tensor.shape[0] not in (1, count):
                raise ShapeMismatch(
                    f"edit of {self.site!r}: `{name}` is for {tensor.shape[0]} images, the run has "
                    f"{count}; its leading axis must be the image (or have size 1)"
                )

    def part(self, rows: slice) -> "Edit":
        """Return the edit for a slice of the images."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            wide = tensor is not None and tensor.ndim > 0 and tensor.shape[0] > 1
            return tensor[rows] if wide and tensor is not None else tensor

        where = self.where if self.where is None or self.where.ndim == 1 else cut(self.where)
        value = cut(self.value) if self.draw is None else self.draw(range(rows.start, rows.stop))
        part = object.__new__(Edit)  # a slice may select no patch although the whole edit does
        for name, item in (
            ("site", self.site), ("write", self.write), ("value", value), ("draw", None),
            ("where", where), ("label", self.label),
        ):  # fmt: skip
            object.__setattr__(part, name, item)
        return part


def by_site(edits: Iterable[Edit], rows: slice) -> dict[str, list[Edit]]:
    """Return the edits for a slice of the images, in order, by the site they write."""
    found: dict[str, list[Edit]] = {}
    for edit in edits:
        found.setdefault(edit.site, []).append(edit.part(rows))
    return found


def apply(edit: Edit, site: Site, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the activation with the edit written into it, a new tensor.

    Raises:
        ShapeMismatch: what is written has another shape than what is there.
        UsageError: the edit wrote in place, which would reach aliases of the activation.
    """
    if edit.write is not None:
        # Torch's own count of in-place writes; what inference mode made has none, and refuses them.
        before = 0 if value.is_inference() else value._version  # noqa: SLF001
        new = edit.write(value)
        if not value.is_inference() and value._version != before:  # noqa: SLF001
            raise UsageError(f"the edit of {site.name!r} wrote in place; return a new tensor")
    elif edit.value is None:
        raise UsageError(f"edit of {site.name!r} draws by example: take its `part` first")
    else:
        new = edit.value.to(value.dtype).to(value.device)
        if new.shape != value.shape:
            try:
                new = new.expand(value.shape)
            except RuntimeError as error:
                raise ShapeMismatch(
                    f"site {site.name!r} holds {tuple(value.shape)}, the value to write has "
                    f"{tuple(new.shape)}"
                ) from error
    if new.shape != value.shape:
        raise ShapeMismatch(
            f"site {site.name!r} holds {tuple(value.shape)}, the edit returned {tuple(new.shape)}"
        )
    if edit.where is not None:
        new = torch.where(spread(edit.where.to(value.device), site, grid), new, value)
    return laid_out_like(new, value)


def laid_out_like(new: Tensor, value: Tensor) -> Tensor:
    """Return `new` in the memory layout of `value`: the last bit of a product can hang on it."""
    if new.layout != torch.strided or new.stride() == value.stride():
        return new
    copy = torch.empty_like(value, dtype=new.dtype)  # keeps the layout of what is dense
    return copy.copy_(new)
