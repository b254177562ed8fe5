"""Whatever a user brings: a clear message that names what is wrong, no traceback, nothing lost."""

import errno
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROUTERS = Path(__file__).parent / "routers.py"
BOX = '"0,0,48,48"'


def pixels(channels=3, side=96):
    return np.random.default_rng(0).integers(0, 256, (side, side, channels), dtype=np.uint8)


@pytest.fixture
def table(tmp_path):
    """Write a table of these rows beside one good picture; returns its path."""
    Image.fromarray(pixels()).save(tmp_path / "good.png")

    def write(*rows):
        lines = ["image,query,box", *rows]
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / "table.csv"

    return write


def missing(path):
    pass


def truncated(path):
    Image.fromarray(pixels()).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def hundred_megapixels(path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def cmyk(path):
    Image.fromarray(pixels()).convert("CMYK").save(path, "JPEG")


def sixteen_bits(path):
    Image.fromarray(pixels(1)[..., 0].astype(np.uint16) * 257).save(path)


def transparent(path):
    content = pixels(4)
    content[..., 3] = 100
    Image.fromarray(content).save(path)


def animated(path):
    frames = [Image.fromarray(pixels() // step) for step in (1, 2, 3)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "wanted an image file, found none at"),
        (truncated, "the file is truncated or damaged"),
        (hundred_megapixels, "wanted at most 40 megapixels"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named_with_its_row(audit, table, tmp_path, make, message):
    make(tmp_path / "bad.png")

    done, told = audit("--images", table(f"good.png,a thing,{BOX}", f"bad.png,a thing,{BOX}"))

    assert (4, None) == (done.code, told)
    assert "line 3: " in done.err
    assert message in done.err
    assert "bad.png" in done.err
    assert "--skip-bad-rows" in done.err


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (cmyk, "bad.png: CMYK converted to RGB"),
        (sixteen_bits, "bad.png: 16 bits per channel reduced to 8"),
        (transparent, "bad.png: transparency laid on middle grey"),
        (animated, "bad.png: first of 3 frames used"),
        (turned, "bad.png: turned upright"),
    ],
)
def test_an_unusual_picture_is_used_and_what_was_done_is_said(audit, table, tmp_path, make, note):
    make(tmp_path / "bad.png")

    done, _ = audit("--images", table(f"good.png,a thing,{BOX}", f"bad.png,a thing,{BOX}"))

    assert 0 == done.code
    assert note in done.err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"good.png,,{BOX}", "wanted a query with at least one word"),
        ('good.png,a thing,"60,60,48,48"', "wanted a box inside the image of 96x96 pixels"),
        ('good.png,a thing,"1,2,3"', 'wanted a box as "x,y,w,h"'),
        (f"../good.png,a thing,{BOX}", "wanted a path inside"),
    ],
)
def test_a_bad_row_is_named(audit, table, row, message):
    done, told = audit("--images", table(f"good.png,a thing,{BOX}", row))

    assert (4, None) == (done.code, told)
    assert "line 3: " in done.err
    assert message in done.err


def test_bad_rows_are_skipped_if_asked_for_and_listed_in_the_record(audit, table):
    from arrcoc_verify.report import event
    from arrcoc_verify.report.record import Record

    rows = table(f"good.png,a thing,{BOX}", f"good.png,,{BOX}")
    done, _ = audit("--images", rows, "--skip-bad-rows", "--out", "run")

    assert 0 == done.code
    assert "line 3: wanted a query" in done.err
    notes = [note.text for note in Record.load("run").of(event.Note)]
    assert any(note.startswith("line 3: wanted a query") for note in notes)


@pytest.mark.parametrize("query", ["где фиолетовая рыба", "紫色の魚はどこ", "fish " * 10_000])
def test_any_text_may_be_asked(audit, table, query):
    done, told = audit("--images", table(f"good.png,{query},{BOX}"))

    assert 0 == done.code
    assert ["holds"] == [claim["verdict"] for claim in told["claims"]]


def test_two_images_only_are_inconclusive_and_say_how_many_are_needed(audit, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, dimmed in (("one", 1), ("two", 2)):
        Image.fromarray(pixels(side=200) // dimmed).save(folder / f"{name}.png")

    done, told = audit("--images", folder, claims=["whole.query-causes-tokens"])

    assert 3 == done.code
    [claim] = told["claims"]
    assert "inconclusive" == claim["verdict"]
    assert "2 units are too few: at least 8 are needed" == claim["reason"]


def test_a_folder_that_is_not_there_is_a_usage_error(audit):
    done, _ = audit("--images", "nowhere")

    assert 4 == done.code
    assert "found nothing at nowhere" in done.err


@pytest.mark.parametrize(
    ("router", "message"),
    [
        ("training", "is in training mode; call .eval() before verifying"),
        ("silent", "site 'attending.hidden' met no activation"),
        ("sond", "did you mean 'sound'?"),
    ],
)
def test_a_model_that_cannot_be_examined_is_a_usage_error(audit, router, message):
    done, told = audit(router=router)

    assert (4, None) == (done.code, told)
    assert message in done.err


def test_a_model_file_that_is_a_pickle_is_refused_unread(command, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Evil()))

    done = command("audit", "--model", "model.pt")

    assert 4 == done.code
    assert "pickle" in done.err
    assert "safetensors" in done.err
    assert not (tmp_path / "was-run").exists()


def test_nan_in_a_stage_is_a_failed_gate_that_names_the_step(audit):
    done, told = audit(router="not_a_number")

    assert 2 == done.code
    finite = next(gate for gate in told["gates"] if gate["id"] == "runtime.finite")
    assert finite["passed"] is False
    assert "step 'relevance' of 'undefined router' returned NaN or infinity" in finite["reason"]
    assert ["invalid"] == [claim["verdict"] for claim in told["claims"]]


def test_an_unknown_site_suggests_the_nearest(command):
    done = command("capture", "--model", f"{ROUTERS}:sound", "--sites", "knowing.informatio")

    assert 4 == done.code
    assert "unknown site 'knowing.informatio': did you mean 'knowing.information'?" in done.err


def test_an_unknown_claim_suggests_the_nearest(audit):
    done, _ = audit(claims=["attending.tokens-in-rang"])

    assert 4 == done.code
    assert "did you mean 'attending.tokens-in-range'?" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "2"], "alpha in the command line: wanted a number between 0 and 1"),
        (["--per-cluster", "0"], "wanted a whole number of at least 1"),
        (["--device", "tpu"], "wanted cpu or cuda, got 'tpu'"),
        (["--modl", "x"], "No such option"),
        (["--profile", "none.toml"], "wanted a profile as a TOML file or the word default"),
    ],
)
def test_a_wrong_option_is_a_usage_error(command, options, message):
    done = command("audit", *options)

    assert 4 == done.code
    assert message in done.err


def test_a_profile_with_an_unknown_key_suggests_the_nearest(command, tmp_path):
    (tmp_path / "claims.toml").write_text("[margin]\n")

    done = command("audit", "--profile", "claims.toml")

    assert 4 == done.code
    assert "unknown key of the profile claims.toml 'margin': did you mean 'margins'?" in done.err


def test_an_unknown_key_in_pyproject_suggests_the_nearest(command, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.arrcoc_verify]\nper_clusters = 1\n")

    done = command("audit")

    assert 4 == done.code
    assert "did you mean 'per_cluster'?" in done.err


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(audit, command, monkeypatch):
    claims = ["attending.tokens-in-range", "attending.tokens-are-whole"]
    write_text = Path.write_text

    def full(self, *arguments, **named):
        if "tokens-are-whole" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write_text(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        stopped, _ = audit("--out", "run", claims=claims)
    resumed = command("audit", "--resume", "run", "--json", "again.json")

    assert 2 == stopped.code
    assert "the disk is full" in stopped.err
    assert 0 == resumed.code
    told = json.loads(Path("again.json").read_text())
    assert sorted(claims) == sorted(claim["id"] for claim in told["claims"])


def test_a_full_disk_under_the_record_leaves_no_torn_line(audit, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done, _ = audit("--out", "run")

    assert 2 == done.code
    assert "the disk is full: free some space or choose another folder" in done.err
    assert Path("run/results.jsonl").read_bytes().endswith(b"\n")
