"""Capture: the same store whatever the batches or interruptions, and clear words when it fails."""

import errno
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from arrcoc_verify.activations import ActivationStore
from arrcoc_verify.capture import capture, choose_sites, describe_sites
from arrcoc_verify.errors import (
    BadQuery,
    NonFinite,
    ShapeMismatch,
    StoreError,
    UnknownName,
    UsageError,
)
from arrcoc_verify.graph import run
from arrcoc_verify.model import ModuleOutput, Output, Site, Tapped
from arrcoc_verify.tap import tap
from tests.unit.small_models import changed, linear, picture, pixels, scenes, slowed

ROOT = Path(__file__).parents[2]
SITES = ["encoder.pixels", "knowing.features", "balancing.relevance", "attending.tokens"]


def take(folder, model=None, count=7, **kwargs):
    kwargs = {"shard_examples": 3, "progress": False} | kwargs
    return capture(model or linear(), scenes(count), folder=folder, **kwargs)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def with_site(model, site):
    return replace(model, sites={**model.sites, site.name: site})


def test_the_store_holds_what_the_model_computes(tmp_path):
    store = take(tmp_path / "s")
    made = scenes(7)
    expected = run(linear(), [scene[0] for scene in made], [scene[1] for scene in made])
    assert SITES == list(store.sites)
    for name in SITES:
        assert torch.equal(expected[name], store.read(name))
    assert [scene[4] for scene in made] == [row.name for row in store.rows.values()]
    assert [scene[1:4] for scene in made] == [
        (row.query, row.unit, row.role) for row in store.rows.values()
    ]
    assert [] == store.verify()


def test_scenes_may_be_objects_and_lazy(tmp_path):
    @dataclass
    class Scene:
        image: Image.Image
        query: str
        unit: str
        role: str
        name: str

    class Lazy(list):
        def __getitem__(self, index):
            return Scene(*super().__getitem__(index))

        def __iter__(self):
            return (self[i] for i in range(len(self)))

    take(tmp_path / "tuples")
    capture(linear(), Lazy(scenes(7)), folder=tmp_path / "lazy", shard_examples=3, progress=False)
    assert content(tmp_path / "tuples") == content(tmp_path / "lazy")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 50])
def test_the_store_is_the_same_whatever_the_batch_size(tmp_path, batch_size):
    take(tmp_path / "one", batch_size=3)
    take(tmp_path / "two", batch_size=batch_size)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_two_images_are_enough(tmp_path):
    store = take(tmp_path / "s", count=2)
    assert (2, 1, True) == (len(store), len(store.shards), store.complete)


def test_no_image_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no scene"):
        take(tmp_path / "s", count=0)
    assert not (tmp_path / "s").exists()


def test_a_bound_in_bytes_makes_smaller_shards_and_one_example_is_the_least(tmp_path):
    each = sum(site.bytes for site in take(tmp_path / "a").sites.values())
    assert 2 == take(tmp_path / "b", shard_bytes=2 * each + 1).header.shard_examples
    assert 1 == take(tmp_path / "c", shard_bytes=1).header.shard_examples


def test_how_much_memory_is_used_is_said(tmp_path, capsys):
    take(tmp_path / "s", progress=True)
    told = capsys.readouterr().err.replace("\n", " ")
    assert "4 sites of 7 examples in 3 shards of at most 3" in told


def test_sites_are_chosen_by_pattern_in_the_order_of_the_model():
    model = linear()
    assert SITES == choose_sites(model, "*")
    assert SITES[1:3] == choose_sites(model, ["balancing.*", "knowing.*"])
    assert SITES[1:] == choose_sites(model, "!encoder.*")
    assert [SITES[0]] == choose_sites(model, ["encoder.pixels", "knowing.*", "!knowing.*"])


def test_an_unknown_site_names_the_nearest_before_anything_is_made(tmp_path):
    with pytest.raises(UnknownName, match=r"did you mean 'knowing\.features'"):
        take(tmp_path / "s", sites=["knowing.feature"])
    with pytest.raises(UsageError, match="no site is left"):
        take(tmp_path / "s", sites=["knowing.*", "!knowing.*"])
    assert not (tmp_path / "s").exists()


def test_a_finished_capture_run_again_computes_nothing_but_its_probe(tmp_path):
    seen = []
    take(tmp_path / "s")
    before = content(tmp_path / "s")
    take(tmp_path / "s", slowed(linear(), seen.append))
    assert [1] == seen
    assert before == content(tmp_path / "s")


def test_killed_and_run_again_it_is_bit_for_bit_the_unbroken_store(tmp_path):
    unbroken, folder = tmp_path / "unbroken", tmp_path / "killed"
    seen = []
    capture(
        slowed(linear(), seen.append), scenes(12), folder=unbroken, shard_examples=2,
        batch_size=2, progress=False,
    )  # fmt: skip
    assert [1, *[2] * 6] == seen
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.slow_capture", str(folder), "0.4"], cwd=ROOT
    )
    shards = folder / "shards"
    deadline = time.monotonic() + 120
    while len(list(shards.glob("*.safetensors"))) < 3 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == child.wait()
    finished = len(ActivationStore.open(folder, partial=True).shards)
    assert 2 <= finished < 6
    seen.clear()
    capture(
        slowed(linear(), seen.append), scenes(12), folder=folder, shard_examples=2,
        batch_size=2, progress=False,
    )  # fmt: skip
    assert [1, *[2] * (6 - finished)] == seen  # the probe, then the shards that were missing
    assert content(unbroken) == content(folder)


def test_a_damaged_shard_alone_is_made_again(tmp_path):
    take(tmp_path / "s")
    before = content(tmp_path / "s")
    path = tmp_path / "s" / "shards" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    seen = []
    take(tmp_path / "s", slowed(linear(), seen.append))
    assert [1, 3] == seen
    assert before == content(tmp_path / "s")


def test_another_model_may_not_go_on_in_the_folder(tmp_path):
    take(tmp_path / "s")
    with pytest.raises(StoreError, match="digest: 'sha256:small' there, 'sha256:other' now"):
        take(tmp_path / "s", replace(linear(), digest="sha256:other"))


def test_another_model_without_a_digest_is_known_by_its_activations(tmp_path):
    model = replace(linear(), digest="")
    take(tmp_path / "s", model)
    other = changed(model, "tokens", lambda r: 64 + 11 * r)
    with pytest.raises(StoreError, match=r"another model: site 'attending\.tokens'"):
        take(tmp_path / "s", other)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"count": 8}, "examples: 7 there, 8 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"sites": "knowing.*"}, r"site 'attending\.tokens': only there"),
        ({"shard_examples": 2}, "shard_examples: 3 there, 2 now"),
    ],
)
def test_another_plan_may_not_go_on_in_the_folder(tmp_path, other, told):
    take(tmp_path / "s")
    with pytest.raises(StoreError, match=told):
        take(tmp_path / "s", **other)


def test_other_pictures_under_the_same_names_are_noticed(tmp_path):
    take(tmp_path / "s", count=2)
    swapped = [(picture(99), *scene[1:]) for scene in scenes(2)]
    with pytest.raises(StoreError, match="other pictures"):
        capture(linear(), swapped, folder=tmp_path / "s", shard_examples=3, progress=False)


def spoilt_at(query_index, value):
    """Return the linear model with one value in one picture's features replaced."""
    target = pixels([picture(query_index)])[0]

    def features(x):
        good = linear().steps[1].run(x)
        hit = (x == target).all(-1).all(-1)
        return torch.where(hit[:, None, None], torch.tensor(value, dtype=x.dtype), good)

    return changed(linear(), "features", features)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_stage_names_step_and_example_and_keeps_what_was_done(tmp_path, value):
    folder = tmp_path / "s"
    with pytest.raises(NonFinite, match=r"step 'features'.*example 'scene 4'") as caught:
        take(folder, spoilt_at(4, value))
    assert "1 of 3 shards are finished" in caught.value.__notes__[0]
    assert [0] == list(ActivationStore.open(folder, partial=True).shards)
    take(folder)  # the same digest: mended weights would have another
    take(tmp_path / "whole")
    assert content(tmp_path / "whole") == content(folder)


def test_nan_at_a_tap_inside_a_step_is_found_too(tmp_path):
    site = Site(
        name="knowing.inside", stage="knowing", axes=("image", "patch"),
        at=Tapped(step="relevance", name="inside"),
    )  # fmt: skip

    def relevance(f):
        tap("inside", f.sum(-1) / torch.zeros(4, dtype=f.dtype))
        return f.sum(-1)

    model = with_site(changed(linear(), "relevance", relevance), site)
    with pytest.raises(NonFinite, match=r"site 'knowing\.inside'.*example 'scene 0'"):
        take(tmp_path / "s", model)


def full_disk_after(monkeypatch, writes):
    """Let only so many files reach the disk before it is full."""
    real, left = os.fsync, [writes]

    def fsync(handle):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("writes", range(9))
def test_a_full_disk_leaves_no_half_of_anything_and_says_how_much_is_needed(
    tmp_path, monkeypatch, writes
):
    folder = tmp_path / "s"
    full_disk_after(monkeypatch, writes)
    with pytest.raises(StoreError, match=r"No space left.*needs .* MiB.* MiB are free") as caught:
        take(folder)
    assert "the same capture again" in str(caught.value)
    left = [p.name for p in folder.rglob("*") if p.name.startswith(".")]
    assert [] == left
    if (folder / "store.json").exists():
        store = ActivationStore.open(folder, partial=True)
        assert all(damage.what == "not finished" for damage in store.verify())
    monkeypatch.undo()
    take(folder)
    take(tmp_path / "whole")
    assert content(tmp_path / "whole") == content(folder)


def test_an_interrupted_capture_goes_on_where_it_stopped(tmp_path):
    left = [3]

    def interrupt(count):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    folder = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt) as caught:
        take(folder, slowed(linear(), interrupt))
    assert "2 of 3 shards are finished" in caught.value.__notes__[0]
    seen = []
    take(folder, slowed(linear(), seen.append))
    assert [1, 1] == seen


def test_too_little_memory_backs_off_to_smaller_batches_and_says_so(tmp_path, caplog):
    def tight(count):
        if count > 1:
            raise MemoryError

    take(tmp_path / "s", slowed(linear(), tight), batch_size=3)
    take(tmp_path / "whole")
    assert content(tmp_path / "whole") == content(tmp_path / "s")
    assert "going on with batches of 1" in caplog.text


def test_too_little_memory_for_one_image_is_an_error(tmp_path):
    def none_left(count):
        raise MemoryError

    with pytest.raises(MemoryError):
        take(tmp_path / "s", slowed(linear(), none_left))


def test_a_model_that_draws_gives_the_same_store_every_time_and_spares_the_global_state(tmp_path):
    def noisy(r):
        return 64 + r + torch.randn(r.shape, dtype=r.dtype)

    model = changed(linear(deterministic=False), "tokens", noisy)
    before = torch.get_rng_state()
    one = take(tmp_path / "one", model, seed=5, batch_size=4)
    take(tmp_path / "two", model, seed=5, batch_size=2)
    other = take(tmp_path / "three", model, seed=6)
    assert torch.equal(before, torch.get_rng_state())
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert not torch.equal(one.read("attending.tokens"), other.read("attending.tokens"))


def test_a_model_that_couples_its_images_is_run_one_by_one(tmp_path):
    seen = []
    take(tmp_path / "s", slowed(linear(batch_invariant=False), seen.append))
    assert {1} == set(seen)


def test_a_site_whose_shape_varies_is_named_with_the_way_to_leave_it_out(tmp_path):
    def varying(images):
        return pixels(images)[:, : 4 if images[0].size == (2, 2) else 2]

    odd = scenes(3)
    odd[2] = (odd[2][0].resize((4, 1)), *odd[2][1:])
    model = changed(linear(), "pixels", varying)
    with pytest.raises(ShapeMismatch, match=r"at example 'scene 2'.*sites='!encoder\.pixels'"):
        capture(model, odd, folder=tmp_path, batch_size=1, progress=False)


@pytest.mark.parametrize("query", ["", "   "])
def test_an_empty_query_names_its_scene(tmp_path, query):
    made = scenes(3)
    made[1] = (made[1][0], query, *made[1][2:])
    with pytest.raises(BadQuery, match="scene 'scene 1'"):
        capture(linear(), made, folder=tmp_path / "s", progress=False)


@pytest.mark.parametrize("query", ["чёрная кошка 猫", "word " * 10_000, 'a "quoted"\nline\u2028'])
def test_queries_in_any_script_and_length_come_back_as_they_were(tmp_path, query):
    made = [(picture(0), query, "photo", "train", "one")]
    capture(linear(), made, folder=tmp_path / "s", progress=False)
    assert query == ActivationStore.open(tmp_path / "s").rows[0].query


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    evil = "../../../evil"
    made = [(picture(0), "query", evil, evil, evil)]
    capture(linear(), made, folder=tmp_path / "deep" / "s", progress=False)
    assert ["deep"] == [path.name for path in tmp_path.iterdir()]
    assert ["s"] == [path.name for path in (tmp_path / "deep").iterdir()]
    assert evil == ActivationStore.open(tmp_path / "deep" / "s").rows[0].name


def test_a_tuple_of_another_length_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\(image, query, unit, role, name\)"):
        inspect.unwrap(capture)(linear(), [scenes(1)[0][:4]], folder=tmp_path)  # past beartype


def test_a_moved_store_reads_the_same(tmp_path):
    take(tmp_path / "s")
    shutil.move(tmp_path / "s", tmp_path / "elsewhere")
    assert [] == ActivationStore.open(tmp_path / "elsewhere").verify()


def test_sites_are_described_as_they_are_met():
    told = {site.name: site for site in describe_sites(linear(), picture(0), "query")}
    assert SITES == list(told)
    features = told["knowing.features"]
    assert ((4, 2), "float64", True, True) == (
        features.shape, features.dtype, features.writable, features.fired,
    )  # fmt: skip
    assert ("image", "patch", "channel") == features.axes
    assert "tokens" == told["attending.tokens"].role


def test_a_site_that_never_fires_is_told_beside_those_that_do():
    silent = Site(
        name="knowing.silent", stage="knowing", axes=("image", "patch"),
        at=ModuleOutput(step="features", module=torch.nn.Identity()),
    )  # fmt: skip
    wrong = Site(
        name="knowing.wrong", stage="knowing", axes=("image", "patch"),
        at=Output(step="features", key="none"),
    )  # fmt: skip
    model = with_site(with_site(linear(), silent), wrong)
    told = {site.name: site for site in describe_sites(model, picture(0), "query")}
    assert {"knowing.silent", "knowing.wrong"} == {n for n, s in told.items() if not s.fired}
    assert "met no activation" in told["knowing.silent"].problem
    assert told["knowing.silent"].shape is None
    assert told["knowing.features"].fired
