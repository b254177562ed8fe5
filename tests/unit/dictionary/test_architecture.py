import pytest
import torch

from arrcoc_verify.dictionary.architecture import (
    ARCHITECTURES,
    Dictionary,
    DictionaryConfig,
    keep_batch_topk,
    keep_topk,
)
from arrcoc_verify.errors import ShapeMismatch, UnknownName, UsageError


def made(architecture="batchtopk", **more):
    config = DictionaryConfig(
        **{"architecture": architecture, "d_in": 6, "latents": 12, "k": 3} | more
    )
    dictionary = Dictionary(config, seed=1)
    with torch.no_grad():
        for name, value in dictionary.named_parameters():
            if name not in ("W_dec", "W_enc"):
                value.copy_(torch.randn(value.shape) * 0.1)
        dictionary.threshold.copy_(torch.rand(dictionary.threshold.shape) * 0.2)
    return dictionary


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_are_not_negative_and_rows_of_the_decoder_have_norm_one(architecture):
    dictionary = made(architecture)
    codes = dictionary.encode(torch.randn(5, 6))

    assert codes.shape == (5, 12)
    assert bool((codes >= 0).all())
    torch.testing.assert_close(torch.ones(12), dictionary.W_dec.norm(dim=1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_leading_axes_do_not_change_what_a_sample_gets(architecture):
    dictionary, x = made(architecture, query=4), torch.randn(2, 7, 6)
    query = torch.randn(2, 4)
    flat = dictionary.encode(x.reshape(14, 6), query.repeat_interleave(7, 0))

    torch.testing.assert_close(flat.reshape(2, 7, 12), dictionary.encode(x, query))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rescaling_folds_the_scale_of_the_training_data_in(architecture):
    dictionary, x = made(architecture, query=4), torch.randn(9, 6)
    query = torch.randn(9, 4)
    before = dictionary(x * 7.0, query) / 7.0
    dictionary.rescale_(7.0)

    torch.testing.assert_close(before, dictionary(x, query))


def test_rescaling_a_skip_transcoder_takes_two_scales():
    dictionary, x = made("topk", d_out=5, skip=True), torch.randn(9, 6)
    before = dictionary(x * 7.0) / 3.0
    dictionary.rescale_(7.0, 3.0)

    torch.testing.assert_close(before, dictionary(x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_never_sees_the_query(architecture):
    dictionary = made(architecture, query=4)
    codes = dictionary.encode(torch.randn(5, 6), torch.randn(5, 4))

    assert torch.equal(dictionary.decode(codes), dictionary.decode(codes, query=torch.randn(5, 4)))


@pytest.mark.parametrize("architecture", ["gated", "jumprelu"])
def test_the_query_moves_the_threshold_and_not_the_magnitude(architecture):
    dictionary, x = made(architecture, query=4), torch.randn(50, 6)
    one, other = (dictionary.encode(x, torch.randn(50, 4) * 3) for _ in range(2))
    both = (one > 0) & (other > 0)

    assert bool(both.any())
    assert not torch.equal(one > 0, other > 0)
    assert torch.equal(one[both], other[both])


def test_a_query_of_zeros_is_the_unconditional_dictionary():
    dictionary, x = made("batchtopk", query=4), torch.randn(50, 6)
    plain = made("batchtopk")
    plain.load_state_dict({k: v for k, v in dictionary.state_dict().items() if k != "W_query"})

    assert torch.equal(plain.encode(x), dictionary.encode(x, torch.zeros(50, 4)))


def test_topk_keeps_exactly_k_of_positive_codes():
    codes = torch.rand(20, 12) + 0.1

    assert torch.equal(torch.full((20,), 3), (keep_topk(codes, 3) > 0).sum(1))


def test_batch_topk_keeps_k_times_the_samples_whatever_the_axes():
    codes = torch.rand(4, 5, 12) + 0.1
    kept, least = keep_batch_topk(codes, 2.5)

    assert int((kept > 0).sum()) == 50
    assert float(least) == pytest.approx(float(kept[kept > 0].min()))
    assert bool((codes[kept == 0] <= least).all())


def test_batch_topk_of_silence_has_no_threshold():
    kept, least = keep_batch_topk(torch.zeros(4, 12), 2)

    assert not bool(kept.any())
    assert float(least) == float("inf")


def test_a_crosscoder_weighs_a_latent_by_its_stages_norms():
    dictionary = made("batchtopk", blocks=(4, 2))
    norms = dictionary.W_dec[:, :4].norm(dim=1) + dictionary.W_dec[:, 4:].norm(dim=1)

    torch.testing.assert_close(norms, dictionary.weights())


def test_a_turning_dictionary_turns_with_the_query_and_has_no_bias():
    dictionary, x = made("batchtopk", query=4, turns=2), torch.randn(5, 6)
    codes = torch.rand(5, 12)
    one, other = (dictionary.decode(codes, query=torch.randn(5, 4)) for _ in range(2))

    assert not torch.allclose(one, other)
    assert not dictionary.b_enc.requires_grad
    assert dictionary.encode(x, torch.randn(5, 4)).shape == (5, 12)


def test_turning_parts_are_orthogonal_to_their_direction():
    dictionary = made("batchtopk", query=4, turns=2)
    dictionary.normalise_()
    along = (dictionary.dec_turn * dictionary.W_dec).sum(-1)

    torch.testing.assert_close(torch.zeros_like(along), along, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 13}, "k must lie in"),
        ({"architecture": "topk", "k": 2.5}, "whole number"),
        ({"skip": True}, "only a transcoder"),
        ({"turns": 1}, "turn with a query"),
        ({"blocks": (3, 2)}, "must add up"),
        ({"prefixes": (4, 4, 12)}, "must rise"),
        ({"latents": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        made(**given)


def test_an_unknown_architecture_suggests_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'batchtopk'"):
        made("batchtopq")


def test_wrong_inputs_are_named():
    with pytest.raises(ShapeMismatch, match="encodes 6 channels"):
        made().encode(torch.randn(2, 5))
    with pytest.raises(UsageError, match="wants a query of 4 channels, got none"):
        made(query=4).encode(torch.randn(2, 6))
    with pytest.raises(UsageError, match="decodes with its input"):
        made("topk", d_out=5, skip=True).decode(torch.zeros(2, 12))
