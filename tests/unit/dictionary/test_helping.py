import json
from dataclasses import replace

import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary import conditioning
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.helping import case_of, helping, recovering, store_beside
from arrcoc_verify.dictionary.job import Plan, source_of
from arrcoc_verify.dictionary.storage import TWINS, Kept, find_dictionaries, load_dictionary
from arrcoc_verify.dictionary.twins import matched
from arrcoc_verify.errors import StoreError, TooFewUnits, UsageError
from arrcoc_verify.lab import Lab
from arrcoc_verify.scenes.compose import scenes

SITE = "knowing.information_features"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dictionaries") / "made"
    assert command([
        "train-dictionary", "--sites", SITE, "--conditional", "--latents", "96", "--k", "4",
        "--steps", "60", "--batch-size", "256", "--out", str(folder),
    ]) == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def lab():
    return Lab(load("reference:analytic"), scenes("assert", per_cluster=1)[:10])


def test_a_matched_twin_of_a_matryoshka_has_prefixes_of_its_own():
    config = DictionaryConfig(architecture="matryoshka", d_in=24, latents=96, k=2, query=12)
    twin = matched(config)
    assert twin.latents > 96
    assert twin.prefixes[-1] == twin.latents
    Dictionary(twin)


def test_a_case_holds_each_patch_with_its_query_and_its_unit(trained, lab):
    kept = load_dictionary(trained / SITE)
    plan = Plan(name=SITE, inputs=(SITE,), k=4, conditional=True)
    source = source_of(store_beside(trained / SITE), plan, size=256, seed=0)
    case = case_of(lab, kept, source)
    kinds = [lab.clean, lab.asked("other"), lab.asked("absent")]
    patches = lab.grid[0] * lab.grid[1]
    assert len(case.judged.x) == len(kinds) * len(lab) * patches
    for at, patch in ((0, 0), (2, 3), (len(lab) + 1, 5), (3 * len(lab) - 1, patches - 1)):
        run, scene = kinds[at // len(lab)], at % len(lab)
        row = at * patches + patch
        torch.testing.assert_close(
            case.judged.x[row] / source.scale, run[SITE].flatten(1, -2)[scene, patch].float()
        )
        assert torch.equal(case.judged.query[row], run["query.embedding"][scene].float())
        same = case.units == case.units[row]
        assert int(same.sum()) == 3 * patches * lab.clusters().count(lab.clusters()[scene])
    asked = [text for run in kinds for text in run.queries]
    assert len(case.asked.unique()) == len(set(asked))


def test_the_query_is_not_said_to_help_where_it_does_not_reach(trained, lab):
    kept = load_dictionary(trained / SITE)
    found = helping(lab, kept, store_beside(trained / SITE), trained / SITE)
    assert not found.helps
    assert "the wrong query costs nothing" in found.reasons
    assert abs(found.wrong_query_cost) < 0.01
    assert len(found.conditional) == len(found.shuffled_query) == 3
    assert set(found.tokens_gain) == {"matched_unconditional", "unconditional", "shuffled_query"}


def test_tokens_recovered_are_those_of_the_dictionary_in_the_sites_own_scale(lab):
    both = torch.cat([torch.eye(48), -torch.eye(48)])
    exact = Dictionary(DictionaryConfig(architecture="standard", d_in=48, latents=96, k=8))
    with torch.no_grad():
        exact.W_dec.copy_(both)
        exact.W_enc.copy_(both)
        exact.b_dec.copy_(torch.linspace(-1, 1, 48))  # right in any scale
    found = recovering(lab, Kept(dictionary=exact, about={"site": SITE}), 4.0)
    torch.testing.assert_close(
        found(exact), torch.ones(len(set(lab.clusters()))).double(), atol=1e-2, rtol=0
    )
    with torch.no_grad():
        exact.W_enc.zero_()
        exact.b_dec.copy_(4.0 * lab.clean[SITE].flatten(0, -2).mean(0))
    left = 1 - found(exact)  # the mean in the model's scale is mean ablation: 1 over all pictures
    assert float(left.square().mean().sqrt()) == pytest.approx(1.0, abs=1e-3)
    wanted = (4.0 * lab.clean[SITE].flatten(0, -2).mean(0)).float()
    assert torch.equal(exact.b_dec.detach(), wanted)  # what was given is left as it was


def test_what_cannot_be_judged_is_refused_before_anything_is_trained(trained, lab, tmp_path):
    kept = load_dictionary(trained / SITE)
    with pytest.raises(TooFewUnits, match="8 independent pictures"):
        helping(lab.subset(range(3)), kept, store_beside(trained / SITE), tmp_path)
    plain = replace(kept, dictionary=Dictionary(DictionaryConfig(d_in=48, latents=96, k=4)))
    with pytest.raises(UsageError, match="no query"):
        helping(lab, plain, store_beside(trained / SITE), tmp_path)
    assert not list(tmp_path.iterdir())


def test_finished_twins_are_taken_and_stay_out_of_sight(trained, tmp_path, monkeypatch, capsys):
    def none(*_, **__):
        raise AssertionError("a twin was trained again")

    monkeypatch.setattr(conditioning, "Trainer", none)
    out = tmp_path / "q.json"
    assert command(["quality", str(trained), "--conditioning", "--json", str(out)]) == 0
    (one,) = json.loads(out.read_text())["dictionaries"].values()
    assert one["conditioning"]["helps"] is False
    assert {"wrong_query_cost", "smuggling", "shuffled_query"} <= set(one["conditioning"])
    assert "is not shown to help" in capsys.readouterr().out
    assert find_dictionaries(trained) == [trained / SITE]
    assert len(list((trained / SITE / TWINS).iterdir())) == 4 * 3


def test_without_its_activations_no_twin_can_be_trained(trained, tmp_path, capsys):
    code = command(["quality", str(trained), "--conditioning", "--store", str(tmp_path / "none")])
    assert code == 2
    assert "--store" in capsys.readouterr().err
    with pytest.raises(StoreError, match="activations"):
        store_beside(tmp_path / "dictionary")
