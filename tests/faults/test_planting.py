"""General operators go into any model by role, and change what they say and nothing else."""

import dataclasses

import pytest
import torch

from arrcoc_verify.faults import general, oracle, twin
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.general import faults_of, maps, operators
from arrcoc_verify.faults.planting import at, behind, entering, map_at, vector_at
from arrcoc_verify.graph import run
from arrcoc_verify.lab import NotApplicable
from arrcoc_verify.model import Declaration, Model, ModuleOutput, Output, Site, Step
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from tests.unit.small_models import conserved, pictures, pixels, queries


@pytest.fixture(scope="module")
def sound():
    return analytic.model()


@pytest.fixture(scope="module")
def few():
    found = scenes("select", per_cluster=1)[:2]
    return [s.image for s in found], [s.query for s in found]


def test_names_are_unique_and_there_are_more_than_a_hundred_faults_over_the_stages():
    names = [one.name for one in operators()]
    assert len(names) == len(set(names)) > 100
    stages = {one.stage for one in operators()}
    assert {"input", "query", "knowing", "balancing", "attending", "runtime", "report"} <= stages


def test_a_fault_at_a_site_is_seen_at_the_site_and_downstream(sound, few):
    faulty = map_at(sound, "salience", maps.flipped)
    before, after = run(sound, *few), run(faulty, *few)
    expected = maps.flipped(before["knowing.salience"].unflatten(1, (16, 16))).flatten(1)
    assert torch.equal(expected, after["knowing.salience"])
    assert torch.equal(before["knowing.information"], after["knowing.information"])
    assert not torch.equal(before["attending.tokens"], after["attending.tokens"])


def test_a_fault_behind_a_site_is_seen_downstream_only(sound, few):
    faulty = behind(sound, "weights", lambda value: value.roll(1, 1))
    before, after = run(sound, *few), run(faulty, *few)
    assert torch.equal(before["balancing.weights"], after["balancing.weights"])
    assert not torch.equal(before["balancing.mix"], after["balancing.mix"])


def test_a_change_on_the_way_in_reaches_every_reader_of_that_root(sound, few):
    faulty = entering(sound, "queries", lambda batch: ["find the green cup"] * len(batch))
    assert torch.equal(
        run(sound, few[0], ["find the green cup"] * 2)["attending.tokens"],
        run(faulty, *few)["attending.tokens"],
    )


def test_what_a_model_lacks_is_no_place_for_a_fault(sound):
    for plant in (
        lambda: at(sound, "membership", torch.zeros_like),
        lambda: at(sound, "information", lambda value, _: value, "tokens"),
        lambda: vector_at(sound, "relevance", torch.zeros_like),
        lambda: map_at(sound, "weights", torch.zeros_like),
    ):
        with pytest.raises(NotApplicable):
            plant()


def test_general_faults_go_into_a_model_that_nobody_thought_of():
    found = faults_of(conserved)
    asked = pictures(3), queries(3)
    before = run(conserved(), *asked).allocation.tokens
    one = next(f for f in found if f.name == "tokens-moved-down:tokens")
    assert not torch.equal(before, run(one.make(), *asked).allocation.tokens)
    assert not {f.name for f in found} & {"map-flipped:salience", "vector-rolled:weights"}


class Scored(torch.nn.Module):
    """A score inside a module: the mean of a pixel's channels."""

    def forward(self, values):
        return values.mean(2)


def test_a_fault_goes_into_a_module_and_whoever_reads_the_site_sees_it():
    module = Scored().eval()
    steps = (
        Step(name="pixels", run=pixels, inputs=("images",)),
        Step(name="scored", run=lambda x: module(x) * 2, inputs=("pixels",)),
    )
    sites = [
        Site(name="knowing.salience", stage="knowing", axes=("image", "patch"), role="salience",
             at=ModuleOutput(step="scored", module=module)),
        Site(name="attending.tokens", stage="attending", axes=("image", "patch"), role="tokens",
             at=Output(step="scored")),
    ]  # fmt: skip
    sound = Model(
        name="inside", steps=steps, sites={one.name: one for one in sites}, modules=(module,),
        declaration=Declaration(grid=(2, 2), image_size=(2, 2), integer=False, lod=None),
    )  # fmt: skip
    asked, read = (pictures(2), queries(2)), ["knowing.salience"]
    before = run(sound, *asked, read=read)
    after = run(map_at(sound, "salience", maps.mirrored), *asked, read=read)
    flipped = before["knowing.salience"].reshape(-1, 2, 2).flip(2).flatten(1)
    assert torch.equal(flipped, after["knowing.salience"])
    assert torch.equal(2 * flipped, after["attending.tokens"])
    assert not module._forward_hooks


def test_each_making_of_a_memory_starts_empty(few):
    one = next(f for f in faults_of(analytic.model) if f.name.startswith("state-stale:"))
    first = run(one.make(), *few)["attending.tokens"]
    assert torch.equal(first, run(one.make(), *few)["attending.tokens"])


@pytest.fixture(scope="module")
def reference():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "ROLES", ("repair-confirm",))
        yield oracle.reference_of(analytic.model())


def named(name):
    return next(f for f in (*faults_of(analytic.model),) if f.name == name)


@pytest.fixture(autouse=True)
def one_role(monkeypatch):
    monkeypatch.setattr(oracle, "ROLES", ("repair-confirm",))


def test_the_oracle_finds_no_difference_in_a_model_and_its_copy(reference):
    found = oracle.compare(analytic.model(), reference)
    assert not found.is_so
    assert "presumed equivalent" in found.why()


@pytest.mark.parametrize("one", general.harmless.operators(), ids=lambda one: one.name)
def test_what_is_proven_harmless_changes_nothing(one, reference):
    assert one.equivalent
    assert not oracle.compare(one.plant(analytic.model()), reference).is_so


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vector-rolled:weights", "moves a patch"),
        ("report-exchanged:weights", "reports"),
        ("tokens-one-more:tokens", "the total"),
        ("state-jittered:multiplier", "moves a patch"),
    ],
)
def test_the_oracle_says_what_a_fault_changes(name, part, reference):
    found = [f for f in faults_of(analytic.model) if f.name == name]
    found = found or [f for f in faults_of(analytic.model) if f.name.startswith(name.split(":")[0])]
    judged = oracle.judge(found[0], reference)
    assert judged.is_so
    assert part in judged.why()


def test_a_crash_is_said_and_is_not_killable(reference):
    def crash(_value):
        raise RuntimeError("no memory left")

    found = oracle.compare(at(analytic.model(), "relevance", crash), reference)
    assert not found.is_so
    assert "no memory left" in found.crashed


def test_the_suite_is_never_judged_on_its_own_photographs():
    own = {s.unit for role in ("assert", "select") for s in scenes(role, per_cluster=3)}
    assert not own & {s.unit for s in oracle.probing_scenes(analytic.model())}


@pytest.mark.parametrize(
    ("name", "stage"),
    [("map-flipped:salience", "knowing"), ("vector-rolled:weights", "balancing"),
     ("tokens-moved:tokens", "attending"), ("query-backwards:all", "query")],
)  # fmt: skip
def test_the_sound_stage_makes_the_difference_vanish(name, stage, reference):
    one = named(name)
    assert stage == twin.locate(one.make(), one.sound(), reference)


def test_a_fault_that_is_built_by_hand_can_have_several_owners():
    one = Fault(name="a:b@2", stage="runtime", also=("knowing",), sentence="", make=Model)
    assert ("a", {"runtime", "knowing"}) == (one.operator, set(one.owners))
    assert dataclasses.replace(one, also=()).owners == {"runtime"}
