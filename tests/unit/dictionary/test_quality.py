import json
from dataclasses import replace

import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.quality import quality, stability
from arrcoc_verify.dictionary.storage import Kept, save_dictionary
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


def test_equal_dictionaries_are_stable_and_random_ones_are_not():
    def seeded(seed):
        config = DictionaryConfig(d_in=48, latents=100, k=8)
        return Kept(dictionary=Dictionary(config, seed=seed))

    assert stability(seeded(0), [seeded(0)]) == pytest.approx(1.0)
    assert stability(seeded(0), [seeded(1), seeded(2)]) < 0.6


def test_the_command_measures_every_dictionary(tmp_path):
    save_dictionary(tmp_path / "a", kept())
    told = tmp_path / "told.json"
    assert command(["quality", str(tmp_path), "--json", str(told)]) == 0
    assert json.loads(told.read_text())["dictionaries"]["a"]["fve"] == pytest.approx(1.0)
    save_dictionary(tmp_path / "b" / "c", replace(kept(), about={"site": "no.such"}))
    assert command(["quality", str(tmp_path / "b")]) == 4


def test_figures_at_one_l0_are_said_to_be_so(capsys):
    from arrcoc_verify.cli.dictionaries import _warn_of_one_l0

    one = {"site": "a", "config": {"k": 8.0}}
    _warn_of_one_l0({"x": one, "y": {"site": "b", "config": {"k": 8.0}},
                     "z": {"site": "b", "config": {"k": 16.0}}})  # fmt: skip
    said = capsys.readouterr().err
    assert "one k only of a;" in said
