import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.splice import Splice, latent_feature
from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.feature import channel_feature, direction_feature
from arrcoc_verify.graph import resume, run
from arrcoc_verify.reference.analytic import PLANTED
from arrcoc_verify.scenes.compose import scenes

SITE = "knowing.information_features"


@pytest.fixture(scope="module")
def base():
    model = load("reference:analytic")
    found = scenes("train", per_cluster=1)[:3]
    return run(model, [s.image for s in found], [s.query for s in found], read=list(model.sites))


def dictionary(query=0, seed=0, **more):
    made = Dictionary(
        DictionaryConfig(architecture="topk", d_in=48, latents=96, k=4, query=query, **more),
        seed=seed,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            )
        made.normalise_()
    return made


@pytest.mark.parametrize("query", [0, 12])
def test_an_unedited_splice_is_the_model_bit_for_bit(base, query):
    spliced = Splice(base, SITE, dictionary(query))
    after = resume(base, edits=[spliced.edited(spliced.codes)])
    assert torch.equal(after[SITE], base[SITE])
    assert torch.equal(after.allocation.relevance, base.allocation.relevance)
    assert torch.equal(after.allocation.tokens, base.allocation.tokens)


@pytest.mark.parametrize("shape", [{}, {"query": 12}, {"query": 12, "turns": 2}])
def test_features_and_error_add_up_to_the_whole(base, shape):
    spliced = Splice(base, SITE, dictionary(**shape))
    every = range(96)
    whole = spliced.contribution(every) + spliced.error + spliced.dictionary.b_dec.detach()
    torch.testing.assert_close(whole, base[SITE].double(), rtol=0, atol=1e-6)
    # Effects on the information score, which is linear in its vector, add up, too.
    score = "knowing.information"

    def moved(edit):
        return resume(base, edits=[edit], read=[score])[score] - base[score]

    halves = [moved(spliced.ablate(part)) for part in (range(48), range(48, 96))]
    error = moved(spliced.ablate_error())
    bias = PLANTED["information"].read(spliced.dictionary.b_dec.detach().double())
    torch.testing.assert_close(sum(halves) + error, bias - base[score], rtol=0, atol=1e-6)


def test_a_reconstruction_leaves_exactly_the_error_out(base):
    spliced = Splice(base, SITE, dictionary())
    one, other = (
        resume(base, edits=[edit])[SITE]
        for edit in (spliced.reconstructed(), spliced.ablate_error())
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_latent_is_a_feature_whose_ablation_is_the_splices(base):
    made = dictionary()
    spliced = Splice(base, SITE, made)
    latent = int((spliced.codes > 0).sum((0, 1)).argmax())
    feature = latent_feature(base.model, SITE, made, latent)
    torch.testing.assert_close(feature.read(base[SITE]), spliced.codes[..., latent])
    one = resume(base, edits=[feature.ablate()])[SITE]
    other = resume(base, edits=[spliced.ablate([latent])])[SITE]
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert not torch.equal(one, base[SITE])


@pytest.mark.parametrize("turns", [0, 2])
def test_a_conditional_latent_is_a_feature_of_its_run(base, turns):
    spliced = Splice(base, SITE, dictionary(12, turns=turns))
    latent = int((spliced.codes > 0).sum((0, 1)).argmax())
    feature = spliced.feature(latent)
    torch.testing.assert_close(feature.read(base[SITE]), spliced.codes[..., latent])
    for edit in (feature.write(lambda old: old), feature.steer(0.0)):
        after = resume(base, edits=[edit])
        assert torch.equal(after[SITE], base[SITE])
        assert torch.equal(after.allocation.tokens, base.allocation.tokens)
    one = resume(base, edits=[feature.ablate()])[SITE]
    other = resume(base, edits=[spliced.ablate([latent])])[SITE]
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert not torch.equal(one, base[SITE])
    # Each example has the direction of its own query.
    moved = resume(base, edits=[feature.steer(0.5)])[SITE] - base[SITE]
    unit = torch.zeros_like(spliced.codes)
    unit[..., latent] = 0.5
    query = base["query.embedding"].float().flatten(1)
    wanted = spliced.dictionary.decode(unit, query=query) - spliced.dictionary.decode(
        0 * unit, query=query
    )
    torch.testing.assert_close(moved.float(), wanted.detach(), rtol=0, atol=1e-6)


def test_a_conditional_edit_does_not_hang_on_how_a_run_is_cut_into_batches(base):
    made, latent = dictionary(12), 3
    found = []
    for size in (1, 2, 3):
        cut = run(base.model, base.images, base.queries, read=list(base.model.sites),
                  batch_size=size)  # fmt: skip
        where = torch.zeros(3, 256, dtype=torch.bool)
        where[2, 40:60] = True
        feature = Splice(cut, SITE, made).feature(latent)
        after = resume(cut, edits=[feature.clamp(0.7, where)])
        again = resume(after, edits=[], read=["knowing.information"])
        assert torch.equal(again[SITE], after[SITE])
        assert torch.equal(after[SITE][:2], cut[SITE][:2])
        found.append(after[SITE])
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-6)


def test_a_conditional_latent_is_not_for_other_examples(base):
    feature = Splice(base, SITE, dictionary(12)).feature(3)
    fewer = run(base.model, base.images[:2], base.queries[:2], read=[SITE])
    with pytest.raises(ShapeMismatch, match="queries of 3 examples, the run has 2"):
        resume(fewer, edits=[feature.ablate()])
    with pytest.raises(ShapeMismatch, match="queries of 3 examples, got activations of 2"):
        feature.read(fewer[SITE])
    with pytest.raises(UsageError, match="latents are 0 to 95"):
        Splice(base, SITE, dictionary(12)).feature(96)


def test_a_planted_feature_moves_the_score_by_its_coefficient(base):
    # Planted directions are read out with weight 1: one more of any of them is one more of score.
    true = PLANTED["information"].directions
    made = Dictionary(DictionaryConfig(architecture="topk", d_in=48, latents=64, k=4))
    with torch.no_grad():
        made.W_dec.copy_(true / true.norm(dim=1, keepdim=True))
    feature = latent_feature(base.model, SITE, made, 5)
    where = torch.zeros(256, dtype=torch.bool)
    where[7] = True
    size = 0.1 * float(true[5].norm())
    after = resume(base, edits=[feature.steer(size, where)], read=["knowing.information"])
    gained = after["knowing.information"] - base["knowing.information"]
    assert float(gained[0, 7]) == pytest.approx(0.1, abs=1e-6)
    assert float(gained[:, :7].abs().max()) == 0.0


def test_a_feature_that_is_not_changed_changes_no_bit(base):
    unit = torch.ones(48)
    for feature in (
        direction_feature(base.model, SITE, unit),
        latent_feature(base.model, SITE, dictionary(), 3),
        channel_feature(base.model, "balancing.weights", "salience"),
    ):
        after = resume(base, edits=[feature.write(lambda old: old)])
        assert torch.equal(after[feature.site], base[feature.site])


def test_a_direction_is_read_and_set(base):
    feature = direction_feature(base.model, SITE, torch.arange(1.0, 49.0))
    after = resume(base, edits=[feature.clamp(0.25)])[SITE]
    torch.testing.assert_close(feature.read(after), torch.full((3, 256), 0.25).double())


def test_conditional_latents_depend_on_the_runs_query(base):
    made = dictionary(12)
    one = Splice(base, SITE, made).codes
    asked = run(
        base.model, list(base.images), ["find something else"] * 3, read=list(base.model.sites)
    )
    assert not torch.equal(one, Splice(asked, SITE, made).codes)


def test_wrong_places_are_refused(base):
    with pytest.raises(ShapeMismatch, match="trained for another site"):
        Splice(base, SITE, Dictionary(DictionaryConfig(d_in=47, latents=50)))
    with pytest.raises(UsageError, match="channels"):
        Splice(base, "knowing.information", dictionary())
    with pytest.raises(UsageError, match="latents are 0 to 95"):
        latent_feature(base.model, SITE, dictionary(), 96)
    with pytest.raises(UsageError, match="run's query"):
        latent_feature(base.model, SITE, dictionary(12), 0)
    with pytest.raises(UsageError, match="not 'nothing'"):
        channel_feature(base.model, "balancing.weights", "nothing")
