import contextlib
import dataclasses
import json

import pytest
import torch
from PIL import Image

from arrcoc_verify.adapters import load
from arrcoc_verify.capture import capture
from arrcoc_verify.cli.ending import run as command
from arrcoc_verify.dictionary import job
from arrcoc_verify.dictionary.activations import Places, StoreSource, split
from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.rotation import RotationTest
from arrcoc_verify.dictionary.storage import (
    CONFIG,
    WEIGHTS,
    Kept,
    find_dictionaries,
    load_dictionary,
    save_dictionary,
)
from arrcoc_verify.dictionary.training import Recipe
from arrcoc_verify.errors import StoreError, UsageError
from arrcoc_verify.scenes.compose import scenes

SITE = "knowing.query_features"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    model = load("reference:analytic")
    found = [*scenes("train", per_cluster=1), *scenes("select", per_cluster=1)[:3]]
    return capture(
        model, found, folder=tmp_path_factory.mktemp("store"), progress=False,
        sites=[SITE, "knowing.salience_features", "balancing.features", "query.embedding"],
    )  # fmt: skip


def _pairs(samples):
    both = torch.cat([samples.x, samples.query], dim=1)
    return [tuple(row) for row in both.tolist()]


def source(store, **more):
    rows, held = split(store)
    places = Places(inputs=(SITE,), query="query.embedding")
    return StoreSource(store=store, places=places, rows=rows, held_rows=held, size=100, **more)


@pytest.mark.parametrize("architecture", ["gated", "jumprelu", "topk"])
def test_a_kept_dictionary_is_the_same_and_says_what_it_is(architecture, tmp_path):
    made = Dictionary(
        DictionaryConfig(architecture=architecture, d_in=6, latents=12, k=3, query=4), seed=1
    )
    save_dictionary(tmp_path, Kept(dictionary=made, about={"site": "knowing.x"}))
    kept = load_dictionary(tmp_path)
    x, query = torch.randn(5, 6), torch.randn(5, 4)
    assert torch.equal(kept.dictionary(x, query), made(x, query))
    assert kept.site == "knowing.x"
    assert find_dictionaries(tmp_path) == [tmp_path]


def test_damage_is_found_and_said(tmp_path):
    with pytest.raises(StoreError, match="wanted a dictionary"):
        load_dictionary(tmp_path)
    with pytest.raises(StoreError, match="train some by"):
        find_dictionaries(tmp_path)
    made = Dictionary(DictionaryConfig(d_in=6, latents=12, k=3))
    save_dictionary(tmp_path, Kept(dictionary=made))
    with pytest.raises(StoreError, match="--site"):
        _ = load_dictionary(tmp_path).site
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        load_dictionary(tmp_path)
    (tmp_path / CONFIG).write_text('{"format": "other"}')
    with pytest.raises(StoreError, match="not of format"):
        load_dictionary(tmp_path)


def test_an_epoch_shows_every_patch_of_a_pool_once_and_the_query_of_its_image(store):
    drawn = source(store)
    count = len(drawn.rows) * drawn.each // drawn.size
    seen = torch.cat([drawn.batch(step).x for step in range(count)])
    every = drawn.read(drawn.rows)
    assert len(seen.unique(dim=0)) >= 0.95 * min(len(every.x.unique(dim=0)), len(seen))
    pairs = set(_pairs(every))
    batch = drawn.batch(1)
    assert set(_pairs(batch)) <= pairs


def test_a_step_is_the_same_whenever_it_is_asked_for_and_memory_is_bounded(store):
    small = source(store, pool_bytes=1)
    assert small.pool_examples == 1
    late = small.batch(7).x
    small.batch(0)
    assert torch.equal(small.batch(7).x, late)
    assert not torch.equal(source(store, pool_bytes=1, seed=1).batch(7).x, late)


def test_the_scale_makes_the_mean_square_k(store):
    drawn = source(store)
    drawn.fit_scale(4.0)
    x = drawn.batch(0).x
    assert float((x - x.mean(0)).square().sum(1).mean()) == pytest.approx(4.0, rel=1e-3)


def test_no_photograph_is_on_both_sides(store):
    rows, held = split(store)
    assert {store.rows[r].role for r in rows} == {"train"}
    assert {store.rows[r].role for r in held} == {"select"}
    rows, held = split(store, roles={"no role": "train"})
    assert rows
    assert held
    assert not {store.rows[r].unit for r in rows} & {store.rows[r].unit for r in held}


def test_a_killed_training_goes_on_to_the_same_bits(store, tmp_path):
    plan = job.Plan(name="x", inputs=(SITE,), latents=64, k=4, conditional=True)
    recipe = Recipe(steps=12)
    whole = job.train_plan(store, plan, recipe, tmp_path / "whole", size=64)

    class Kill(Exception):
        pass

    def tell(figures):
        if figures.step == 8:
            raise Kill

    def begun(**more):
        return job.train_plan(store, plan, recipe, tmp_path / "killed", size=64, **more)

    real = job.Trainer.train
    job.Trainer.train = lambda self, tell, *, keep, every: real(self, tell, keep=keep, every=5)
    try:
        with pytest.raises(Kill):
            begun(tell=tell)
        again = begun(resume=True)
    finally:
        job.Trainer.train = real
    one, other = whole.dictionary.state_dict(), again.dictionary.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "killed" / "checkpoint").exists()


def test_transcoders_and_crosscoders_are_trained_on_a_store(store, tmp_path):
    recipe = Recipe(steps=20)
    sites = (SITE, "balancing.features")
    cross = job.Plan(name="c", inputs=sites, architecture="batchtopk", latents=64, k=4)
    made = job.train_plan(store, cross, recipe, tmp_path / "c", size=64).dictionary
    assert made.config.blocks == (48, 48)
    itself = job.Plan(name="t", inputs=(SITE,), target=SITE, latents=64, skip=True)
    kept = job.train_plan(store, itself, Recipe(steps=300), tmp_path / "t", size=64)
    assert kept.dictionary.config.transcoder
    assert kept.about["held_out"]["fve"] > 0.5  # the linear path alone could be exact


def test_scale_is_folded_in_so_that_the_site_is_encoded_as_it_is(store, tmp_path):
    plan = job.Plan(name="x", inputs=(SITE,), latents=96, k=8)
    kept = job.train_plan(store, plan, Recipe(steps=60), tmp_path / "x", size=128)
    _, held = split(store)
    raw = StoreSource(store=store, places=Places(inputs=(SITE,)), rows=held, held_rows=held)
    now = job.held_figures(kept.dictionary, raw.held_out())
    assert now["fve"] == pytest.approx(kept.about["held_out"]["fve"], abs=1e-3)
    assert now["l0"] == pytest.approx(kept.about["held_out"]["l0"], abs=0.05)


def test_sites_are_chosen_by_role_and_refused_by_shape():
    model = load("reference:analytic")
    assert len(job.vector_sites(model)) == 5
    with pytest.raises(UsageError, match="vector a patch"):
        job.vector_sites(model, ["knowing.salience"])


def test_a_sweep_has_a_plan_for_each_k_and_width():
    plans = job.swept(job.Plan(name="x", inputs=("a",)), [8, 16.0], [64, 128])
    assert [plan.name for plan in plans] == ["x-k8-64", "x-k8-128", "x-k16-64", "x-k16-128"]


def test_the_command_trains_keeps_and_says(tmp_path, capsys):
    for at in range(4):
        noise = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(at))
        Image.fromarray(noise.to(torch.uint8).numpy()).save(tmp_path / f"{at}.png")
    out, told = tmp_path / "out", tmp_path / "told.json"
    asked = ["train-dictionary", "--images", str(tmp_path), "--sites", SITE, "--steps", "5",
             "--k", "4", "--out", str(out), "--json", str(told)]  # fmt: skip
    assert command(asked) == 0
    assert "on held-out photographs" in capsys.readouterr().out
    found = json.loads(told.read_text())["dictionaries"][SITE]
    assert found["config"]["k"] == 4
    assert load_dictionary(out / SITE).site == SITE
    assert command(["train-dictionary", "--resume", str(tmp_path / "none")]) == 4
    assert command(["conditioning", "--steps", "0"]) == 4
    assert command(["conditioning", "--seeds", "1", "--steps", "1"]) == 4


TURNING = job.Plan(name="one", inputs=(SITE,), latents=96, k=4, conditional=True, turns=2)


def test_directions_do_not_turn_where_the_test_does_not_say_so(store, tmp_path):
    """In the analytic model a query feature is one direction, whatever is asked."""
    kept = job.train_plan(store, TURNING, Recipe(steps=30), tmp_path / "one", size=256)
    plain = dataclasses.replace(TURNING, turns=0)
    same = job.train_plan(store, plain, Recipe(steps=30), tmp_path / "two", size=256)

    assert 0 == kept.dictionary.config.turns
    assert not kept.about["rotation"]["turns"]
    assert 5 == len(kept.about["rotation"]["refits"])
    assert kept.dictionary.W_dec.equal(same.dictionary.W_dec)
    assert {CONFIG, WEIGHTS} == {path.name for path in (tmp_path / "one").iterdir()}


def test_directions_turn_where_the_test_says_so_and_a_resumed_run_asks_once(
    store, tmp_path, monkeypatch
):
    asked = []

    def says_so(*_, **__):
        asked.append(1)
        return RotationTest(score=0.2, refits=(0.1,) * 3, ratio=2.0, p_value=0.001, turns=True)

    monkeypatch.setattr(job, "rotation_test", says_so)
    recipe, folder = Recipe(steps=6), tmp_path / "one"
    kept = job.train_plan(store, TURNING, recipe, folder, size=128)
    assert 2 == kept.dictionary.config.turns
    assert kept.about["rotation"]["turns"]

    again, last = tmp_path / "again", 6
    for turn in range(2):

        def stop(figures, turn=turn):
            if turn == 0 and asked == [1, 1] and figures.step == last:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            resumed = job.train_plan(
                store, TURNING, recipe, again, size=128, resume=True, tell=stop
            )
    assert [1, 1] == asked
    assert resumed.dictionary.dec_turn.equal(kept.dictionary.dec_turn)
