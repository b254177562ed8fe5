"""The sparse path of training: the dense one's numbers and gradients, then the same training."""

import pytest
import torch

from arrcoc_verify.dictionary import training
from arrcoc_verify.dictionary.architecture import ARCHITECTURES, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.initial import start
from arrcoc_verify.dictionary.kernels import selection
from arrcoc_verify.dictionary.losses import Samples, Terms, loss
from arrcoc_verify.dictionary.sparse_loss import applies, sparse_loss
from arrcoc_verify.dictionary.training import Recipe, Trainer
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.dictionary.worlds import World
from arrcoc_verify.errors import UsageError

KINDS = {
    "topk": {"architecture": "topk"},
    "batchtopk": {"architecture": "batchtopk", "k": 1.7},
    "matryoshka": {"architecture": "matryoshka"},
    "conditional": {"architecture": "batchtopk", "query": 12},
    "conditional topk": {"architecture": "topk", "query": 12},
    "transcoder": {"architecture": "topk", "d_out": 9},
    "skip transcoder": {"architecture": "batchtopk", "d_out": 9, "skip": True},
    "conditional nested skip": {"architecture": "matryoshka", "d_out": 9, "skip": True,
                                "query": 12},
}  # fmt: skip


def config(**more):
    return DictionaryConfig(**{"d_in": 24, "latents": 64, "k": 2} | more)


def samples_for(made, seed=0):
    drawn = World.make("prior", seed=0, size=200).batch(seed)
    target = None
    if made.transcoder:
        generator = torch.Generator().manual_seed(5)
        target = drawn.x @ torch.randn(24, made.outputs, generator=generator)
        target = target.double()
    return Samples(x=drawn.x.double(), query=drawn.query.double(), target=target)


def begun(kind):
    made = config(**KINDS[kind])
    samples, dictionary = samples_for(made), Dictionary(made).double()
    found = start(dictionary, samples, seed=0)
    with torch.no_grad():
        dictionary.b_enc.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        if made.query:
            dictionary.W_query.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    terms = Terms(variance=found.variance, bandwidth=found.bandwidth, aux_latents=3)
    return dictionary, samples, terms


@pytest.mark.parametrize("asleep", [0, 4, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sparse_loss_and_its_gradients_are_those_of_the_dense_one(kind, asleep):
    dictionary, samples, terms = begun(kind)
    dead = torch.arange(64) < asleep
    results, gradients = [], []
    for way in (loss, sparse_loss):
        dictionary.zero_grad()
        results.append(way(dictionary, samples, terms, dead))
        results[-1].total.backward()
        gradients.append({n: p.grad.clone() for n, p in dictionary.named_parameters()
                          if p.grad is not None})  # fmt: skip

    dense, sparse = results
    assert torch.equal(dense.fired, sparse.fired)
    for name in ("total", "error", "l0", "least"):
        torch.testing.assert_close(getattr(dense, name), getattr(sparse, name),
                                   rtol=1e-5, atol=1e-9, check_dtype=False, msg=name)  # fmt: skip
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        # losses sum errors in float32, so this is as equal as they can be
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_only_dictionaries_that_it_knows_are_given_to_it():
    kinds = {kind: applies(Dictionary(config(architecture=kind)), Workers())
             for kind in ARCHITECTURES}  # fmt: skip
    expected = {"topk", "batchtopk", "matryoshka"}

    assert expected == {kind for kind, known in kinds.items() if known}
    assert not applies(Dictionary(config(query=3, turns=2)), Workers())
    assert not applies(Dictionary(config(blocks=(12, 12))), Workers())
    assert not applies(Dictionary(config(k=9)), Workers())
    two = Workers(rank=0, size=2)
    assert applies(Dictionary(config(architecture="topk")), two)
    assert not applies(Dictionary(config(architecture="batchtopk")), two)


def test_a_conditional_dictionary_without_a_query_is_refused():
    dictionary, samples, terms = begun("conditional")

    with pytest.raises(UsageError, match="wants a query of 12 channels, got none"):
        sparse_loss(dictionary, Samples(x=samples.x), terms)


def test_autocast_changes_nothing():
    dictionary, samples, terms = begun("topk")
    plain = sparse_loss(dictionary, samples, terms).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = sparse_loss(dictionary, samples, terms).total

    assert torch.equal(plain, under)


def trainer(kind, **more):
    recipe = Recipe(steps=40, dead_after=400, lr=1e-3)
    return Trainer(config(**KINDS[kind] | more), recipe, World.make("prior", seed=0, size=128))


def trained(kind, way, monkeypatch, **more):
    made = trainer(kind, **more)
    with monkeypatch.context() as patch:
        patch.setattr(training, "applies", lambda *_: way == "sparse")
        figures = [made.advance() for _ in range(40)]
    return made, figures


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka", "conditional"])
def test_training_by_the_sparse_path_is_training_by_the_dense_path(kind, monkeypatch):
    assert_same(trained(kind, "dense", monkeypatch), trained(kind, "sparse", monkeypatch))


def assert_same(first, second):
    (one, expected), (other, found) = first, second
    for before, after in zip(expected, found, strict=True):
        assert before.fve == pytest.approx(after.fve, abs=2e-4)
        assert before.dead == pytest.approx(after.dead, abs=1 / 64)
    for name, value in one.dictionary.state_dict().items():
        torch.testing.assert_close(value, other.dictionary.state_dict()[name],
                                   rtol=0, atol=2e-3, msg=name)  # fmt: skip


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "conditional"])
def test_proposals_in_bfloat16_change_no_training(kind, products, monkeypatch):
    monkeypatch.setattr(selection, "LARGE", 0)
    monkeypatch.setattr(selection, "fast_bfloat16", lambda _: True)
    proposed = trained(kind, "sparse", monkeypatch, latents=256)
    assert any(dtype == torch.bfloat16 for dtype, _, _ in products)
    monkeypatch.setattr(selection, "fast_bfloat16", lambda _: False)
    products.clear()
    plain = trained(kind, "sparse", monkeypatch, latents=256)
    assert not any(dtype == torch.bfloat16 for dtype, _, _ in products)

    assert_same(plain, proposed)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka"])
def test_training_in_bfloat16_is_training_in_bfloat16(kind, monkeypatch):
    """The sparse path is one of float32, so that it would leave the precision without effect."""
    seen = []
    monkeypatch.setattr(training, "loss", lambda *given: seen.append(loss(*given)) or seen[-1])
    made = {}
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(steps=40, lr=1e-3, precision=precision)
        source = World.make("prior", seed=0, size=128)
        made[precision] = Trainer(config(**KINDS[kind]), recipe, source)
        assert applies(made[precision].dictionary, Workers())
        figures = made[precision].advance()
        assert (40 if precision == "bfloat16" else 0) == 40 * len(seen)
        for _ in range(39):
            figures = made[precision].advance()
        assert figures.fve > 0.3
    rows = [one.dictionary.W_enc for one in made.values()]
    assert torch.float32 == rows[1].dtype
    assert not torch.equal(*rows)


@pytest.mark.parametrize("kind", ["topk", "conditional", "matryoshka"])
def test_a_run_with_proposals_resumes_bit_for_bit(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(selection, "LARGE", 0)
    monkeypatch.setattr(selection, "fast_bfloat16", lambda _: True)
    whole = trainer(kind, latents=256)
    for _ in range(40):
        whole.advance()
    broken = trainer(kind, latents=256)
    for _ in range(17):
        broken.advance()
    broken.save(tmp_path)
    resumed = trainer(kind, latents=256)
    resumed.load(tmp_path)
    for _ in range(23):
        resumed.advance()

    assert whole.step == resumed.step
    for name, value in whole.dictionary.state_dict().items():
        assert torch.equal(value, resumed.dictionary.state_dict()[name]), name
