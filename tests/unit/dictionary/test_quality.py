import json
from dataclasses import replace

import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.probing import probes
from arrcoc_verify.dictionary.quality import answer_site, quality, stabilities, stability
from arrcoc_verify.dictionary.storage import Kept, save_dictionary
from arrcoc_verify.errors import ShapeMismatch, StoreError
from arrcoc_verify.lab import Lab
from arrcoc_verify.scenes.compose import scenes

SITE = "knowing.query_features"


@pytest.fixture(scope="module")
def lab():
    return Lab(load("reference:analytic"), scenes("select", per_cluster=1)[:4])


def kept(change=lambda made: None, **more):
    """Both signs of every channel: exact whatever the activation."""
    config = DictionaryConfig(architecture="standard", d_in=48, latents=100, k=8, **more)
    made = Dictionary(config)
    with torch.no_grad():
        made.W_dec[:96] = torch.cat([torch.eye(48), -torch.eye(48)])
        made.W_enc[:96] = made.W_dec[:96]
        made.W_enc[96:] = 0  # four latents that never fire
        change(made)
    return Kept(dictionary=made, about={"site": SITE})


def test_an_exact_dictionary_recovers_everything(lab):
    found = quality(lab, kept())
    assert found.fve == pytest.approx(1.0, abs=1e-9)
    assert found.tokens_recovered_mean == pytest.approx(1.0, abs=1e-2)
    assert found.tokens_recovered_zero == pytest.approx(1.0, abs=1e-2)
    value = lab.clean[SITE].float().flatten(0, 1)
    absent = int((value <= 0).all(0).sum() + (value >= 0).all(0).sum())
    silent = (4 + absent) / 100
    assert found.dead == pytest.approx(silent)
    assert sum(found.density) == pytest.approx(1.0)
    assert found.density[0] >= silent - 1e-9
    assert found.control[1] < found.control[4] < found.control[16] <= 1.0


def test_a_dictionary_of_the_mean_is_mean_ablation(lab):
    value = lab.clean[SITE]

    def mean_only(made):
        made.W_enc.zero_()
        made.b_dec.copy_(value.flatten(0, 1).mean(0))

    found = quality(lab, kept(mean_only))
    assert found.fve == pytest.approx(0.0, abs=1e-6)
    assert found.l0 == 0.0
    assert found.tokens_recovered_mean == pytest.approx(0.0, abs=1e-3)


def test_a_dictionary_of_nothing_is_zero_ablation(lab):
    found = quality(lab, kept(lambda made: made.W_enc.zero_()))
    assert found.tokens_recovered_zero == pytest.approx(0.0, abs=1e-9)
    assert found.control is None or found.control[16] == 0.0


def test_what_the_query_does_not_reach_has_no_sparse_control(lab):
    about = {"site": "knowing.information_features"}
    assert quality(lab, replace(kept(), about=about)).control is None


def wide(sites, target=None, change=lambda made: None):
    """An exact dictionary of sites side by side, or of a target by its linear path."""
    total = 48 * len(sites)
    shape = (
        {"blocks": (48,) * len(sites), "latents": 2 * total} if target is None
        else {"d_out": 48, "skip": True, "latents": 4}
    )  # fmt: skip
    made = Dictionary(DictionaryConfig(architecture="standard", d_in=total, k=4, **shape))
    with torch.no_grad():
        if target is None:
            made.W_dec.copy_(torch.cat([torch.eye(total), -torch.eye(total)]))
            made.W_enc.copy_(made.W_dec)
        else:
            made.W_enc.zero_()
            made.W_skip.copy_(torch.eye(48))
        change(made)
    return Kept(dictionary=made, about={"site": sites[0], "sites": list(sites), "target": target})


def test_an_exact_crosscoder_recovers_each_of_its_sites(lab):
    sites = (SITE, "balancing.features")
    found = quality(lab, wide(sites))
    assert found.sites == {name: pytest.approx(1.0, abs=1e-9) for name in sites}
    assert found.fve == pytest.approx(1.0, abs=1e-9)
    assert found.tokens_recovered_mean == pytest.approx(1.0, abs=1e-2)
    assert found.control is None

    def half(made):
        made.W_dec[:, 48:] = 0
        made.b_dec[48:] = lab.clean[sites[1]].flatten(0, 1).double().mean(0)
        made.W_enc[:, 48:] = 0

    found = quality(lab, wide(sites, change=half))
    assert found.sites == {
        SITE: pytest.approx(1.0, abs=1e-9),
        sites[1]: pytest.approx(0.0, abs=1e-9),
    }
    # All that reaches the tokens comes through the second site, which is at its mean.
    assert found.tokens_recovered_mean == pytest.approx(0.0, abs=1e-2)


def test_a_transcoder_is_judged_by_the_site_that_it_decodes(lab):
    other = "knowing.salience_features"
    copies = quality(lab, wide((SITE,), target=SITE))
    assert (copies.fve, copies.l0, copies.dead) == (pytest.approx(1.0, abs=1e-9), 0.0, 1.0)
    assert copies.tokens_recovered_zero == pytest.approx(1.0, abs=1e-2)
    given, wanted = (lab.clean[name].double().flatten(0, 1) for name in (SITE, other))
    spread = (wanted - wanted.mean(0)).square().sum()
    elsewhere = quality(lab, wide((SITE,), target=other))
    assert elsewhere.fve == pytest.approx(float(1 - (wanted - given).square().sum() / spread))
    assert elsewhere.sites == {other: elsewhere.fve}


def test_a_transcoder_that_says_not_what_it_decodes_is_refused(lab):
    made = wide((SITE,), target=SITE)
    with pytest.raises(StoreError, match="which site this transcoder decodes"):
        quality(lab, replace(made, about={"site": SITE}))
    with pytest.raises(ShapeMismatch, match="48 and 48 channels, the dictionary 96 and 96"):
        quality(lab, replace(wide((SITE, SITE)), about={"site": SITE}))


def test_equal_dictionaries_are_stable_and_random_ones_are_not():
    def seeded(seed):
        config = DictionaryConfig(d_in=48, latents=100, k=8)
        return Kept(dictionary=Dictionary(config, seed=seed))

    assert stability(seeded(0), [seeded(0)]) == pytest.approx(1.0)
    assert stability(seeded(0), [seeded(1), seeded(2)]) < 0.6


def test_stability_is_over_seeds_of_one_recipe_only():
    def made(seed, steps=5, k=8, site=SITE):
        config = DictionaryConfig(d_in=48, latents=100, k=k)
        about = {"site": site, "recipe": {"steps": steps, "seed": seed}}
        return Kept(dictionary=Dictionary(config, seed=0), about=about)

    each = {
        "a": made(0), "b": made(1), "same seed": made(0), "longer": made(2, steps=6),
        "denser": made(3, k=9), "elsewhere": made(4, site="knowing.information_features"),
        "unknown": replace(made(5), about={"site": SITE}),
    }  # fmt: skip
    found = stabilities(each)
    assert found == {name: pytest.approx(1.0) for name in ("a", "b", "same seed")}
    assert stabilities({"a": each["a"], "same seed": each["same seed"]}) == {}


def test_probes_tell_what_codes_hold_and_no_more(lab):
    patches = lab.target.shape
    known = torch.zeros(*patches, 3)
    known[..., 0] = lab.target
    known[..., 1] = lab.distractor
    found = probes(lab, known, torch.zeros_like(known))
    assert found["object"].latents == found["asked"].latents == 1.0
    assert found["object"].activations == found["asked"].activations == found["asked"].chance == 0.5
    assert found["object"].patches == lab.target.numel()
    assert found["asked"].patches == int((lab.target | lab.distractor).sum())
    noise = torch.rand(*patches, 4, generator=torch.Generator().manual_seed(0))
    assert probes(lab, noise, noise)["object"].latents == pytest.approx(0.5, abs=0.1)


def test_a_probe_is_judged_on_photographs_that_it_did_not_see(lab):
    # Each picture marks its target in a latent of its own: nothing to learn for other pictures.
    own = torch.zeros(*lab.target.shape, len(lab))
    for at in range(len(lab)):
        own[at, :, at] = lab.target[at].float()
    assert probes(lab, own, own)["asked"].latents == 0.5


def test_labels_are_probed_where_both_halves_of_the_photographs_have_them(lab):
    assert "label" not in probes(lab, torch.rand(*lab.target.shape, 2), lab.clean[SITE])
    scene = lab.scenes[0]
    named = [
        replace(one, target=replace(one.target, label=("fish", "dog")[at // 2 % 2]))
        for at, one in enumerate(scenes("select", per_cluster=1)[:12])
    ]
    assert scene.name == named[0].name
    other = Lab(lab.model, named)
    codes = torch.zeros(*other.target.shape, 2)
    for at, one in enumerate(named):
        codes[at, :, 0] = 1.0 if one.target.label == "fish" else -1.0
    found = probes(other, codes, torch.zeros_like(codes))["label"]
    assert found.latents == 1.0
    assert found.chance == found.activations == 0.5


def test_a_model_without_an_answer_has_no_task_to_recover(lab):
    assert answer_site(lab.model) is None
    found = quality(lab, kept())
    assert found.task_recovered_mean is found.task_recovered_zero is None


def test_the_task_is_recovered_as_far_as_the_answer_is():
    lab = Lab(load("reference:trained"), scenes("select", per_cluster=1)[:3])
    site = "attending.features"
    value = lab.clean[site]
    channels = value.shape[-1]
    both = torch.cat([torch.eye(channels), -torch.eye(channels)])
    made = Dictionary(
        DictionaryConfig(architecture="standard", d_in=channels, latents=2 * channels, k=8)
    )
    with torch.no_grad():
        made.W_dec.copy_(both)
        made.W_enc.copy_(both)
    exact = quality(lab, Kept(dictionary=made, about={"site": site}))
    assert exact.task_recovered_mean == pytest.approx(1.0, abs=1e-2)
    assert exact.task_recovered_zero == pytest.approx(1.0, abs=1e-2)
    with torch.no_grad():
        made.W_enc.zero_()
        made.b_dec.copy_(value.flatten(0, 1).double().mean(0))
    mean = quality(lab, Kept(dictionary=made, about={"site": site}))
    assert mean.task_recovered_mean == pytest.approx(0.0, abs=1e-2)


def test_the_command_measures_every_dictionary(tmp_path, capsys):
    save_dictionary(tmp_path / "a", kept())
    told = tmp_path / "told.json"
    assert command(["quality", str(tmp_path), "--json", str(told)]) == 0
    one = json.loads(told.read_text())["dictionaries"]["a"]
    assert one["fve"] == pytest.approx(1.0)
    assert one["stability"] is one["task_recovered_mean"] is None
    assert one["probes"]["object"]["latents"] == pytest.approx(
        one["probes"]["object"]["activations"], abs=0.05
    )
    assert "declares no answer" in capsys.readouterr().out
    save_dictionary(tmp_path / "b" / "c", replace(kept(), about={"site": "no.such"}))
    assert command(["quality", str(tmp_path / "b")]) == 4


def test_figures_at_one_l0_are_said_to_be_so(capsys):
    from arrcoc_verify.cli.dictionaries import _warn_of_one_l0

    one = {"site": "a", "config": {"k": 8.0}}
    _warn_of_one_l0({"x": one, "y": {"site": "b", "config": {"k": 8.0}},
                     "z": {"site": "b", "config": {"k": 16.0}}})  # fmt: skip
    said = capsys.readouterr().err
    assert "one k only of a;" in said
