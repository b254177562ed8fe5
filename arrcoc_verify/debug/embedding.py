"""What the query means to the model: other embeddings in its place, and what scorers then see."""

from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.debug.bench import Bench, repeated
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.competition import covered
from arrcoc_verify.debug.experiment import Evidence
from arrcoc_verify.debug.upstream import Upstream
from arrcoc_verify.graph import Edit, Run, resume
from arrcoc_verify.intervention import freeze
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Site

SMALL = 64
"""Channels up to which each is tried alone, as long as an embedding usually is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """The case with other embeddings written in the place of its query's.

    Attributes:
        site: where they were written.
        bank: `[embedding, channel]`.
        run: the case, once for each.
    """

    site: Site
    bank: Tensor
    run: Run


def written(bench: Bench, *, held: bool) -> Embeddings | None:
    """Return the case under the donors' embeddings, and in small spaces under each axis.

    Args:
        bench: the case.
        held: keep weights and tensions as they are.
    """
    site = bench.writable("query")
    if site is None or site.axes != ("image", "channel") or not bench.donors.scenes:
        return None
    bank = bench.donors.run[site.name].double().unique(dim=0)
    if bank.shape[1] <= SMALL:
        size = bank.norm(dim=1).median()
        size = size if float(size) > 0 else torch.ones_like(size)  # a severed query may be all 0
        bank = torch.cat([bank, torch.eye(bank.shape[1], dtype=bank.dtype) * size])
    base = repeated(bench.clean, len(bank))
    like = bench.clean[site.name]
    sites = [bench.writable(role) for role in ("weights", "tensions")]
    holds = [freeze(one.name, base) for one in sites if one is not None and held]
    edits = [Edit(site=site.name, value=bank.to(like.dtype)), *holds]
    return Embeddings(site=site, bank=bank, run=resume(base, edits=edits, read=bench.inner))


def _of_content(bench: Bench, made: Embeddings, tried: Tensor, seen: Tensor) -> Tensor:
    """Return which embeddings answer to what is in the region: covered, it scores half at most.

    A map that is moved about may bring the score of other content to the region's place.
    """
    rows = torch.nonzero(tried).flatten()
    if not len(rows):
        return tried
    bare = bench.run_on([covered(bench, bench.case.cells)], [bench.case.query])
    like = bare[made.site.name]
    edit = Edit(site=made.site.name, value=made.bank[rows].to(like.dtype))
    found = bench.map(resume(repeated(bare, len(rows)), edits=[edit], read=bench.inner),
                      "query_relevance")  # fmt: skip
    if found is None:
        return tried
    cells = bench.case.cells.expand(len(rows), -1)
    least = seen[rows].amin(1)
    with_it, without = mean_over(seen[rows], cells) - least, mean_over(found, cells) - least
    answers = torch.zeros_like(tried)
    answers[rows] = without <= 0.5 * with_it
    return answers


def of_embedding(bench: Bench, goal: Goal, wanted: float, *, held: bool = True) -> Upstream:
    """Write other embeddings of the same length: does the scorer then see what it should?

    Args:
        bench: the case.
        goal: what the region should get.
        wanted: mean query relevance of the region that has to be reached.
        held: keep weights and tensions as they are.
    """
    found = Upstream()
    made = written(bench, held=held)
    if made is None:
        return found
    seen, tokens = bench.map(made.run, "query_relevance"), bench.tokens(made.run)
    if seen is None:
        return found
    level = mean_over(seen, bench.case.cells.expand(len(seen), -1))
    ok = goal.met(tokens) & (level >= wanted)
    ok &= _of_content(bench, made, ok, seen)
    best = int((tokens * goal.sign).argmax())
    change = (tokens - bench.before).numpy()
    found.evidence.append(
        Evidence(
            experiment=f"the best of {len(made.bank)} other embeddings of usual length "
            f"({int(ok.sum())} let the scorer reach, by what is there, the level that mends it)",
            code="query_mismatch",
            effect=float(change[best]), interval=(float(change.min()), float(change.max())),
            tokens=float(tokens[best]), restores="yes" if ok.any() else "no", basis="query",
            part="embedding", n=len(made.bank), role="query",
        )
    )  # fmt: skip
    if ok.any():
        found.code = "query_mismatch"
        found.detail = "with another embedding the scorer finds the region, so it is not blind"
    return found
