"""The comparison of libraries: fair data, plain arithmetic, and failures that are told."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from benchmarks import bench_sae_peers, bench_sae_run
from benchmarks.bench_sae_engines import Own, fused
from benchmarks.bench_sae_run import main, summary
from benchmarks.bench_sae_world import BY_K, DEFAULT, SETTINGS, World, sparse_world, world_of

QUICK = SETTINGS["quick"]


def test_a_rehearsal_writes_speed_and_scores_and_names_the_library_that_failed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        bench_sae_run.bench_sae_peers, "environment",
        lambda _: (Path(sys.executable), {"unheard_of": "0"}, ""),
    )  # fmt: skip
    path = tmp_path / "bench.json"
    code = main(["--settings", "quick", "--json", str(path)])
    report = json.loads(path.read_text())

    assert 1 == code
    assert {"unheard_of": "KeyError: 'unheard_of'"} == report["problems"]
    assert {"ours", "ours_float32_only"} == report["libraries"].keys()
    for found in report["libraries"].values():
        assert found["samples_per_second"] > 0
        assert 4 == found["l0"]
        assert 0.3 < found["fve"] < 1
        assert 0.3 < found["mcc"] < 1
        assert 0.15 < found["f1"] < 1
        assert 0 <= found["dead"] < 0.2
    assert {"ours/ours_float32_only"} == report["ratios"].keys()
    assert 1 == report["machine"]["threads"]
    assert 12 == report["setting"]["total_steps"]
    for name, curve in report["on_the_way"].items():
        assert [2, 7, 12] == [one["step"] for one in curve]
        assert report["libraries"][name]["f1"] == curve[-1]["f1"]
        assert report["libraries"][name]["fve"] == curve[-1]["fve"]
    assert {"ours", "ours_float32_only"} == report["steps_to_quality"]["steps"].keys()
    assert {} == report["planted_by_k"]


def test_a_folder_of_packages_serves_where_no_environment_can_be_made(tmp_path):
    (tmp_path / "sae_lens").mkdir()
    told = tmp_path / "sae_lens-6.54.12.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: sae-lens\nVersion: 6.54.12\n")

    assert bench_sae_peers.packages(tmp_path)
    assert (Path(sys.executable), {"sae_lens": "6.54.12"}, "") == bench_sae_peers.environment(
        tmp_path
    )
    assert not bench_sae_peers.packages(tmp_path / "elsewhere")


def test_an_environment_that_cannot_be_made_is_told(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    python, versions, why = bench_sae_peers.environment(blocked / "env")

    assert (None, {}) == (python, versions)
    assert why.startswith("the libraries' environment could not be made")


def test_ratios_are_medians_within_rounds():
    rounds = [
        {"ours": {"wall": ours, "cpu": 1.0}, "slow": {"wall": slow, "cpu": 3.0}}
        for ours, slow in ((1.0, 4.0), (10.0, 50.0), (2.0, 12.0))
    ]
    scores = {"ours": {"fve": 0.5}, "slow": {"fve": 0.4}}
    found = summary(QUICK, rounds, scores, {})

    assert {"wall": 5.0, "cpu": 3.0} == found["ratios"]["ours/slow"]
    assert QUICK.steps * QUICK.batch / 2.0 == found["libraries"]["ours"]["samples_per_second"]
    assert 0.4 == found["libraries"]["slow"]["fve"]


def test_steps_to_quality_are_the_first_at_which_nearly_the_best_was_reached():
    scored = [
        (step, {"quick": {"fve": 0.1, "f1": quick}, "slow": {"fve": 0.2, "f1": slow},
                "failed": {"fve": 0.0, "f1": 1.0}})
        for step, quick, slow in ((50, 0.40, 0.10), (100, 0.58, 0.30), (150, 0.60, 0.50))
    ]  # fmt: skip
    found = bench_sae_run.way(scored, ["quick", "slow"])

    assert pytest.approx(0.57) == found["steps_to_quality"]["f1"]
    assert {"quick": 100, "slow": None} == found["steps_to_quality"]["steps"]
    assert {"step": 100, "fve": 0.2, "f1": 0.3} == found["on_the_way"]["slow"][1]


def test_the_planted_world_is_met_at_three_k_with_as_many_steps():
    planted = [SETTINGS[name] for name in BY_K]

    assert [4, 8, 16] == [setting.k for setting in planted]
    assert {4000} == {setting.total for setting in planted}
    assert set(BY_K) <= set(DEFAULT["cpu"])
    results = [
        {"setting": {"name": name, "k": k}, "libraries": {"ours": {"fve": k / 10, "f1": k / 20}}}
        for name, k in (("small", 12), ("planted", 8), ("planted-k4", 4))
    ]
    assert {
        "4": {"ours": {"fve": 0.4, "f1": 0.2}}, "8": {"ours": {"fve": 0.8, "f1": 0.4}},
    } == bench_sae_run.by_k(results)  # fmt: skip
    assert ["4", "8"] == list(bench_sae_run.by_k(results))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_library_starts_from_the_planted_directions(seed):
    planted = World(QUICK, seed=seed, device="cpu").directions
    torch.manual_seed(seed)
    plain = torch.nn.Linear(QUICK.d_in, QUICK.latents)
    config = DictionaryConfig(d_in=QUICK.d_in, latents=QUICK.latents, k=QUICK.k)
    ours = [Dictionary(config, seed=other).W_dec.detach() for other in (0, 1)]
    for rows in (*ours, torch.nn.functional.normalize(plain.weight.detach(), dim=1)):
        assert (rows @ planted.T).abs().max() < 0.9


def test_the_world_is_planted_as_it_says():
    world = World(QUICK, seed=0, device="cpu")
    x, codes = world.draw(0, 20000)

    assert torch.equal(world.batch(3), world.batch(3))
    assert not torch.equal(world.batch(3), world.batch(4))
    assert float(world.chance.sum()) == pytest.approx(QUICK.active, rel=1e-5)
    size = 0.5 + 0.5 * (2 / torch.pi) ** 0.5  # mean of a half-normal about a half
    expected = world.mean + size * world.chance @ world.directions
    torch.testing.assert_close(expected, x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(codes @ world.directions + world.mean, x, atol=0.1, rtol=0)


def test_the_correlated_world_is_the_one_whose_probes_are_known():
    setting = replace(QUICK, correlated=True)
    world = world_of(setting, seed=3, device="cpu")
    sparse = sparse_world(setting, 3)

    assert torch.equal(world.directions, sparse.directions)
    assert torch.equal(world.batch(5), sparse.batch(5).x)
    x, codes = world.held_out()
    torch.testing.assert_close(codes @ world.directions, x, atol=0.2, rtol=0)


def test_our_engine_is_the_trainer_on_the_given_batches():
    world = World(QUICK, seed=0, device="cpu")
    engine = Own(QUICK, world, "cpu")
    for number in range(QUICK.total):
        engine.step(world.batch(number))
    codes, decoded = engine.scored(world.held_out()[0])

    assert QUICK.total == engine.trainer.step
    torch.testing.assert_close(decoded, engine.trainer.dictionary.decode(codes).detach())


def test_the_fused_engine_learns_what_the_trainer_learns():
    world, explained = World(QUICK, seed=0, device="cpu"), []
    for make in (Own, fused(torch.float32)):
        engine = make(QUICK, world, "cpu")
        for number in range(QUICK.total):
            engine.step(world.batch(number))
        x, _ = world.held_out()
        _, decoded = engine.scored(x)
        explained.append(float(1 - (x - decoded).square().sum() / (x - x.mean(0)).square().sum()))

    assert explained[0] == pytest.approx(explained[1], abs=0.01)


def test_a_device_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("not_run: this machine has the device")
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])

    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert ("gpu", "gpu-small") == DEFAULT["cuda"]
