"""Checks of the model as a whole: it repeats itself, keeps no state, and couples no images."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.adapters.conformance.subject import (
    Judged,
    Subject,
    decided,
    differing,
    everything,
    kept_modes,
    listed,
    same,
    with_steps,
)
from arrcoc_verify.adapters.modules import modules_of
from arrcoc_verify.attach import copied
from arrcoc_verify.errors import ArrcocError, TrainingMode
from arrcoc_verify.graph import run
from arrcoc_verify.model import Allocation, Declaration, Step


def runs(subject: Subject) -> Judged:
    """It runs on test pictures and returns finite numbers."""
    found = subject.run()
    steps = len(subject.model.steps)
    return True, f"{len(found)} pictures through {steps} steps, all finite"


def deterministic(subject: Subject) -> Judged:
    """The same input gives the same bits."""
    one, other = (everything(subject.run(read=subject.firing)) for _ in range(2))
    moved = differing(one, other)
    if not subject.model.declaration.deterministic:
        note = "differs, as declared" if moved else "over-cautious: declared False, yet it repeats"
        return None, note
    if moved:
        return False, f"a second run differs at {listed(moved)}"
    return True, f"{len(one)} tensors have the same bits in a second run"


def stateless(subject: Subject) -> Judged:
    """What was run before, and in which order, does not matter."""
    first = subject.run([0, 1], read=subject.firing)
    held = everything(first)
    copies = {name: value.clone() for name, value in held.items()}
    subject.run([2, 3])
    moved = differing(copies, held)
    if moved:
        return (
            False,
            f"a later run overwrote an earlier result: {listed(moved)}; return new tensors",
        )
    moved = differing(copies, everything(subject.run([0, 1], read=subject.firing)))
    if moved:
        return False, f"after other pictures the same input gives other bits at {listed(moved)}"
    forth = [decided(subject.run([row])) for row in range(4)]
    back = [decided(subject.run([row])) for row in reversed(range(4))][::-1]
    moved = [name for one, other in zip(forth, back, strict=True) for name in differing(one, other)]
    if moved:
        return False, f"the order of pictures changes {listed(moved)}"
    return _follows_pictures(subject)


def _follows_pictures(subject: Subject) -> Judged:
    asked = Subject(
        model=subject.model,
        images=[subject.images[0], subject.images[2]],
        queries=["a query that was never asked before"] * 2,
    )
    one, other = decided(asked.run([0])), decided(asked.run([1]))
    if one and not differing(one, other):
        return False, (
            "another picture with the same query gave the same bits: results are kept by query, or "
            "the picture is ignored"
        )
    return True, "the same bits in every order of calls"


def inputs_untouched(subject: Subject) -> Judged:
    """Pictures, queries and the inputs of pure steps are not written to."""
    written: list[str] = []

    def watched(step: Step) -> Any:
        def run(*inputs: Any) -> Any:
            before = copied(list(inputs))
            output = step.run(*inputs)
            for source, old, new in zip(step.inputs, before, inputs, strict=True):
                if step.pure and isinstance(old, Tensor) and not same(old, new):
                    written.append(f"step {step.name!r} writes into {source!r} and declares pure")
            return output

        return run

    images = [picture.copy() for picture in subject.images]
    queries = list(subject.queries)
    run(with_steps(subject.model, watched), images, queries)
    if any(not _alike(*pair) for pair in zip(images, subject.images, strict=True)):
        written.append("a picture was changed in place (thumbnail, paste or draw): copy it")
    if queries != subject.queries:
        written.append("the list of queries was changed")
    if written:
        return False, listed(written)
    return True, "pictures, queries and the inputs of pure steps are as they were"


def _alike(one: Image.Image, other: Image.Image) -> bool:
    return (one.size, one.mode) == (other.size, other.mode) and one.tobytes() == other.tobytes()


def batch_invariant(subject: Subject) -> Judged:
    """An image's result does not depend on its neighbours in the batch."""
    declared = subject.model.declaration
    alone = subject.run(read=_inner_allocation(subject), batch_size=1).allocation
    worst, moved = 0.0, list[str]()
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]):
        for size in (2, 4):
            try:
                read = _inner_allocation(subject)
                found = subject.run(order, read=read, batch_size=size).allocation
            except (ArrcocError, RuntimeError, ValueError, IndexError) as error:
                return not declared.batch_invariant, f"a batch of {size} cannot be run: {error}"
            for place, row in enumerate(order):
                change, why = departure(alone, found, row, place, declared)
                worst = max(worst, change)
                moved += [f"picture {row}: {why}"] if why else []
    return _coupled(moved, worst, declared=declared.batch_invariant)


def _coupled(moved: list[str], worst: float, *, declared: bool) -> Judged:
    if declared and moved:
        return False, f"neighbours in the batch change {listed(moved, 2)}"
    if declared:
        return True, f"largest relative change of relevance {worst:.1e}"
    if moved:
        return True, f"it depends on its neighbours, as declared: {moved[0]}"
    return True, "over-cautious: declared False, yet neighbours changed nothing"


def _inner_allocation(subject: Subject) -> list[str]:
    roles = [subject.model.role(role) for role in ("relevance", "tokens", "membership")]
    return [site.name for site in roles if site is not None]


def departure(
    alone: Allocation, found: Allocation, row: int, place: int, declared: Declaration
) -> tuple[float, str]:
    """Return the relative change of relevance, and what departs beyond what is allowed.

    Relevance may move by the declared tolerance; tokens may differ only at a cut: by one step, on
    patches whose relevance is not told apart from that of a patch on the other side.
    """
    one, other = alone.relevance[row], found.relevance[place]
    scale = max(float(one.abs().max()), 1e-12)
    change = float((one - other).abs().max()) / scale
    if not change <= declared.tolerance:
        return change, f"relevance by {change:.1e} of its range"
    for name in ("tokens", "membership"):
        before = getattr(alone, name)[row].double()
        after = getattr(found, name)[place].double()
        if _beyond_a_cut(before, after, one, declared, rounds=name == "tokens"):
            count = int((before != after).sum())
            return (
                change,
                f"{name} of {count} patches, by up to {float((before - after).abs().max()):g}",
            )
    return change, ""


def _beyond_a_cut(
    before: Tensor, after: Tensor, relevance: Tensor, declared: Declaration, *, rounds: bool
) -> bool:
    moved = (before - after).abs()
    slack = declared.tolerance * max(float(before.abs().max()), 1.0)
    discrete = declared.integer or declared.ladder is not None or declared.lod is None
    flipped = moved > slack
    if not bool(flipped.any()):
        return False
    if not discrete:
        return True
    rounds = rounds and declared.integer and declared.ladder is None and declared.lod is not None
    near = 10 * declared.tolerance * max(float(relevance.abs().max()), 1e-12)
    for patch in flipped.nonzero().flatten().tolist():
        across = before == after[patch]  # patches that had before what this one has now
        close = (relevance - relevance[patch]).abs() <= near
        if not ((rounds and float(moved[patch]) <= 1) or bool((across & close).any())):
            return True
    return int(flipped.sum()) > max(2, len(before) // 50)


def training_refused(subject: Subject) -> Judged:
    """A module in training mode is known to the adapter, and refused."""
    parts = subject.parts()
    used = modules_of([step.run for step in subject.model.steps])
    unknown = [type(m).__name__ for m in used if all(m is not part for part in parts)]
    if unknown:
        return False, f"steps use {listed(unknown)}, which the model does not list in `modules`"
    if not parts:
        return None, "there are no torch modules"
    for root in subject.model.modules:
        with kept_modes(parts):
            root.train()
            try:
                subject.run([0])
            except TrainingMode:
                continue
            return False, f"{type(root).__name__} ran in training mode"
    return True, f"refused for each of {len(subject.model.modules)} modules"


def allocations(subject: Subject) -> Allocation:
    """Return what was allocated for all test pictures."""
    return subject.run(read=_inner_allocation(subject)).allocation


def lod_range(subject: Subject) -> Judged:
    """Tokens of kept patches lie in the declared range."""
    declared = subject.model.declaration
    if declared.lod is None:
        return None, "no level of detail is declared"
    found = allocations(subject)
    kept = found.tokens[found.membership]
    low, high = declared.lod
    slack = 0.0 if declared.integer else 1e-6 * max(abs(high), 1.0)
    if not kept.numel():
        return False, "no patch was kept"
    least, most = float(kept.min()), float(kept.max())
    if not (least >= low - slack and most <= high + slack):
        return False, f"tokens are {least:g}..{most:g}, declared {low:g}..{high:g}"
    return True, f"tokens are {least:g}..{most:g}"


def lod_ladder(subject: Subject) -> Judged:
    """Tokens take values of the declared ladder only."""
    ladder = subject.model.declaration.ladder
    if ladder is None:
        return None, "no ladder is declared"
    found = allocations(subject)
    kept = found.tokens[found.membership]
    rungs = torch.tensor(ladder, dtype=kept.dtype)
    off = kept[(kept[:, None] - rungs).abs().amin(1) > 1e-6]
    if off.numel():
        return False, f"{off.numel()} patches have tokens off the ladder, such as {float(off[0]):g}"
    return True, f"{len(kept.unique())} of {len(ladder)} rungs are used"


def lod_integer(subject: Subject) -> Judged:
    """Tokens are whole numbers."""
    if not subject.model.declaration.integer:
        return None, "fractions are declared"
    tokens = allocations(subject).tokens
    off = tokens[tokens != tokens.round()]
    if off.numel():
        return False, f"{off.numel()} patches have fractions of tokens, such as {float(off[0]):g}"
    return True, "tokens are whole numbers"


def conserved_total(subject: Subject) -> Judged:
    """The sum of tokens is the same for every input, and what is declared."""
    declared = subject.model.declaration
    if not declared.conserved_total:
        return None, "no conserved total is declared"
    sums = allocations(subject).tokens.sum(1)
    wanted = declared.total if declared.total is not None else float(sums[0])
    off = float((sums - wanted).abs().max())
    if not off <= (0.5 if declared.integer else 1e-6 * max(abs(wanted), 1.0)):
        spread = f"{float(sums.min()):g}..{float(sums.max()):g}"
        return False, f"sums are {spread}, wanted {wanted:g} for every picture"
    return True, f"every picture gets {wanted:g}"
