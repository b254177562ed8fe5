"""The store's format: what is read is what was written, and every kind of damage is found."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.activations import ActivationStore, Example, Header, StoredSite, StoreWriter
from arrcoc_verify.activations.layout import shard_line
from arrcoc_verify.errors import StoreError, UnknownName, UsageError

ROWS, PER_SHARD = 10, 4
MAP, SCALAR = "knowing.map", "attending.scalar"


def header(**changed):
    fields = {
        "model": {"name": "m", "digest": "sha256:1", "spec": "reference:m", "adapter": "callables"},
        "sites": (
            StoredSite(
                name=MAP, stage="knowing", role=None, axes=("image", "patch", "channel"),
                shape=(3, 2), dtype="float32",
            ),
            StoredSite(
                name=SCALAR, stage="attending", role="multiplier", axes=("image",), shape=(),
                dtype="float64",
            ),
        ),
        "plan": "sha256:plan", "examples": ROWS, "shard_examples": PER_SHARD, "seed": 0,
    }  # fmt: skip
    return Header(**(fields | changed))


def example(row):
    return Example(
        name=f"scene {row}",
        unit=f"photo {row // 2}",
        role=("train", "assert")[row % 2],
        query=f"q{row}",
        image=f"{row:064x}",
    )


def values(rows):
    base = torch.tensor(list(rows), dtype=torch.float64)
    return {MAP: (base[:, None, None] + torch.arange(6).reshape(3, 2) / 8).float(), SCALAR: base}


def write(folder, only=None):
    with StoreWriter(folder, header()) as writer:
        for number in writer.missing if only is None else only:
            rows = header().rows(number)
            writer.write(number, values(rows), [example(row) for row in rows])
        if only is None:
            writer.finish()
    return writer


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(folder):
    store = ActivationStore.open(folder)
    assert ROWS == len(store)
    for site, whole in values(range(ROWS)).items():
        assert torch.equal(whole, store.read(site))
        assert whole.dtype == store.read(site).dtype
    assert {row: example(row) for row in range(ROWS)} == store.rows
    assert [] == store.verify()


@given(st.lists(st.integers(0, ROWS - 1), max_size=12))
def test_rows_come_in_the_order_asked_for(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp() / "any-order"
    if not folder.exists():
        write(folder)
    store = ActivationStore.open(folder)
    expected = values(rows)
    assert torch.equal(expected[MAP], store.read(MAP, rows))
    assert torch.equal(expected[SCALAR], store.read(SCALAR, rows))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_streaming_in_batches_gives_every_row_once_and_in_order(folder, batch_size):
    batches = list(ActivationStore.open(folder).iter(MAP, batch_size=batch_size))
    assert list(range(ROWS)) == [row for batch in batches for row in batch.rows]
    assert torch.equal(values(range(ROWS))[MAP], torch.cat([batch.values for batch in batches]))
    assert all(len(batch.rows) <= batch_size for batch in batches)


def test_shuffling_is_a_permutation_that_its_seed_repeats(folder):
    store = ActivationStore.open(folder)

    def order(seed):
        batches = list(store.iter(SCALAR, batch_size=3, seed=seed))
        rows = [row for batch in batches for row in batch.rows]
        assert rows == torch.cat([batch.values for batch in batches]).int().tolist()
        return rows

    assert list(range(ROWS)) == sorted(order(1))
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_only_rows_of_the_roles_asked_for_are_read(folder):
    store = ActivationStore.open(folder)
    rows = [row for batch in store.iter(MAP, roles=["assert"]) for row in batch.rows]
    assert [1, 3, 5, 7, 9] == rows
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        store.iter(MAP, roles=["trian"])


def test_an_unknown_site_is_named_before_anything_is_read(folder):
    with pytest.raises(UnknownName, match=r"did you mean 'knowing\.map'"):
        ActivationStore.open(folder).iter("knowing.mop")


def test_a_batch_of_none_is_refused(folder):
    with pytest.raises(UsageError, match="at least 1"):
        ActivationStore.open(folder).iter(MAP, batch_size=0)


def test_a_store_says_what_is_inside(folder):
    told = ActivationStore.open(folder).describe()
    assert json.loads(json.dumps(told)) is not None
    assert {"assert": 5, "train": 5} == told["roles"]
    assert (ROWS, 5, 3, PER_SHARD) == tuple(
        told[key] for key in ("examples", "units", "shards", "shard_examples")
    )
    assert [24, 8] == [site["bytes"] for site in told["sites"]]
    assert sum(p.stat().st_size for p in folder.glob("shards/*")) == told["bytes"]


def test_a_reader_keeps_few_shards_mapped(folder, monkeypatch):
    monkeypatch.setattr("arrcoc_verify.activations.reading.OPEN_SHARDS", 1)
    store = ActivationStore.open(folder)
    assert torch.equal(values([9, 0, 5])[MAP], store.read(MAP, [9, 0, 5]))
    assert 1 == len(store._mapped)


def test_no_store_is_said_so(tmp_path):
    with pytest.raises(StoreError, match="no activation store at"):
        ActivationStore.open(tmp_path)


def test_a_store_cut_short_opens_only_when_asked_for(tmp_path):
    write(tmp_path, only=[0, 1])
    with pytest.raises(StoreError, match="2 of 3 shards are finished"):
        ActivationStore.open(tmp_path)
    store = ActivationStore.open(tmp_path, partial=True)
    assert 8 == len(store)
    assert ["shards/00002.safetensors (rows 8 to 9): not finished"] == list(
        map(str, store.verify())
    )
    with pytest.raises(StoreError, match="row 9 is not in store"):
        store.read(MAP, [9])


def test_every_flipped_byte_of_a_shard_is_found_and_named(folder):
    path = folder / "shards" / "00001.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        path.write_bytes(broken)
        (damage,) = ActivationStore.open(folder).verify()
        assert ("shards/00001.safetensors", (4, 8)) == (damage.file, damage.rows)
        assert "checksum" in damage.what


def test_every_flipped_byte_of_the_index_is_found(folder):
    path = folder / "index.jsonl"
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        broken = bytearray(whole)
        broken[at] ^= 0x01
        path.write_bytes(broken)
        assert ActivationStore.open(folder, partial=True).verify(), f"byte {at}"
        with pytest.raises(StoreError, match="not complete"):
            ActivationStore.open(folder)


def test_every_flipped_byte_of_the_header_is_found(folder):
    path = folder / "store.json"
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 5):
        broken = bytearray(whole)
        broken[at] ^= 0x01
        path.write_bytes(broken)
        with pytest.raises(StoreError, match="damaged"):
            ActivationStore.open(folder)


def test_a_shortened_or_missing_shard_is_found_and_reading_it_says_what_to_do(folder):
    path = folder / "shards" / "00002.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    store = ActivationStore.open(folder)
    assert ["were written" in damage.what for damage in store.verify()] == [True]
    with pytest.raises(StoreError, match="capturing again mends it"):
        store.read(MAP, [9])
    path.unlink()
    assert "No such file" in str(ActivationStore.open(folder).verify()[0])


def test_a_torn_index_line_is_dropped_and_only_its_shard_made_again(folder):
    before = content(folder)
    index = folder / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-20])
    with StoreWriter(folder, header()) as writer:
        assert [2] == writer.missing
        assert ["index.jsonl: line 3 is torn"] == list(map(str, writer.dropped))
    write(folder)
    assert before == content(folder)


def test_a_shard_without_its_index_line_is_made_again(folder):
    before = content(folder)
    index = folder / "index.jsonl"
    index.write_bytes(b"".join(index.read_bytes().splitlines(keepends=True)[:2]))
    with StoreWriter(folder, header()) as writer:
        assert [2] == writer.missing
    write(folder)
    assert before == content(folder)


def test_a_damaged_shard_in_the_middle_is_made_again_and_the_store_is_as_before(folder):
    before = content(folder)
    path = folder / "shards" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    with StoreWriter(folder, header()) as writer:
        assert [1] == writer.missing
        assert "checksum" in str(writer.dropped[0])
    assert not ActivationStore.open(folder, partial=True).complete
    write(folder)
    assert before == content(folder)


def test_what_a_killed_write_left_is_cleared_away(folder):
    before = content(folder)
    (folder / "shards" / ".writing-x1").write_bytes(b"half of a shard")
    (folder / ".writing-x2").write_bytes(b"half of a header")
    write(folder)
    assert before == content(folder)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": {"name": "m", "digest": "sha256:2"}}, "model digest: 'sha256:1' there"),
        ({"plan": "sha256:other"}, "examples: other pictures, queries"),
        ({"examples": 11}, "examples: 10 there, 11 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"shard_examples": 5}, "shard_examples: 4 there, 5 now"),
        ({"sites": header().sites[:1]}, r"site 'attending\.scalar': only there"),
        (
            {"sites": (replace(header().sites[0], dtype="float16"), header().sites[1])},
            r"site 'knowing\.map': dtype float32 there, float16 now",
        ),
    ],
)
def test_another_capture_may_not_go_on_in_the_folder_and_hears_why(folder, changed, told):
    before = content(folder)
    with pytest.raises(StoreError, match=told), StoreWriter(folder, header(**changed)):
        pass
    assert before == content(folder)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(StoreError, match=r"no activation store \(thesis\.txt\)"),
        StoreWriter(tmp_path, header()),
    ):
        pass
    assert ["thesis.txt"] == listing(tmp_path)


def test_two_writers_at_once_are_refused(folder):
    with (
        StoreWriter(folder, header()),
        pytest.raises(StoreError, match="another process writes"),
        StoreWriter(folder, header()),
    ):
        pass
    write(folder)  # the lock is gone with its holder


def test_a_file_where_the_folder_should_be_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"), StoreWriter(tmp_path / "file", header()):
        pass


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    evil = "../../outside"
    site = replace(header().sites[0], name=evil)
    one = Example(name=evil, unit="/etc/passwd", role="..", query=evil, image=evil)
    with StoreWriter(tmp_path / "in", header(sites=(site,), examples=2)) as writer:
        writer.write(0, {evil: torch.ones(2, 3, 2)}, [one, one])
        writer.finish()
    assert ["in"] == listing(tmp_path)
    assert ["index.jsonl", "shards", "store.json"] == (listing(tmp_path / "in"))
    store = ActivationStore.open(tmp_path / "in")
    assert [evil] == list(store.sites)
    assert torch.equal(torch.ones(2, 3, 2), store.read(evil))


def test_an_index_line_for_a_shard_that_cannot_be_is_damage(folder):
    lines = (folder / "index.jsonl").read_bytes()
    with StoreWriter(folder, header()) as writer:
        shard = replace(writer.shards[0], number=-1)
    (folder / "index.jsonl").write_bytes(lines + shard_line(shard))
    assert ["index.jsonl: line 4 is damaged: there is no shard -1"] == list(
        map(str, ActivationStore.open(folder).verify())
    )
