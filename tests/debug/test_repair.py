"""Repairs of planted failures: what they mend, what they leave alone, and how they are kept."""

from dataclasses import replace

import pytest
import torch

from arrcoc_verify.debug import derive, likeness, remedies
from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.diagnosis import no_donors
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
from arrcoc_verify.debug.places import MOVES, moves_of
from arrcoc_verify.debug.planted import diagnose, plant
from arrcoc_verify.debug.repair import MARGIN, Tried, repair
from arrcoc_verify.debug.repair import _rank as rank_of
from arrcoc_verify.debug.rewrite import with_write
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
    form, names = next(row for row in derive.forms_of(sound, "tokens") if row[0] == "product")
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

    product = derive.read_columns(sound, form, names, read)[..., 0]
    share = product.clamp(0, 1)
    got = tokens(applied(sound, [edit]), cases).double()
    torch.testing.assert_close(got, (low + (high - low) * share).round(), atol=1, rtol=0)


@pytest.mark.parametrize("form", ["level", "product"])
def test_tokens_written_anew_as_the_allocator_states_them_are_its_own(sound, cases, form):
    names = dict(derive.forms_of(sound, "tokens"))[form]
    edit = PatchEdit(
        kind="derive", target=sound.role("tokens").name,
        words={"form": form, "inputs": "|".join(names)},
        tensors=derive.plain(form, sound.declaration.lod),
    )  # fmt: skip
    capped = with_write(sound, sound.role("tokens").name, lambda t: t.clamp(max=100))

    assert not torch.equal(tokens(sound, cases), tokens(capped, cases))
    assert torch.equal(tokens(sound, cases), tokens(applied(capped, [edit]), cases))


def test_an_edit_by_likeness_acts_in_full_near_its_prototypes_and_not_beyond_its_reach(sound):
    features, demand = sound.site("knowing.query_features"), sound.role("demand")
    count = sound.declaration.patches
    vectors = torch.zeros(1, count, 2).double()
    vectors[0, :4, 0] = torch.tensor([0.0, 0.5, 0.75, 1.0]).double()  # distances from (0, 0)
    vectors[0, 4:] = 9.0
    numbers = {
        "prototypes": torch.zeros(1, 2).double(), "reach": torch.tensor(1.0).double(),
        "gain": torch.tensor(3.0).double(), "bias": torch.tensor(0.0).double(),
    }  # fmt: skip
    write = likeness.writer(sound, demand, {"inputs": features.name}, numbers)
    result = vectors if features.at.key is None else {features.at.key: vectors}
    made = write(torch.ones(1, count).double(), result)

    wanted = torch.ones(count).double()
    wanted[:3] = torch.tensor([3.0, 3.0, 2.0]).double()
    torch.testing.assert_close(made[0], wanted)


def test_an_edit_by_likeness_is_kept_and_mends_its_case(tmp_path, dim_demand):
    ((edit,), *_) = remedies.of_likeness(dim_demand)
    save_patch(tmp_path / "repair.safetensors", [edit], {})
    edits, _ = load_patch(tmp_path / "repair.safetensors")
    mended = Bench(applied(dim_demand.bench.model, edits), dim_demand.case, no_donors())

    assert edit.kind == "alike"
    assert mended.before >= dim_demand.failure.goal.tokens


@pytest.mark.parametrize(
    ("reads", "writes", "around"),
    [
        ("knowing.query_features", "balancing.relevance", True),
        ("knowing.query_features", "knowing.query_relevance", False),  # ahead of the scores
        ("knowing.query_relevance", "balancing.relevance", False),  # through a score
        ("balancing.features", "balancing.relevance", False),  # behind them
        ("knowing.query_features", "balancing.weights", False),  # no map
    ],
)
def test_a_way_around_the_scores_leads_from_before_them_to_a_map_behind(
    sound, reads, writes, around
):
    assert likeness.around_scores(sound, reads, writes) is around


def test_an_edit_around_the_scores_comes_after_all_that_mend_without():
    row = Tried(edits=(), case_tokens_before=1.0, case_tokens_after=2.0, mends=True)
    around, fewer, none = (
        replace(row, around=True, similar=(5, 5, 5)), replace(row, similar=(5, 0, 5)),
        replace(row, mends=False),
    )  # fmt: skip

    assert sorted([none, around, fewer], key=rank_of) == [fewer, around, none]


def test_the_edit_that_moves_least_elsewhere_is_always_screened(dim_demand):
    made = repair(dim_demand, screen=lambda broken, mended, patterns: (("a claim",), ()), most=2)
    mending = [row for row in made.tried if row.mends]
    screened = [row for row in mending if row.flipped_verdicts is not None]

    assert len(mending) > 2 == len(screened)
    assert min(row.collateral for row in mending) in [row.collateral for row in screened]


def test_an_edit_that_moves_what_was_right_is_beyond_the_margin():
    row = Tried(edits=(), case_tokens_before=1.0, case_tokens_after=2.0, mends=True)

    assert row.within
    assert replace(row, where_right=MARGIN).within
    assert not replace(row, where_right=MARGIN + 1e-9).within


@pytest.mark.parametrize("name", sorted(MOVES))
def test_a_displaced_map_is_moved_back_to_the_bit(sound, cases, name):
    site = sound.role("query_relevance")
    displaced = with_write(
        sound, site.name,
        lambda value: MOVES[name](value.reshape(-1, 16, 16)).reshape(value.shape),
    )  # fmt: skip
    edit = PatchEdit(kind="place", target=site.name, words={"operation": name})

    assert not torch.equal(tokens(sound, cases), tokens(displaced, cases))
    assert torch.equal(tokens(sound, cases), tokens(applied(displaced, [edit]), cases))
    assert moves_of((16, 16)) == list(MOVES)
    assert "with rows and columns exchanged" not in moves_of((8, 16))
