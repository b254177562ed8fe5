"""Repairs of planted failures: what they mend, what they leave alone, and how they are kept."""

import pytest
import torch

from arrcoc_verify.debug import derive
from arrcoc_verify.debug.patching import (
    PatchEdit,
    applied,
    load_patch,
    named_weight,
    save_patch,
    to_bytes,
    weights_edited,
    writer,
)
from arrcoc_verify.debug.planted import diagnose, plant
from arrcoc_verify.debug.repair import repair
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.graph import run


@pytest.fixture(scope="module")
def dim_demand(sound):
    (planted,) = plant(sound, names=["demand-dim-here"])
    return diagnose(planted).found


def tokens(model, cases):
    done = run(model, [case.image for case in cases], [case.query for case in cases])
    return done.allocation.tokens


def one(kind, **tensors):
    return PatchEdit(
        kind=kind, target="balancing.tensions",
        tensors={name: torch.as_tensor(value).double() for name, value in tensors.items()},
    )  # fmt: skip


def test_a_repair_mends_its_case_and_keeps_the_total(dim_demand, cases):
    made = repair(dim_demand)
    broken = dim_demand.bench.model
    mended = applied(broken, made.winner.edits)

    assert made.winner.mends
    assert made.winner.keeps_total
    assert made.winner.case_tokens_before < dim_demand.failure.goal.tokens
    assert made.winner.case_tokens_after >= dim_demand.failure.goal.tokens
    assert torch.equal(tokens(broken, cases).sum(1), tokens(mended, cases).sum(1))


def test_the_repair_with_the_fewest_worse_verdicts_wins(dim_demand):
    asked = []

    def screen(broken, mended, patterns):
        asked.append(mended.digest)
        return (("some claim",), ()) if len(asked) < 3 else ((), ("another",))

    made = repair(dim_demand, screen=screen)

    assert len(asked) == 3
    assert applied(dim_demand.bench.model, made.winner.edits).digest == asked[-1]
    assert made.winner.flipped_verdicts == ()


def test_each_sort_of_edit_is_screened_before_a_second_of_the_same(dim_demand):
    def sort(row):
        return tuple(
            (edit.kind, edit.target, edit.words.get("inputs"), "mask" in edit.tensors)
            for edit in row.edits
        )

    mending = [row for row in repair(dim_demand).tried if row.mends]
    sorts = {sort(row) for row in mending}
    made = repair(
        dim_demand, screen=lambda broken, mended, patterns: (("a claim",), ()), most=len(sorts)
    )
    screened = [sort(row) for row in made.tried if row.flipped_verdicts is not None]

    assert 1 < len(sorts) < len(mending)
    assert len(screened) == len(sorts)
    assert set(screened) == sorts


def test_a_saved_patch_gives_the_same_tokens_and_is_taken_back(tmp_path, dim_demand, cases):
    made = repair(dim_demand)
    broken = dim_demand.bench.model
    before = tokens(broken, cases)
    save_patch(tmp_path / "repair.safetensors", made.winner.edits, {"case": "a pencil"})
    edits, record = load_patch(tmp_path / "repair.safetensors")

    assert record == {"case": "a pencil"}
    wanted = tokens(applied(broken, made.winner.edits), cases)
    assert torch.equal(wanted, tokens(applied(broken, edits), cases))
    assert not torch.equal(before, wanted)
    assert torch.equal(before, tokens(broken, cases))


def test_the_same_edits_are_the_same_bytes(dim_demand):
    edits = repair(dim_demand).tried[0].edits
    written = {to_bytes(edits, {"case": "a pencil", "goal": ">= 300"}) for _ in range(20)}

    assert len(written) == 1
    assert (
        applied(dim_demand.bench.model, edits).digest
        == applied(dim_demand.bench.model, edits).digest
    )


def test_what_is_no_patch_is_refused(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"not a patch")

    with pytest.raises(BadModel, match="wanted a repair"):
        load_patch(tmp_path / "other.safetensors")


def test_a_rank_one_edit_moves_what_is_like_its_key_and_nothing_else(sound):
    site = sound.site("balancing.tensions")
    edit = one(
        "rank_one", key=[0.4, 0.0, 0.0], centre=[0.1, 0.5, 0.5], delta=[0.0, 0.0, 0.3], least=0.5
    )
    at_centre, half, alike = [0.1, 0.5, 0.5], [0.3, 0.1, 0.9], [0.5, 0.5, 0.5]
    moved = writer(edit, site)(torch.tensor([at_centre, half, alike]))

    torch.testing.assert_close(moved, torch.tensor([at_centre, half, [0.5, 0.5, 0.8]]))


def test_a_tilt_keeps_the_sum_of_weights(sound):
    site = sound.site("balancing.weights")
    log = torch.tensor([2.0, 1.0, 1.0]).log()
    moved = writer(one("tilt", log=log), site)(torch.tensor([[0.2, 0.2, 0.4]]))

    torch.testing.assert_close(moved, 0.8 * torch.tensor([[0.4, 0.2, 0.4]]))


def test_edits_of_weights_are_taken_back_to_the_byte():
    model = type("", (), {"modules": (torch.nn.Linear(2, 2),)})()
    weight = named_weight(model, "0.weight")
    before = weight.detach().clone()
    edit = PatchEdit(
        kind="weight", target="0.weight",
        tensors={"delta": torch.tensor([1.0, 0.0]), "key": torch.tensor([0.3, 0.7])},
    )  # fmt: skip

    with weights_edited(model, [edit]):
        torch.testing.assert_close(weight - before, torch.tensor([[0.3, 0.7], [0.0, 0.0]]))
    assert torch.equal(before, weight)
    with pytest.raises(UnknownName):
        named_weight(model, "0.wait")


def test_tokens_read_from_demand_and_multiplier_still_follow_the_multiplier(sound, cases):
    form, names = derive.forms_of(sound, "tokens")[0]
    clean = run(sound, [case.image for case in cases], [case.query for case in cases])
    read = [clean[name] for name in names]
    line = {"weight": torch.ones(1).double(), "bias": torch.tensor(0.0).double()}
    low, high = sound.declaration.lod
    knots = torch.tensor([0.0, 1.0]).double()
    edit = PatchEdit(
        kind="derive", target=sound.role("tokens").name,
        words={"form": form, "inputs": "|".join(names)},
        tensors={**line, "x": knots, "y": low + (high - low) * knots},
    )  # fmt: skip

    assert form == "product"
    product = derive.read_columns(sound, form, names, read)[..., 0]
    share = product.clamp(0, 1)
    got = tokens(applied(sound, [edit]), cases).double()
    torch.testing.assert_close(got, (low + (high - low) * share).round(), atol=1, rtol=0)
