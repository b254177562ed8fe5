import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.formats import read_foreign, write_saelens
from arrcoc_verify.errors import StoreError, UsageError

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def made(architecture, **more):
    dictionary = Dictionary(
        DictionaryConfig(architecture=architecture, d_in=8, latents=16, k=3, **more), seed=1
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        dictionary.threshold.add_(0.1).abs_()
        dictionary.normalise_()
    return dictionary


@pytest.mark.parametrize(
    "architecture", ["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka"]
)
def test_a_saelens_folder_gives_the_same_codes_and_reconstruction(architecture, tmp_path):
    one = made(architecture)
    write_saelens(tmp_path, one)
    other = read_foreign(tmp_path)
    torch.testing.assert_close(other.encode(X), one.encode(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other(X), one(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_too(architecture, skip, tmp_path):
    one = made(architecture, d_out=5, skip=skip)
    write_saelens(tmp_path, one)
    torch.testing.assert_close(read_foreign(tmp_path)(X), one(X), rtol=1e-5, atol=1e-6)


def test_a_saelens_folder_has_its_keys_and_shapes(tmp_path):
    write_saelens(tmp_path, made("batchtopk"))
    held = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {name: tuple(value.shape) for name, value in held.items()}
    assert shapes == {
        "W_enc": (8, 16), "W_dec": (16, 8), "b_enc": (16,), "b_dec": (8,), "threshold": (16,),
    }  # fmt: skip
    told = json.loads((tmp_path / "cfg.json").read_text())
    assert told["architecture"] == "jumprelu"
    assert told["normalize_activations"] == "none"
    assert told["metadata"]["sae_lens_version"].startswith("6.")


def test_topk_that_competed_by_decoder_norm_is_folded(tmp_path):
    w_enc, w_dec = torch.randn(8, 16), 3 * torch.rand(16, 1) * torch.randn(16, 8)
    b_enc, b_dec = torch.randn(16), torch.randn(8)
    tensors = {"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    told = {"architecture": "topk", "d_in": 8, "d_sae": 16, "k": 3,
            "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(told))
    weighed = (((X - b_dec) @ w_enc + b_enc).relu()) * w_dec.norm(dim=1)
    value, place = weighed.topk(3, dim=1)
    kept = torch.zeros_like(weighed).scatter(1, place, value)
    wanted = kept / w_dec.norm(dim=1) @ w_dec + b_dec
    torch.testing.assert_close(read_foreign(tmp_path)(X), wanted, rtol=1e-4, atol=1e-4)
    (tmp_path / "cfg.json").write_text(json.dumps({**told, "rescale_acts_by_decoder_norm": False}))
    with pytest.raises(UsageError, match="no equal dictionary"):
        read_foreign(tmp_path)


def test_sparsify_is_read_by_its_weights_and_subtracts_its_bias(tmp_path):
    one = made("topk")
    state = one.state_dict()
    tensors = {"encoder.weight": state["W_enc"], "encoder.bias": state["b_enc"],
               "W_dec": state["W_dec"], "b_dec": state["b_dec"]}  # fmt: skip
    save_file(tensors, tmp_path / "sae.safetensors")
    told = {"activation": "topk", "expansion_factor": 99, "num_latents": 0, "k": 3, "d_in": 8,
            "normalize_decoder": True, "transcode": False}  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(told))
    torch.testing.assert_close(read_foreign(tmp_path)(X), one(X))
    (tmp_path / "cfg.json").write_text(json.dumps({**told, "activation": "groupmax"}))
    with pytest.raises(UsageError, match="groupmax"):
        read_foreign(tmp_path)


@pytest.mark.parametrize("architecture", ["standard", "topk", "batchtopk", "jumprelu", "gated"])
def test_dictionary_learning_is_read_and_transposed(architecture, tmp_path):
    one = made(architecture)
    state = one.state_dict()
    bias = {"standard": "bias", "gated": "decoder_bias"}.get(architecture, "b_dec")
    held = {"encoder.weight": state["W_enc"], "decoder.weight": state["W_dec"].T,
            "encoder.bias": state["b_enc"], bias: state["b_dec"]}  # fmt: skip
    wanted = one(X)
    if architecture in ("topk", "batchtopk"):
        held |= {"k": torch.tensor(3), "threshold": state["threshold"]}
    if architecture == "gated":
        del held["encoder.bias"]
        held |= {"gate_bias": state["b_enc"], "mag_bias": state["b_mag"], "r_mag": state["r_mag"]}
    if architecture == "jumprelu":  # it does not subtract b_dec from its input
        held = {"W_enc": state["W_enc"].T, "W_dec": state["W_dec"], "b_enc": state["b_enc"],
                "b_dec": state["b_dec"], "threshold": state["threshold"]}  # fmt: skip
        z = X @ state["W_enc"].T + state["b_enc"]
        wanted = z.relu() * (z > state["threshold"]) @ state["W_dec"] + state["b_dec"]
    names = {"standard": "AutoEncoder", "topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE",
             "jumprelu": "JumpReluAutoEncoder", "gated": "GatedAutoEncoder"}  # fmt: skip
    torch.save(held, tmp_path / "ae.pt")
    told = {"trainer": {"dict_class": names[architecture]}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    torch.testing.assert_close(read_foreign(tmp_path)(X), wanted, rtol=1e-4, atol=1e-5)


def test_what_has_no_form_is_refused_and_what_is_not_there_is_said(tmp_path):
    with pytest.raises(StoreError, match="found none"):
        read_foreign(tmp_path)
    with pytest.raises(UsageError, match="no conditional"):
        write_saelens(tmp_path, made("topk", query=3))
    write_saelens(tmp_path, made("topk"))
    told = json.loads((tmp_path / "cfg.json").read_text())
    for change, message in (
        ({"architecture": "temporal"}, "no form here"),
        ({"normalize_activations": "layer_norm"}, "fold that in"),
        ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z'"),
        ({"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu'"),
        ({"activation_fn_str": "gelu"}, "activation_fn_str 'gelu'"),
        ({"architecture": "standard", "activation_fn": "topk"}, "activation_fn 'topk'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor True"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(told | change))
        with pytest.raises(UsageError, match=message):
            read_foreign(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(StoreError, match="cannot read"):
        read_foreign(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04"])
def test_an_ae_pt_that_is_none_is_said_to_be_none(content, tmp_path):
    (tmp_path / "ae.pt").write_bytes(content)
    told = {"trainer": {"dict_class": "AutoEncoder"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(StoreError, match=r"cannot read .*ae\.pt"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    "told", [[], None, {"d_in": "8"}, {"k": None}, {"architecture": []}, {"d_sae": 17}]
)
def test_a_configuration_of_other_types_is_said_to_be_unreadable(told, tmp_path):
    write_saelens(tmp_path, made("topk"))
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(
        json.loads(path.read_text()) | told if isinstance(told, dict) else told
    ))  # fmt: skip
    with pytest.raises(StoreError, match=r"cannot read .*sae_weights\.safetensors"):
        read_foreign(tmp_path)


@pytest.mark.parametrize("held", [{}, {"encoder.weight": torch.zeros(16, 8)}, [1], "no tensors"])
def test_an_ae_pt_without_what_a_dictionary_has_is_said_to_be_unreadable(held, tmp_path):
    torch.save(held, tmp_path / "ae.pt")
    told = {"trainer": {"dict_class": "AutoEncoder"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(StoreError, match="cannot read"):
        read_foreign(tmp_path)
