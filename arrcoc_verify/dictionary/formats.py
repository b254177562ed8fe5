"""Dictionaries of other libraries: SAELens v6 folders read and written, two more read.

    SAELens v6             cfg.json, sae_weights.safetensors       W_enc [d_in, d_sae]
    dictionary_learning    config.json, ae.pt (weights only)       encoder.weight [d_sae, d_in]
    sparsify               cfg.json, sae.safetensors               encoder.weight [d_sae, d_in]

What a file says is folded in on reading: decoder norms other than 1, a constant threshold, and
biases that are not subtracted. What cannot be expressed is refused, never approximated.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from arrcoc_verify.dictionary.architecture import BATCHWISE, Dictionary, DictionaryConfig
from arrcoc_verify.errors import StoreError, UsageError
from arrcoc_verify.report.atomic import make_folder, write_bytes, write_text

SAELENS = "6.54.12"
"""Version of SAELens whose files are written."""


def write_saelens(folder: Path, dictionary: Dictionary) -> None:
    """Write an SAELens v6 folder that encodes and decodes the same.

    batchtopk and matryoshka are written for inference: as jumprelu with their one threshold.

    Raises:
        UsageError: SAELens has no form for it: conditional, turning, crosscoder, or a transcoder
            other than standard and jumprelu ones.
    """
    c = dictionary.config
    if c.query or c.turns or c.blocks:
        raise UsageError("SAELens knows no conditional dictionaries and no crosscoders")
    kind = "jumprelu" if c.architecture in BATCHWISE else c.architecture
    if c.transcoder and kind not in ("standard", "jumprelu"):
        raise UsageError(f"SAELens has no {kind} transcoder")
    state = {k: v.detach().float() for k, v in dictionary.state_dict().items()}
    tensors = {"W_enc": state["W_enc"].T, "W_dec": state["W_dec"], "b_dec": state["b_dec"]}
    if kind == "gated":
        tensors |= {"b_gate": state["b_enc"], "b_mag": state["b_mag"], "r_mag": state["r_mag"]}
    else:
        tensors["b_enc"] = state["b_enc"]
    if kind == "jumprelu":
        tensors["threshold"] = state["threshold"].expand(c.latents)
    config: dict[str, Any] = {
        "architecture": kind, "d_in": c.d_in, "d_sae": c.latents, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": not c.transcoder,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS, "sae_lens_training_version": SAELENS,
            "training_architecture": c.architecture,
        },
    }  # fmt: skip
    if kind == "topk":
        config |= {"k": int(c.k), "rescale_acts_by_decoder_norm": False}
    if c.transcoder:
        config["d_out"] = c.outputs
        config["architecture"] = {
            ("standard", False): "transcoder", ("standard", True): "skip_transcoder",
            ("jumprelu", False): "jumprelu_transcoder",
            ("jumprelu", True): "jumprelu_skip_transcoder",
        }[kind, c.skip]  # fmt: skip
        if c.skip:
            tensors["W_skip"] = state["W_skip"]
    make_folder(folder)
    data = save_tensors({name: value.contiguous().clone() for name, value in tensors.items()})
    write_bytes(folder / "sae_weights.safetensors", data)
    write_text(folder / "cfg.json", json.dumps(config, indent=1) + "\n")


_UNREADABLE = (
    OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, StopIteration,
    RuntimeError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
"""What comes of files that are cut off, are no such files, or hold values of another type."""


def read_foreign(folder: Path) -> Dictionary:
    """Read a dictionary of SAELens, dictionary_learning or sparsify, whichever lies in a folder.

    Raises:
        StoreError: none of them does, or it is damaged.
        UsageError: it is of a kind that has no form here.
    """
    readers: Mapping[str, Callable[[Path], Dictionary]] = {
        "sae_weights.safetensors": read_saelens, "ae.pt": read_dictionary_learning,
        "sae.safetensors": read_sparsify,
    }  # fmt: skip
    for name, read in readers.items():
        if (folder / name).is_file():
            try:
                return read(folder)
            except _UNREADABLE as error:
                raise StoreError(
                    f"cannot read {folder / name} and its configuration: {error!r}; wanted a "
                    "folder as its library writes it: fetch or save it again"
                ) from error
    raise StoreError(f"wanted one of {', '.join(readers)} in {folder}, found none")


_SAELENS = {
    "standard": "standard", "topk": "topk", "gated": "gated", "jumprelu": "jumprelu",
    "batchtopk": "batchtopk", "matryoshka_batchtopk": "batchtopk", "transcoder": "standard",
    "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip


def read_saelens(folder: Path) -> Dictionary:
    """Read an SAELens v6 folder."""
    told = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    held = load_tensors((folder / "sae_weights.safetensors").read_bytes())
    name = told["architecture"]
    if name not in _SAELENS:
        raise UsageError(f"an SAELens {name!r} has no form here; known: {', '.join(_SAELENS)}")
    normal = told.get("normalize_activations", "none")
    if normal not in ("none", None):
        raise UsageError(f"{folder} wants activations normalised by {normal!r}: fold that in first")
    _require_plain(folder, told)
    transcoder = "transcoder" in name
    kind: Any = _SAELENS[name]
    config = DictionaryConfig(
        architecture=kind, d_in=told["d_in"], latents=told["d_sae"],
        k=float(told.get("k", min(32, told["d_sae"]))),
        d_out=told["d_out"] if transcoder else None, skip="W_skip" in held,
    )  # fmt: skip
    state = {
        "W_enc": held["W_enc"].T, "W_dec": held["W_dec"], "b_dec": held["b_dec"],
        "b_enc": held["b_gate"] if kind == "gated" else held["b_enc"],
        "threshold": _threshold(held, kind),
    }  # fmt: skip
    state |= {key: held[key] for key in ("b_mag", "r_mag", "W_skip") if key in held}
    rescaled = bool(told.get("rescale_acts_by_decoder_norm", False))
    subtracted = bool(told.get("apply_b_dec_to_input", not transcoder))
    return _folded(config, state, kept_by_norm=rescaled, centred=subtracted)


def _require_plain(folder: Path, told: Mapping[str, Any]) -> None:
    """Refuse what an SAELens configuration may ask for besides and what has no form here."""
    name = told["architecture"]
    activations = ("relu", "topk") if _SAELENS[name] == "topk" else ("relu",)
    known = {
        "reshape_activations": ("none",), "activation_fn": activations,
        "activation_fn_str": activations, "finetuning_scaling_factor": (False,),
    }  # fmt: skip
    for key, allowed in known.items():
        value = told.get(key)
        if value is not None and value not in allowed:
            raise UsageError(
                f"{folder} has {key} {value!r}, which has no form here with architecture {name!r}; "
                f"known: {', '.join(map(str, allowed))}"
            )


def _threshold(held: Mapping[str, Tensor], kind: str) -> Tensor:
    if kind == "jumprelu":
        if "threshold" in held:
            return held["threshold"]
        return held["log_threshold"].exp()
    if kind == "batchtopk":
        return held["topk_threshold"].float().reshape(())
    return torch.zeros(())


def read_sparsify(folder: Path) -> Dictionary:
    """Read a folder of sparsify (its size is that of its weights, whatever cfg.json says)."""
    told = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    held = load_tensors((folder / "sae.safetensors").read_bytes())
    if told.get("activation", "topk") != "topk" or told.get("signed"):
        raise UsageError(f"sparsify's {told.get('activation')!r} activation has no form here")
    latents, d_in = held["encoder.weight"].shape
    transcode = bool(told.get("transcode"))
    config = DictionaryConfig(
        architecture="topk", d_in=d_in, latents=latents, k=told["k"],
        d_out=held["W_dec"].shape[1] if transcode else None, skip="W_skip" in held,
    )  # fmt: skip
    state = {
        "W_enc": held["encoder.weight"], "b_enc": held["encoder.bias"], "W_dec": held["W_dec"],
        "b_dec": held["b_dec"], "threshold": torch.zeros(()),
    }  # fmt: skip
    if "W_skip" in held:
        state["W_skip"] = held["W_skip"]
    return _folded(config, state, kept_by_norm=False, centred=not transcode)


def read_dictionary_learning(folder: Path) -> Dictionary:
    """Read a folder of dictionary_learning; weights only, nothing is unpickled."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))["trainer"]
    held = torch.load(folder / "ae.pt", map_location="cpu", weights_only=True)
    name = told["dict_class"]
    kinds: Mapping[str, Any] = {
        "AutoEncoder": "standard", "AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk",
        "MatryoshkaBatchTopKSAE": "batchtopk", "JumpReluAutoEncoder": "jumprelu",
        "GatedAutoEncoder": "gated",
    }  # fmt: skip
    if name not in kinds:
        raise UsageError(f"a {name!r} has no form here; known: {', '.join(kinds)}")
    plain = "W_enc" in held
    encoder = held["W_enc"].T if plain else held["encoder.weight"]
    decoder = held["W_dec"] if plain else held["decoder.weight"].T
    state = {"W_enc": encoder, "W_dec": decoder, "threshold": torch.zeros(())}
    if name == "GatedAutoEncoder":
        state |= {"b_enc": held["gate_bias"], "b_mag": held["mag_bias"], "r_mag": held["r_mag"]}
    else:
        state["b_enc"] = held["b_enc"] if plain else held["encoder.bias"]
    bias = next(key for key in ("b_dec", "bias", "decoder_bias") if key in held)
    state["b_dec"] = held[bias]
    if "threshold" in held:
        state["threshold"] = held["threshold"]
    if kinds[name] == "batchtopk" and float(held["threshold"]) < 0:
        raise UsageError(f"{folder} was saved before its threshold was known: train it further")
    latents, d_in = encoder.shape
    k = float(held["k"]) if "k" in held else min(32.0, float(latents))
    config = DictionaryConfig(architecture=kinds[name], d_in=d_in, latents=latents, k=k)
    centred = name != "JumpReluAutoEncoder"
    return _folded(config, state, kept_by_norm=False, centred=centred)


def _folded(
    config: DictionaryConfig, state: Mapping[str, Tensor], *, kept_by_norm: bool, centred: bool
) -> Dictionary:
    """Return a dictionary with unit rows that gives what the tensors give.

    Args:
        config: its shape.
        state: tensors as here, decoder rows of any norm.
        kept_by_norm: what is compared and kept was `code x norm` there, too.
        centred: the input was less `b_dec` there.
    """
    state = {name: value.detach().float().clone() for name, value in state.items()}
    norm = state["W_dec"].norm(dim=1).clamp(min=1e-12)
    uneven = not torch.allclose(norm, torch.ones_like(norm), atol=1e-4)
    if uneven and config.architecture in ("topk", *BATCHWISE) and not kept_by_norm:
        raise UsageError(
            "decoder rows differ in norm and latents competed without regard to it: "
            "there is no equal dictionary with unit rows"
        )
    state["W_dec"] = state["W_dec"] / norm[:, None]
    if config.architecture == "gated":
        state["r_mag"] = state["r_mag"] + norm.log()
        state["b_mag"] = state["b_mag"] * norm
    else:
        state["W_enc"] = state["W_enc"] * norm[:, None]
        state["b_enc"] = state["b_enc"] * norm
        if config.architecture == "jumprelu":
            state["threshold"] = state["threshold"] * norm
    if centred == config.transcoder:  # what was subtracted, or was not, goes into the bias
        moved = state["W_enc"] @ state["b_dec"][: config.d_in]
        state["b_enc"] = state["b_enc"] + (moved if not config.transcoder else -moved)
    made = Dictionary(config)
    made.load_state_dict(state)
    return made.eval()
