"""A second cause behind the first: what keeps the region behind its like once the first is mended.

A part that is put right by its contract may give more than a sound one would, and so make up for
another fault. Put right in the donors as well, it no longer favours the case: if the region still
falls behind all of them, and one other part as donors have it brings it back, that part is at
fault, too.
"""

from dataclasses import replace
from functools import partial

from arrcoc_verify.debug import by_donors
from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.experiment import Evidence, Trial, attempted, judged
from arrcoc_verify.debug.failure import is_failure
from arrcoc_verify.debug.parts import Part, View, Workshop, can_join


def second_part(
    bench: Bench, first: Part, trial: Trial, missing: list[str]
) -> tuple[Part | None, list[Evidence]]:
    """Return the part that is at fault besides the first one, or None, and what was tried.

    Both together keep the goal, and bring the region back among its like.

    Args:
        bench: the case and its donors.
        first: a part that brings tokens back, all or some.
        trial: on which it was found.
        missing: experiments that could not be made, and why.
    """
    if trial.basis != "contract" or not bench.donors.scenes or trial.shop.goal.sign < 0:
        return None, []
    like = first.restored(bench, trial.shop.donor_view()).run
    alone = View(run=bench.clean, cells=bench.case.cells[None], draws=[0])
    clean = first.restored(bench, alone).run
    after = Bench(bench.model, bench.case, replace(bench.donors, ran=like), bench.seed, clean)
    still = is_failure(after, None)
    if still.answer != "yes":
        return None, []
    goal = still.goal
    inner = Trial(Workshop(bench=after, goal=goal, keep=after.right(goal)), "donors")
    tried = []
    for part in by_donors.parts(inner.shop):
        got = attempted(missing, part.said, partial(inner.evidence, [part]))
        if got is not None:
            words = f"{part.said}, once {first.said}, in the case and in donors"
            tried.append((part, replace(got, experiment=words, part=f"{first.name}>{part.name}")))
    evidence = [replace(one, code=f"{first.code}+{one.code}") for _, one in tried]
    wanted = trial.shop.goal
    mending = [
        (part, one) for part, one in tried
        if one.restores == "yes" and part.role and can_join((first, part))
        and judged(wanted, after.tokens(inner.view([part]).run)) == "yes"
    ]  # fmt: skip
    if not mending:
        return None, evidence
    return max(mending, key=lambda row: abs(row[1].effect))[0], evidence
