import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary import conditioning, planted, stillness
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.conditioning import (
    ARMS,
    Fit,
    bits_of_hits,
    compared,
    query_bits,
    smuggling,
    trained,
)
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.rotation import RotationTest, Still, _decided, rotation_test, score
from arrcoc_verify.dictionary.training import Recipe
from arrcoc_verify.dictionary.twins import matched, shuffled
from arrcoc_verify.dictionary.worlds import World
from arrcoc_verify.errors import UsageError


def small(kind):
    return replace(World.make(kind, seed=0), held=2048)


def true_dictionary(world, threshold=0.4):
    """The world's own directions, as a dictionary that knows the truth."""
    features, channels = world.directions.shape
    made = Dictionary(
        DictionaryConfig(d_in=channels, latents=features, k=2, query=world.phrases.shape[-1])
    )
    with torch.no_grad():
        made.W_dec.copy_(world.directions)
        made.W_enc.copy_(world.directions)
        made.threshold.fill_(threshold)
    return made


def test_a_matched_twin_has_as_many_parameters():
    config = DictionaryConfig(d_in=24, latents=96, k=2, query=12)
    wide, narrow = (Dictionary(c).parameter_count() for c in (matched(config), config))
    assert abs(wide - narrow) <= 24 + 24 + 1
    assert matched(config).query == 0


def test_shuffling_moves_queries_and_nothing_else():
    samples = small("prior").held_out()
    mixed = shuffled(samples, 3)
    assert torch.equal(mixed.x, samples.x)
    assert torch.equal(mixed.query.sum(0), samples.query.sum(0))
    assert not torch.equal(mixed.query, samples.query)


def test_one_seed_proves_nothing():
    world = small("prior")
    case = planted.case_of(world)
    with pytest.raises(UsageError, match="one seed"):
        trained(case, planted.config_of(world), Recipe(steps=1), [0])
    config = replace(planted.config_of(world), query=0)
    with pytest.raises(UsageError, match="no query"):
        trained(case, config, Recipe(steps=1), [0, 1, 2])


def test_kept_fits_are_taken_for_the_same_training_only(tmp_path, monkeypatch):
    world = small("prior")
    case, config = planted.case_of(world), planted.config_of(world)
    made = trained(case, config, Recipe(steps=2), range(3), folder=tmp_path)

    def none(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(conditioning, "Trainer", none)
    again = trained(case, config, Recipe(steps=2), range(3), folder=tmp_path)
    for name in made:
        for one, two in zip(made[name], again[name], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(
                one.state_dict().values(), two.state_dict().values(), strict=True
            ))  # fmt: skip
    other = planted.case_of(replace(World.make("prior", seed=1), held=2048))
    for changed in ((case, Recipe(steps=3)), (other, Recipe(steps=2))):
        with pytest.raises(AssertionError, match="trained again"):
            trained(changed[0], config, changed[1], range(3), folder=tmp_path)


def exact():
    """A world whose features do not overlap, so that the true dictionary is exact."""
    return replace(World.make("prior", seed=0), held=8192, directions=torch.eye(96), noise=0.02)


def test_smugglers_are_caught_and_an_honest_dictionary_is_not():
    world = exact()
    honest, twin = true_dictionary(world), true_dictionary(world)
    with torch.no_grad():
        honest.W_query.copy_(0.02 * world.chance.logit())
        found = smuggling(planted.case_of(world), [honest], [twin])
    assert found.passed
    assert found.null_image < 1e-9
    bad = planted.smugglers(world, honest, twin)
    assert [one["caught"] for one in bad.values()] == [False, True]  # a push this small is none
    with torch.no_grad():
        honest.W_query.copy_(world.chance.logit() * 0.3 + 1)
    bad = planted.smugglers(world, honest, twin)
    assert [one["caught"] for one in bad.values()] == [True, True]
    assert bad["draws the query"]["null_image"] > 0.01


def test_a_smuggler_is_made_of_gates_whose_magnitudes_know_no_query():
    world = exact()
    features, channels = world.directions.shape
    config = DictionaryConfig(
        architecture="gated", d_in=channels, latents=features, k=2, query=world.phrases.shape[-1]
    )
    honest = Dictionary(config)
    with torch.no_grad():
        honest.W_dec.copy_(world.directions)
        honest.W_enc.copy_(world.directions)
        honest.W_query.copy_(0.02 * world.chance.logit())
        honest.b_enc.fill_(-0.3)
    before = {name: value.clone() for name, value in honest.state_dict().items()}
    bad = planted.smugglers(world, honest, true_dictionary(world))["fires on the query"]
    assert bad["caught"]
    assert bad["probe"] > 0.9
    assert all(torch.equal(before[name], value) for name, value in honest.state_dict().items())


def test_an_exact_code_has_the_planted_information():
    world = exact()
    made = true_dictionary(world)
    with torch.no_grad():
        found = smuggling(planted.case_of(world), [made], [made])
    assert found.bits == pytest.approx(world.bits, rel=0.05)


@pytest.mark.parametrize("chance", [1e-4, 1e-3, 1e-2, 0.1, 0.5])
def test_firing_that_the_query_says_nothing_of_has_no_bits_however_rare(chance):
    generator = torch.Generator().manual_seed(0)
    fires = torch.rand(16384, 384, generator=generator) < chance
    asked = torch.randint(60, (16384,), generator=generator)
    assert abs(query_bits(fires, asked)) < 0.05


@pytest.mark.parametrize(("some", "none"), [(0.2, 0.002), (0.02, 0.0002)])
def test_planted_bits_are_counted(some, none):
    generator = torch.Generator().manual_seed(1)
    asked = torch.randint(12, (65536,), generator=generator)
    likely = torch.arange(96) % 12 == asked[:, None]
    fires = torch.rand(likely.shape, generator=generator) < torch.where(likely, some, none)

    def entropy(p):
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    mean = (some + 11 * none) / 12
    known = 96 * (entropy(mean) - (entropy(some) + 11 * entropy(none)) / 12)
    assert query_bits(fires, asked) == pytest.approx(known, rel=0.05)


def test_bits_of_hits_are_those_of_a_channel_that_errs_evenly():
    even = torch.ones(8)
    assert bits_of_hits(1.0, even) == pytest.approx(3.0)
    assert bits_of_hits(1 / 8, even) == 0.0
    assert bits_of_hits(0.0, even) == 0.0  # worse than guessing says nothing
    assert bits_of_hits(0.5, even) == pytest.approx(3 - 1 - 0.5 * np.log2(7))
    assert bits_of_hits(0.9, torch.tensor([90, 10])) == 0.0  # the commonest, always


def test_a_swapped_query_may_not_be_read_better_than_the_right_one_in_the_true_code():
    world = exact()
    honest, twin = true_dictionary(world), true_dictionary(world)
    with torch.no_grad():
        honest.W_query.copy_(0.02 * world.chance.logit())
        found = smuggling(planted.case_of(world), [honest], [twin])
        assert 0.5 < found.probe_ceiling < found.ceiling
        assert found.probe_bits < 0.1
        honest.W_query.copy_(world.chance.logit() * 2 + 12.5)  # nothing but the query fires
        found = smuggling(planted.case_of(world), [honest], [twin])
    assert found.probe == pytest.approx(1.0)
    assert found.probe_bits == pytest.approx(np.log2(12), abs=0.01)
    assert not found.passed


def fit(**changed):
    figures = {
        "fve": 0.8, "l0": 2.0, "dead": 0.0, "parameters": 1, "alive_parameters": 1, "bits": 3.0,
        "mcc": None, "f1": None,
    }  # fmt: skip
    return Fit(**figures | changed)


def test_twins_that_know_no_query_must_be_alike():
    fits = {name: (fit(),) * 3 for name in ARMS}
    assert conditioning._unlike(fits) == ()
    for changed, word in (({"fve": 0.77}, "variance"), ({"bits": 3.5}, "bits")):
        (said,) = conditioning._unlike(fits | {"shuffled_query": (fit(**changed),) * 3})
        assert word in said
    (said,) = conditioning._unlike(
        {"shuffled_query": (fit(f1=0.5),) * 3, "unconditional": (fit(f1=0.6),) * 3}
    )
    assert "F1 0.500, 0.600" in said
    near = {"shuffled_query": (fit(f1=0.57),) * 3, "unconditional": (fit(f1=0.6),) * 3}
    assert conditioning._unlike(near) == ()


def test_without_planted_truth_help_must_be_a_cause_too():
    world = small("prior")
    case, made = planted.case_of(world), true_dictionary(world)
    with torch.no_grad():
        ours = true_dictionary(world)
        ours.W_query.copy_(0.02 * world.chance.logit())
    arms = {name: [made] * 3 for name in ARMS} | {"conditional": [ours] * 3}
    assert compared(case, arms).tokens_gain is None
    units = torch.linspace(0.1, 0.2, 10, dtype=torch.float64)

    def recovered(dictionary):
        return 0.5 + units if dictionary is ours else torch.full((10,), 0.5).double()

    found = compared(replace(case, recovered=recovered), arms)
    value, low, _ = found.tokens_gain["shuffled_query"]
    assert value == pytest.approx(0.15)
    assert low > 0
    assert found.conditional[0].tokens == pytest.approx(0.65)
    assert not [reason for reason in found.reasons if "tokens" in reason]
    still = compared(replace(case, recovered=lambda _: torch.zeros(10)), arms)
    assert len([reason for reason in still.reasons if "tokens" in reason]) == 3


def test_an_architecture_is_judged_where_conditioning_must_win_and_must_not(monkeypatch):
    asked = []

    def quick(case, config, recipe, seeds, tell, folder):
        asked.append((config.architecture, config.k, folder))
        return trained(case, config, recipe, seeds, tell, folder)

    monkeypatch.setattr(planted, "trained", quick)
    told = []
    found = planted.by_architecture(["topk"], steps=80, tell=told.append)
    assert asked == [("topk", 2.0, None)] * 2
    assert len(told) == planted.fits(3, 1)
    won, lost = found["worlds"]["topk, prior"], found["worlds"]["topk, irrelevant"]
    assert (won["must_help"], lost["must_help"]) == (True, False)
    assert won["gain_over_shuffled"][1] > 0 > lost["gain"][1]
    assert not lost["helps"]
    assert {seed["l0"] for seed in won["conditional"]["seeds"]} == {2.0}
    rows = planted.conclusions(found)
    assert [row[0] for row in rows] == ["topk, prior", "topk, irrelevant"] + ["topk, prior"] * 2
    assert rows[1][2] == "right"


def test_the_command_refuses_an_architecture_that_is_not_one(capsys):
    assert command(["conditioning", "--architecture", "top"]) == 4
    assert "did you mean 'topk'" in capsys.readouterr().err


def test_a_world_that_turns_scores_and_one_that_does_not_scores_little():
    scores = {}
    for kind in ("turning", "gain"):
        world = small(kind)
        with torch.no_grad():
            scores[kind] = score(true_dictionary(world), world.judged().samples)
    assert scores["turning"] > 4 * scores["gain"]


def test_the_null_world_keeps_queries_and_does_not_turn():
    world = small("turning")
    made = true_dictionary(world)
    with torch.no_grad():
        still = Still.of(made, world)
        samples = world.judged().samples
        drawn = still.drawn(samples, 1)
        assert torch.equal(drawn.query, samples.query)
        assert score(made, drawn) < 0.5 * score(made, samples)
        assert torch.equal(drawn.x, still.drawn(samples, 1).x)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A world whose samples are decoded as something else, of `d_out` channels."""

    world: World
    d_out: int

    def decoded(self, samples):
        generator = torch.Generator().manual_seed(7)
        rows = torch.randn(samples.x.shape[1], self.d_out, generator=generator)
        return replace(samples, target=samples.x @ rows)

    def batch(self, step):
        return self.decoded(self.world.batch(step))

    def held_out(self):
        return self.decoded(self.world.held_out())


@pytest.mark.parametrize("d_out", [9, 24])
def test_the_null_world_of_a_transcoder_keeps_what_is_encoded_and_draws_what_is_decoded(d_out):
    source = Decoded(world=small("gain"), d_out=d_out)
    made = Dictionary(DictionaryConfig(d_in=24, latents=24, k=2, query=12, d_out=d_out))
    samples = source.batch(0)
    with torch.no_grad():
        drawn = Still.of(made, source).drawn(samples, 1)
        left = drawn.target - made(samples.x, samples.query)
        residuals = source.held_out().target - made(source.held_out().x, source.held_out().query)
    assert torch.equal(drawn.x, samples.x)
    assert torch.equal(drawn.query, samples.query)
    away = torch.cdist(left, residuals, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(away.amin(1).max()) < 1e-3  # each is one of those left
    found = rotation_test(made, source, source.decoded(small("gain").judged().samples),
                          Recipe(steps=2), refits=3)  # fmt: skip
    assert all(0 < one < 100 for one in found.refits)


def test_the_decision_needs_both_a_small_p_and_a_large_ratio():
    close, same = [1.0, 1.1, 0.9, 1.05, 0.95], [1.0] * 5
    assert _decided(5.0, close, same, 0.01).turns
    sure = _decided(1.3, [1.0, 1.001, 0.999, 1.0, 1.001], same, 0.01)
    assert sure.p_value < 0.01
    assert not sure.turns  # small
    assert not _decided(2.5, [0.2, 1.0, 5.0, 0.5, 2.0], same, 0.01).turns  # large, but not sure


def test_a_dictionary_is_to_its_refits_what_refits_are_to_their_own():
    """By hand, in logarithms: 3 is 2 above refits, which are 1 (0, 1 or 2) above their own."""
    refits, again = [math.e] * 3, [math.e, 1.0, math.exp(-1)]
    found = _decided(math.exp(3), refits, again, 0.01)
    assert found.ratio == pytest.approx(math.exp(3 - 1 - 1))
    t = 1 / (1 * math.sqrt(1 + 1 / 3))
    assert found.p_value == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t**2)))  # t, 2 degrees
    assert not _decided(math.exp(3), refits, [math.exp(-1), math.exp(-1.01), 0.366], 0.01).turns
    assert _decided(math.exp(3), refits, [math.e, 2.7, 2.75], 0.01).turns


def test_still_worlds_are_counted_with_their_interval(tmp_path, capsys, monkeypatch):
    asked, verdicts = [], iter([False, True, False, False, True, True, True])

    def says(made, world, judged, recipe, *, alpha):
        asked.append((world.kind, world.seed, recipe.seed, made.config.query))
        turns = next(verdicts)
        return RotationTest(score=1.0, refits=(1.0,), again=(1.0,), ratio=3.0 if turns else 1.0,
                            p_value=0.001 if turns else 0.5, turns=turns)  # fmt: skip

    monkeypatch.setattr(stillness, "rotation_test", says)
    told = tmp_path / "still.json"
    given = ["conditioning", "--steps", "1", "--still"]
    assert command([*given, "4", "--seed", "5", "--json", str(told)]) == 0
    kinds = ("prior", "irrelevant")
    assert asked == [(kind, seed, seed, 12) for seed in (5, 6) for kind in kinds]
    found = json.loads(told.read_text())
    assert found["turns"] | {"low": 0, "high": 0} == {"found": 1, "of": 4, "low": 0, "high": 0}
    assert found["turns"]["low"] == pytest.approx(1 - 0.975 ** (1 / 4))  # Clopper and Pearson
    assert "said to turn: 1 of 4, 95 % interval 0.6% to" in capsys.readouterr().out
    assert command([*given, "3"]) == 1  # three of three are too many for a level of 1 %
    assert command([*given, "0"]) == 4
    assert command([*given, "1", "--resume", str(tmp_path)]) == 4


def test_the_rotation_test_is_for_conditional_dictionaries_that_do_not_turn():
    world = small("gain")
    plain = Dictionary(DictionaryConfig(d_in=24, latents=24, k=2))
    with pytest.raises(UsageError, match="conditional dictionary without turns"):
        rotation_test(plain, world, world.judged().samples, Recipe(steps=1))


def test_a_plain_code_of_the_gain_world_is_exact():
    world = small("gain")
    directions = world.directions
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)))


def test_turning_coordinates_are_centred_so_that_directions_are_those_at_the_mean_query():
    world = small("turning")
    torch.testing.assert_close(world.coordinates.mean(0), torch.zeros(3), atol=1e-6, rtol=0)


def test_shuffling_wants_queries():
    with pytest.raises(UsageError, match="no query to shuffle"):
        shuffled(Samples(x=torch.zeros(3, 2)), 0)
