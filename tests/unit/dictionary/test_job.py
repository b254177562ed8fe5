import contextlib
import dataclasses
import json
import shutil

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


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_a_kept_dictionary_has_its_threshold(architecture, tmp_path):
    made = Dictionary(DictionaryConfig(architecture=architecture, d_in=6, latents=12, k=3), seed=1)
    made.threshold.fill_(0.4)
    save_dictionary(tmp_path, Kept(dictionary=made))
    kept = load_dictionary(tmp_path).dictionary
    made.eval()
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert float(kept.threshold) == pytest.approx(0.4)
    with torch.no_grad():
        assert torch.equal(kept.encode(x), made.encode(x))
        made.threshold.fill_(0.0)
        assert not torch.equal(kept.encode(x), made.encode(x))


def test_damage_is_found_and_said(tmp_path):
    with pytest.raises(StoreError, match="wanted a dictionary"):
        load_dictionary(tmp_path)
    with pytest.raises(StoreError, match="train some by"):
        find_dictionaries(tmp_path)
    made = Dictionary(DictionaryConfig(d_in=6, latents=12, k=3))
    save_dictionary(tmp_path, Kept(dictionary=made))
    with pytest.raises(StoreError, match=r'"site" with its name under "about" in dictionary\.json'):
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


def test_a_finished_dictionary_is_taken_for_the_same_training_only(store, tmp_path):
    plan, recipe = job.Plan(name="x", inputs=(SITE,), latents=64, k=4), Recipe(steps=3)
    folder = tmp_path / "x"
    made = job.train_plan(store, plan, recipe, folder, size=64)
    again = job.train_plan(store, plan, recipe, folder, size=64, resume=True)
    assert torch.equal(again.dictionary.W_dec, made.dictionary.W_dec)
    other = dataclasses.replace
    for changed, how, size, message in (
        (other(plan, k=5), recipe, 64, r"asked\.k: 4 there, 5 now"),
        (other(plan, architecture="gated"), recipe, 64, r"'matryoshka' there, 'gated' now"),
        (other(plan, latents=65), recipe, 64, r"asked\.latents: 64 there, 65 now"),
        (other(plan, inputs=("balancing.features",)), recipe, 64, "site: 'knowing.query_features'"),
        (plan, Recipe(steps=4), 64, r"recipe\.steps: 3 there, 4 now"),
        (plan, Recipe(steps=3, seed=1), 64, r"recipe\.seed: 0 there, 1 now.*first_batch"),
        (plan, recipe, 65, r"samples: 192 there, 195 now"),
    ):
        with pytest.raises(StoreError, match=message):
            job.train_plan(store, changed, how, folder, size=size, resume=True)
    with pytest.raises(StoreError, match=r"already holds a dictionary.*--resume"):
        job.train_plan(store, plan, recipe, folder, size=64)
    assert torch.equal(load_dictionary(folder).dictionary.W_dec, made.dictionary.W_dec)


def test_a_stopped_training_is_not_begun_anew_over_what_is_kept(store, tmp_path):
    plan = job.Plan(name="x", inputs=(SITE,), latents=64, k=4)
    (tmp_path / "x" / "checkpoint").mkdir(parents=True)
    with pytest.raises(StoreError, match="already holds an unfinished training"):
        job.train_plan(store, plan, Recipe(steps=3), tmp_path / "x", size=64)


def test_what_a_rotation_test_found_is_taken_for_the_same_training_only(
    store, tmp_path, monkeypatch
):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    def begun(steps):
        job.train_plan(store, TURNING, Recipe(steps=steps), tmp_path, size=64, resume=True)

    monkeypatch.setattr(job, "held_figures", stopped)
    found = RotationTest(
        score=0.1, refits=(0.1,) * 3, again=(0.1,) * 3, ratio=1.0, p_value=0.5, turns=False
    )
    monkeypatch.setattr(job, "rotation_test", lambda *_, **__: found)
    with pytest.raises(KeyboardInterrupt):
        begun(2)
    shutil.rmtree(tmp_path / job.STILL)  # its own checkpoint would refuse, too
    with pytest.raises(StoreError, match=r"rotation\.json was written.*steps: 2 there, 3 now"):
        begun(3)


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
    assert [plan.name for plan in job.swept(job.Plan(name="x", inputs=("a",)), [4, 4.0], [])] == [
        "x"
    ]


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
    assert command(asked) == 2
    assert "already holds a dictionary" in capsys.readouterr().err
    assert command([*asked[:-6], "--k", "9", "--resume", str(out)]) == 2
    assert "asked.k: 4.0 there, 9.0 now" in capsys.readouterr().err
    assert command([*asked[:-4], "--resume", str(out)]) == 0
    assert command(["train-dictionary", "--resume", str(tmp_path / "none")]) == 4
    assert command(["conditioning", "--steps", "0"]) == 4
    assert command(["conditioning", "--seeds", "1", "--steps", "1"]) == 4


SALIENCE = "knowing.salience_features"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crosscoder", "--sites", SITE, "--sites", SALIENCE, "--target", SALIENCE], "got both"),
        (["--crosscoder", "--sites", SITE], "two sites or more for --crosscoder"),
        (["--sites", SITE, "--target", SITE], "a site to encode besides --target"),
        (["--sites", SITE, "--latents", "0"], "--latents and --expansion of 1 or more, got 0"),
        (["--sites", SITE, "--expansion", "0"], "--latents and --expansion of 1 or more, got 0"),
        (["--sites", SITE, "--k", "100000"], "got 384 latents and k=100000"),
        (["--sites", SITE, "--k", "0"], "a --k above 0, got 0"),
        (["--sites", SITE, "--batch-size", "0"], "--batch-size of 1 or more, got 0"),
        (["--sites", SITE, "--batch-size", "100000000"], "a --batch-size of at most"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options, message, store, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["train-dictionary", *options, "--store", str(store.folder), "--out", str(out)]
    assert command(asked) == 4
    assert message in capsys.readouterr().err
    assert not list(out.rglob(CONFIG))


def test_a_batch_is_all_that_there_is_where_nothing_is_said(store, tmp_path):
    plan, few = job.Plan(name="x", inputs=(SITE,), latents=64, k=4), tmp_path / "few"
    there = len(split(store)[0]) * source(store).each
    assert job.source_of(store, plan, size=None, seed=0).size == min(job.SIZE, there)
    kept = job.train_plan(store, plan, Recipe(steps=2), few, size=there)
    assert kept.about["samples"] == 2 * there
    with pytest.raises(UsageError, match=f"at most {there}"):
        job.source_of(store, plan, size=there + 1, seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_refused(tmp_path, capsys):
    asked = ["train-dictionary", "--device", "cuda", "--out", str(tmp_path / "out")]
    assert command(asked) == 4
    assert "cannot use device 'cuda'" in capsys.readouterr().err


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
        return RotationTest(
            score=0.2, refits=(0.1,) * 3, again=(0.1,) * 3, ratio=2.0, p_value=0.001, turns=True
        )

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
