import math
from dataclasses import dataclass

import pytest
import torch

from arrcoc_verify.dictionary.activations import Places, StoreSource
from arrcoc_verify.dictionary.architecture import ARCHITECTURES, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.initial import geometric_median, start
from arrcoc_verify.dictionary.losses import Samples, Terms, loss
from arrcoc_verify.dictionary.recovery import mean_correlation, recovery
from arrcoc_verify.dictionary.sparse_loss import sparse_loss
from arrcoc_verify.dictionary.training import Recipe, Trainer
from arrcoc_verify.dictionary.worlds import World
from arrcoc_verify.errors import StoreError, UnknownName, UsageError


def config(architecture="batchtopk", **more):
    given = {"architecture": architecture, "d_in": 24, "latents": 64, "k": 2}
    return DictionaryConfig(**given | more)


def world(kind="prior", size=64):
    return World.make(kind, seed=0, size=size)


def trainer(architecture="batchtopk", steps=30, recipe=None, size=64, **more):
    return Trainer(
        config(architecture, **more), Recipe(steps=steps, **recipe or {}), world(size=size)
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(architecture, tmp_path):
    recipe = {"dead_after": 100}
    whole = trainer(architecture, query=12, recipe=recipe).train()
    broken = trainer(architecture, query=12, recipe=recipe)
    for _ in range(13):
        broken.advance()
    broken.save(tmp_path)
    resumed = trainer(architecture, query=12, recipe=recipe)
    resumed.load(tmp_path)
    result = resumed.train()

    for name, value in whole.state_dict().items():
        assert torch.equal(value, result.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused_and_the_setting_named(tmp_path):
    trainer().save(tmp_path)

    with pytest.raises(StoreError, match="first_batch"):
        Trainer(config(), Recipe(steps=30), World.make("prior", seed=1, size=64)).load(tmp_path)
    with pytest.raises(StoreError, match=r"config\.k: 2 there, 3 now"):
        trainer(k=3).load(tmp_path)
    with pytest.raises(StoreError, match="no checkpoint to go on from"):
        trainer().load(tmp_path / "elsewhere")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_auxiliary_error_reaches_encoder_and_decoder_of_dead_latents_only(architecture):
    dictionary = Dictionary(config(architecture))
    samples, dead = world().batch(0), torch.zeros(64, dtype=torch.bool)
    dead[:5] = True
    begun = start(dictionary, samples, seed=0)
    with torch.no_grad():
        dictionary.b_enc[:5] = 0.05
    terms = Terms(variance=begun.variance, bandwidth=begun.bandwidth, aux=1.0, aux_latents=5)

    def gradients(dead):
        dictionary.zero_grad()
        loss(dictionary, samples, terms, dead).total.backward()
        return [dictionary.W_enc.grad.clone(), dictionary.W_dec.grad.clone()]

    moved = [a - b for a, b in zip(gradients(dead), gradients(None), strict=True)]

    for change in moved:
        assert bool((change[:5].norm(dim=1) > 1e-4).all())
        torch.testing.assert_close(torch.zeros_like(change[5:]), change[5:], atol=1e-6, rtol=0)


def test_the_running_threshold_is_right_after_a_few_steps():
    made = trainer(steps=30, recipe={"lr": 1e-6})
    for _ in range(3):
        made.advance()
    codes = made.dictionary.encode(world().batch(99).x)

    assert float((codes > 0).sum(1).float().mean()) == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_the_calibrated_threshold_gives_k_on_held_out_samples(architecture):
    made = trainer(architecture)
    dictionary = made.train()
    codes = dictionary.encode(made.source.held_out().x)

    assert float((codes > 0).sum(1).float().mean()) == pytest.approx(2, abs=1e-3)


def test_dead_latents_are_counted_in_samples_whatever_the_batch():
    small, large = trainer(steps=8, size=32), trainer(steps=2, size=128)
    for made in (small, large):
        with torch.no_grad():
            made.dictionary.b_enc[3] = -1e6  # never fires
            made.dictionary.b_enc[5] = 1e6  # always does
        while made.step < made.recipe.steps:
            made.advance()

        assert int(made.silent[3]) == 8 * 32
        assert int(made.silent[5]) == 0
        assert bool((made.silent % made.samples == 0).all())
    assert small.recipe.steps * 32 == large.recipe.steps * 128
    assert small.dead_after == large.dead_after


def test_the_callers_activations_are_left_alone():
    held = Held(kept=world().batch(0))
    before = [held.kept.x.clone(), held.kept.query.clone()]
    dictionary = Dictionary(config(query=12))
    start(dictionary, held.kept, seed=0)
    loss(dictionary, held.kept, Terms(variance=1.0)).total.backward()
    Trainer(config(query=12), Recipe(steps=3), held).train()

    assert torch.equal(before[0], held.kept.x)
    assert torch.equal(before[1], held.kept.query)


@dataclass(frozen=True)
class Held:
    """A source that hands out the caller's own tensors, again and again."""

    kept: Samples

    def batch(self, _):
        return self.kept

    def held_out(self):
        return self.kept


def test_fitting_a_scale_leaves_the_stored_activations_alone(monkeypatch):
    stored = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    before = stored.clone()
    monkeypatch.setattr(StoreSource, "_site", lambda *_: stored)
    source = StoreSource(
        store=None, places=Places(inputs=("x",), target="y"), rows=range(6), held_rows=[6], size=24
    )
    source.fit_scale(9.0)

    assert 1 not in (source.scale, source.target_scale)
    source.batch(0)
    assert torch.equal(before, stored)


def by_hand():
    """Two latents along the axes of a plane, the second one dead, and a sample with its figures."""
    dictionary = Dictionary(config("topk", d_in=2, latents=2, k=1))
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.b_dec.copy_(torch.tensor([1.0, 2.0]))
        dictionary.b_enc.zero_()
    x = torch.tensor([[4.0, 4.0], [5.0, 8.0]])  # less the bias (3, 2), (4, 6)
    return dictionary, Samples(x=x), torch.tensor([False, True])


@pytest.mark.parametrize("way", [loss, sparse_loss])
def test_the_auxiliary_error_has_the_value_and_gradient_that_paper_gives(way):
    """By hand: the first latent leaves (0, 2) and (0, 6); the second, dead, explains half of it.

    Its codes are 1 and 3, so (0, 1) and (0, 3) are left: mean square 5, over 4, the variance of
    what the first leaves. One dead latent of the two that a sample may use counts half.
    """
    dictionary, samples, dead = by_hand()
    terms = Terms(variance=10.0, aux=0.5, aux_latents=2)
    plain = way(dictionary, samples, terms).total
    auxiliary = way(dictionary, samples, terms, dead).total - plain
    moved = torch.autograd.grad(
        auxiliary, [dictionary.W_enc, dictionary.W_dec, dictionary.b_enc, dictionary.b_dec]
    )
    weight = 0.5 * 0.5 / 4

    assert float(plain.detach()) == pytest.approx((4 + 36) / 2 / 10)
    assert float(auxiliary.detach()) == pytest.approx(weight * 5)
    # by the codes: less what is left, (1, 3); so by the row, that times (3, 2) and (4, 6)
    row = [-(1 * 3 + 3 * 4), -(1 * 2 + 3 * 6)]
    torch.testing.assert_close(moved[0], weight * torch.tensor([[0, 0], row]))
    torch.testing.assert_close(moved[1], weight * torch.tensor([[0, 0], [0, -(1 * 1 + 3 * 3)]]))
    torch.testing.assert_close(moved[2], weight * torch.tensor([0, -(1 + 3)]))
    # the bias centres what the dead latent reads by half, and is no part of what it draws
    torch.testing.assert_close(moved[3], weight * torch.tensor([0, 0.5 * (1 + 3)]))


def test_gated_freezes_the_decoder_in_its_gates_own_reconstruction():
    dictionary = Dictionary(config("gated"))
    samples = world().batch(0)
    start(dictionary, samples, seed=0)
    with torch.no_grad():
        dictionary.b_mag.fill_(-100.0)  # nothing is reconstructed but by the gate
    loss(dictionary, samples, Terms(variance=1.0)).total.backward()

    assert torch.equal(torch.zeros_like(dictionary.W_dec), dictionary.W_dec.grad)
    assert bool(dictionary.W_enc.grad.any())


def test_matryoshka_of_one_prefix_is_batchtopk():
    samples, results = world().batch(0), []
    for architecture, more in (("batchtopk", {}), ("matryoshka", {"prefixes": (64,)})):
        dictionary = Dictionary(config(architecture, **more))
        start(dictionary, samples, seed=0)
        results.append(float(loss(dictionary, samples, Terms(variance=1.0)).total.detach()))

    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_matryoshka_is_the_mean_over_its_prefixes():
    dictionary, samples = Dictionary(config("matryoshka", prefixes=(16, 64))), world().batch(0)
    start(dictionary, samples, seed=0)
    result = loss(dictionary, samples, Terms(variance=1.0))
    dictionary.eval()
    codes = dictionary.encode(samples.x)  # the start's threshold keeps the same codes
    errors = []
    for size in (16, 64):
        decoded = codes[:, :size] @ dictionary.W_dec[:size] + dictionary.b_dec
        errors.append((samples.x - decoded).square().sum(1).mean())

    assert float(sum(errors).detach() / 2) == pytest.approx(float(result.total.detach()), rel=0.02)


def test_the_kernel_of_jumprelu_is_two_sided():
    dictionary = Dictionary(config("jumprelu", latents=2, d_in=2, k=0.5))
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.threshold.fill_(1.0)
    gradients = []
    for value in (0.99, 1.01):
        dictionary.zero_grad()
        samples = Samples(x=torch.tensor([[value, 0.0]]))
        loss(dictionary, samples, Terms(variance=1.0, bandwidth=0.1)).total.backward()
        gradients.append(float(dictionary.threshold.grad[0]))

    assert all(abs(gradient) > 1 for gradient in gradients)


def test_jumprelu_reaches_its_target():
    made = trainer("jumprelu", steps=600)
    reached = [made.advance().l0 for _ in range(600)]

    assert sum(reached[-100:]) / 100 == pytest.approx(2, rel=0.3)


def test_the_start_reconstructs_at_the_right_size():
    dictionary, samples = Dictionary(config(latents=512)), world(size=512).batch(0)
    start(dictionary, samples, seed=0)
    result = loss(dictionary, samples, Terms(variance=float(samples.x.var(0).sum())))

    assert float(result.error) < 1


def test_a_constant_site_is_refused():
    with pytest.raises(UsageError, match="all samples are the same"):
        start(Dictionary(config()), Samples(x=torch.ones(9, 24)), seed=0)


def test_the_geometric_median_ignores_an_outlier():
    x = torch.cat([torch.zeros(9, 2), torch.full((1, 2), 1e3)])

    torch.testing.assert_close(torch.zeros(2), geometric_median(x, 50), atol=0.1, rtol=0)


def test_the_true_dictionary_scores_one():
    truth = world().draw(0, 2000)
    rows = world().directions
    found = recovery(rows, rows, truth.codes, truth.codes)

    assert (1.0, 1.0, 1.0) == pytest.approx((found.mcc, found.f1, found.unique))
    assert mean_correlation(-rows[torch.randperm(96)], rows)[0] == pytest.approx(1)


def test_a_worlds_bits_are_the_planted_information():
    made = world()
    chance = made.chance.double()

    def entropy(p):
        return -(p * p.log2() + (1 - p) * (1 - p).log2())

    expected = float((entropy(chance.mean(0)) - entropy(chance).mean(0)).sum())

    assert expected == pytest.approx(made.bits)
    assert world("irrelevant").bits == pytest.approx(0, abs=1e-9)


def test_recipes_that_cannot_run_are_refused():
    for given, message in (
        ({"steps": 0}, "at least one step"),
        ({"steps": 1, "lr": math.nan}, "above 0"),
        ({"steps": 1, "precision": "float16"}, "float32 or bfloat16"),
    ):
        with pytest.raises(UsageError, match=message):
            Recipe(**given)
    with pytest.raises(UnknownName, match="unknown world"):
        World.make("priors", seed=0)
