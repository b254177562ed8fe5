"""Runs of a model that differs from another in few steps: what lies before them is taken over."""

from collections.abc import Sequence

from arrcoc_verify.attach import copied
from arrcoc_verify.faults.bench import sources_of_difference
from arrcoc_verify.graph import Chunk, Run, again, run
from arrcoc_verify.model import Model


def carried(model: Model, base: Run, read: Sequence[str]) -> Run:
    """Return `model` on the pictures and queries of a run of another model.

    Steps that both models have, with nothing that differs before them, give the same bits, so they
    are not computed again: a repair behind an encoder does not run the encoder.

    Args:
        model: what is run.
        base: run of the other model in which nothing was written.
        read: sites inside steps to keep.
    """
    sources = None if base.edits else sources_of_difference(model, base.model)
    if sources is None or "images" in sources:
        return run(model, base.images, base.queries, read=read)
    late = {name for source in sources for name in model.downstream(source)}
    known = {step.name for step in model.steps} - late
    chunks = [
        Chunk(
            rows=chunk.rows,
            # What a changed step reads is its own copy: it may write in place.
            outputs={
                name: copied(value) if name in sources else value
                for name, value in chunk.outputs.items() if name in known
            },
            read={
                name: value for name, value in chunk.read.items()
                if name in model.sites and model.sites[name].at.step in known
            },
        )
        for chunk in base.chunks
    ]  # fmt: skip
    start = Run(model=model, images=base.images, queries=base.queries, chunks=chunks)
    return again(start, sources, read=read)
