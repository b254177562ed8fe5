import json

import pytest
import torch

from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary.sparse_world import SparseWorld, absorption, probe_ceiling


@pytest.fixture(scope="module")
def world():
    return SparseWorld.make(seed=0)


def test_features_fire_as_often_as_planted_and_children_only_with_their_parent(world):
    _, codes = world.draw(3, 20_000)
    fires = codes > 0
    assert float(fires.sum(1).float().mean()) == pytest.approx(8.0, rel=0.1)
    plain = fires[:, 48:].float().mean(0)
    assert torch.allclose(plain, world.chance[48:], atol=0.01)
    assert all(not bool((fires[:, c] & ~fires[:, p]).any()) for p, c in world.pairs())


def test_activations_are_codes_times_directions(world):
    x, codes = world.draw(5, 2000)
    assert float((x - codes @ world.directions).std()) == pytest.approx(0.02, rel=0.05)


def test_a_draw_is_the_same_for_its_number_and_another_for_the_next(world):
    assert torch.equal(world.draw(1, 8)[0], world.draw(1, 8)[0])
    assert not torch.equal(world.draw(1, 8)[0], world.draw(2, 8)[0])


def test_firing_is_correlated(world):
    _, codes = world.draw(7, 20_000)
    own = (codes[:, 48:80] > 0).float()
    found = torch.corrcoef(own.T)
    assert float((found - torch.eye(32)).abs().max()) > 0.1


def test_probes_are_perfect_where_nothing_overlaps_and_not_where_it_does():
    easy = SparseWorld.make(seed=0, features=64, channels=64, active=4.0)
    square = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q
    easy = SparseWorld(directions=square, chance=easy.chance, loadings=easy.loadings, size=64,
                       seed=0, held=4096)  # fmt: skip
    hard = SparseWorld.make(seed=0, features=64, channels=16, active=4.0)
    assert probe_ceiling(easy) > 0.97
    assert probe_ceiling(hard) < 0.9


def test_absorption_is_none_of_the_truth_and_all_of_a_parent_that_its_children_silence(world):
    _, codes = world.judged()
    fires = codes > 0
    assert absorption(world, fires, codes) == 0.0
    silenced = fires.clone()
    for parent, child in world.pairs():
        silenced[:, parent] &= ~fires[:, child]
    assert absorption(world, silenced, codes) == pytest.approx(1.0)


def test_the_command_sweeps_and_refuses_what_cannot_run(tmp_path, capsys):
    told = tmp_path / "told.json"
    asked = ["sae-world", "--k", "4", "--k", "8", "--architecture", "batchtopk", "--steps", "150"]
    assert command([*asked, "--json", str(told)]) == 0
    found = json.loads(told.read_text())
    low, high = found["rows"]
    assert (low["k"], high["k"]) == (4, 8)
    assert low["l0"] == pytest.approx(4, rel=0.15)
    assert high["fve"] > low["fve"]
    assert 0.5 < found["probe_ceiling_f1"] < 1
    assert "logistic probes" in capsys.readouterr().out
    assert command(["sae-world", "--seeds", "1"]) == 4
    assert command(["sae-world", "--architecture", "topkk"]) == 4
