"""The analytic model on scores that a test makes up: its own steps from the context on."""

import dataclasses

import torch
from PIL import Image

from arrcoc_verify.effect import frozen_for
from arrcoc_verify.graph import Run, resume, run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.model import SCORERS, Model, Step
from arrcoc_verify.reference import allocator, analytic


def small(scores, said, total) -> Model:
    """Return the model from its scores on.

    Args:
        scores: `[image, 3, patch]`.
        said: broad, odd and specific of each image.
        total: budget in tokens.
    """
    scores = torch.as_tensor(scores, dtype=torch.float64)
    query = torch.zeros(len(scores), 12, dtype=torch.float64)
    for row, (broad, odd, specific) in zip(query, said, strict=True):
        row[0], row[10], row[11] = specific, broad, odd

    def given_map(index):
        return lambda images: scores[:, index]

    whole = analytic.model()
    steps = [Step(name="query", run=lambda queries: query, inputs=("queries",))]
    steps += [
        Step(name=name, run=given_map(index), inputs=("images",))
        for index, name in enumerate(SCORERS)
    ]
    late = [step.name for step in analytic.STEPS].index("context")
    steps += analytic.STEPS[late:]
    spend = next(i for i, step in enumerate(steps) if step.name == "multiplier")
    steps[spend] = dataclasses.replace(
        steps[spend],
        run=lambda demand: allocator.solve_multiplier(
            demand, float(total), analytic.LOW, analytic.HIGH
        ),
    )
    names = {step.name for step in steps}
    return dataclasses.replace(
        whole,
        steps=tuple(steps),
        sites={name: site for name, site in whole.sites.items() if site.at.step in names},
        declaration=dataclasses.replace(
            whole.declaration, grid=(1, scores.shape[2]), total=float(total), batch_size=len(scores)
        ),
    )


def ran(scores, said, total) -> Run:
    """A finished run of the small model on given scores."""
    count = len(scores)
    return run(small(scores, said, total), [Image.new("RGB", (1, 1))] * count, ["x"] * count)


def edited(base, edits, kind):
    """The run with an edit, and with what `kind` holds held."""
    held = [] if kind == "total" else frozen_for(base.model, kind)
    return resume(base, edits=[*edits, *(freeze(name, base) for name in held)])
