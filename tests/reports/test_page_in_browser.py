"""The page as a browser sees it: by file://, without network, with and without JavaScript."""

import re
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.report.html import render
from arrcoc_verify.report.record import Record
from tests.reports import chromium
from tests.reports.hostile_record import make_hostile_record
from tests.reports.test_page import HOSTILE

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason=chromium.MISSING)

NO_SCRIPT = "--blink-settings=scriptEnabled=false"


def printed(page: Path, folder: Path, *flags: str) -> tuple[int, int]:
    """Return how many pages a printed page has, and how often it shows a run of text."""
    target = folder / "page.pdf"
    chromium.run(
        page, folder / "profile", "--no-pdf-header-footer", f"--print-to-pdf={target}", *flags
    )
    data = target.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", data))
    shown = 0
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
        try:
            shown += len(re.findall(rb"\bT[jJ]\b", zlib.decompress(stream)))
        except zlib.error:
            continue  # a font or a picture
    return pages, shown


def looked_at(page: Path, folder: Path, *flags: str) -> Image.Image:
    target = folder / "page.png"
    chromium.run(
        page, folder / "profile", f"--screenshot={target}", "--window-size=1280,900", *flags
    )
    with Image.open(target) as image:
        return image.convert("RGB")


def test_a_faulty_page_is_heard_so_a_clean_console_means_something(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    faulty.write_text(f"<!doctype html>{policy}<img src=x onerror=alert(1)>")
    _, console = chromium.run(faulty, tmp_path / "profile", "--dump-dom")
    assert len(console) >= 2


def test_the_console_is_clean_and_the_filter_works(page: Path, tmp_path: Path) -> None:
    dom, console = chromium.run(page, tmp_path / "profile", "--dump-dom")
    assert [] == console
    assert '<form class="filter">' in dom
    assert ">60 of 60</output>" in dom
    assert "Refuted: 4 of 55 required claims do not hold." in dom


def test_a_link_to_a_passed_claim_opens_its_card(page: Path, tmp_path: Path) -> None:
    dom, _ = chromium.run(page, tmp_path / "profile", "--dump-dom", anchor="claim-encoder.finite")
    (opened,) = re.findall(r'<details class="passed" open="">.*?</details>', dom, re.DOTALL)
    assert "encoder.finite" in opened


def test_it_reads_the_same_without_javascript(page: Path, tmp_path: Path) -> None:
    first = looked_at(page, tmp_path)
    second = looked_at(page, tmp_path, NO_SCRIPT)
    above_the_filter = (0, 0, 1280, 780)
    assert (
        None
        is ImageChops.difference(
            first.crop(above_the_filter), second.crop(above_the_filter)
        ).getbbox()
    )
    assert len(second.resize((64, 45)).getcolors(64 * 45) or []) > 20


def test_it_prints_as_text_with_and_without_javascript(page: Path, tmp_path: Path) -> None:
    pages, shown = printed(page, tmp_path)
    assert 5 < pages < 60
    assert shown > 1000
    assert (pages, shown) == printed(page, tmp_path, NO_SCRIPT)


def test_dark_and_light_differ(page: Path, tmp_path: Path) -> None:
    light = looked_at(page, tmp_path).getpixel((2, 400))
    dark = looked_at(page, tmp_path, "--blink-settings=preferredColorScheme=0").getpixel((2, 400))
    assert sum(light) > 700
    assert sum(dark) < 120


@pytest.mark.parametrize("text", ["\n".join(HOSTILE), "y" * 1_000_000], ids=["hostile", "long"])
def test_strangers_text_does_nothing_in_any_field(
    record: Record, tmp_path: Path, text: str
) -> None:
    page = tmp_path / "page.html"
    write_text(page, render(make_hostile_record(record, tmp_path, text, most=1)))
    dom, console = chromium.run(page, tmp_path / "profile", "--dump-dom")
    assert [] == console
    assert "data-pwned" not in dom.partition("<body")[2].partition(">")[0]
    assert "<footer" in dom
