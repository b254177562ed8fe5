"""Whatever a picture file holds, RGB comes back upright, or an error says what to do."""

import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.errors import BadImage
from arrcoc_verify.scenes.images import GREY, load_image, read_picture, read_size

WIDE = np.zeros((2, 4, 3), dtype=np.uint8)
WIDE[0, 0] = (255, 0, 0)


def test_a_plain_picture_comes_back_as_it_is_without_notes(tmp_path) -> None:
    Image.fromarray(WIDE).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(WIDE, np.asarray(picture.image))
    assert () == picture.notes
    assert (4, 2) == picture.size


def test_a_missing_file_a_folder_and_an_empty_file_are_refused(tmp_path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadImage, match="found none at"):
        load_image(tmp_path / "none.png")
    with pytest.raises(BadImage, match="folder"):
        load_image(tmp_path)
    with pytest.raises(BadImage, match="empty"):
        load_image(tmp_path / "empty.png")


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(BadImage, match="another kind of file"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif"])
def test_truncated_pictures_are_refused(tmp_path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImage, match=r"truncated|another kind|cannot open"):
        load_image(path)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_huge_pictures_are_refused_from_their_header(tmp_path, side: int) -> None:
    (tmp_path / "huge.png").write_bytes(_png_header(side, side))
    with pytest.raises(BadImage, match="at most 40 megapixels"):
        load_image(tmp_path / "huge.png")
    with pytest.raises(BadImage, match="raise the limit"):
        read_size(tmp_path / "huge.png")


def test_the_limit_can_be_set(tmp_path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    with pytest.raises(BadImage, match=r"at most 0.01 megapixels"):
        load_image(tmp_path / "a.png", megapixels=0.01)
    assert (200, 100) == load_image(tmp_path / "a.png", megapixels=0.02).size


def test_cmyk_becomes_rgb_and_is_said(tmp_path, caplog) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    with caplog.at_level(logging.WARNING):
        image = load_image(tmp_path / "a.tif")
    assert (255, 0, 0) == image.getpixel((0, 0))
    assert "CMYK converted to RGB" in caplog.text


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert [0, 100, 255] == np.asarray(picture.image)[0, :, 0].tolist()
    assert ("16 bits per channel reduced to 8",) == picture.notes


def test_floating_point_is_refused(tmp_path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match="floating-point"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_middle_grey(tmp_path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 4))
    image.convert(mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert GREY == picture.image.getpixel((0, 0))
    assert (200, 200, 200) == picture.image.getpixel((3, 0))
    assert ("transparency laid on middle grey",) == picture.notes


def test_an_opaque_alpha_channel_is_not_worth_a_note(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (1, 2, 3) == picture.image.getpixel((0, 0))
    assert () == picture.notes


def test_palettes_with_and_without_transparency_are_read(tmp_path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 100, 0])
    image.save(tmp_path / "a.png")
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "b.png", transparency=0)
    assert (200, 100, 0) == load_image(tmp_path / "a.png").getpixel((3, 3))
    assert GREY == load_image(tmp_path / "b.png").getpixel((0, 0))
    assert (200, 100, 0) == load_image(tmp_path / "b.png").getpixel((3, 3))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_black_and_white_are_read(tmp_path, mode: str) -> None:
    Image.new(mode, (4, 4), 1).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert "RGB" == image.mode
    assert (255, 255, 255) if mode == "1" else (1, 1, 1) == image.getpixel((0, 0))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_animations_the_first_frame_is_used_and_said(tmp_path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert (255, 0, 0) == picture.image.getpixel((0, 0))
    assert ("first of 2 frames used",) == picture.notes


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(2, (4, 2), (3, 0)), (3, (4, 2), (3, 1)), (6, (2, 4), (1, 0)), (8, (2, 4), (0, 3))],
)
def test_exif_orientation_is_applied_and_said(tmp_path, orientation, size, red) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(WIDE).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert size == picture.image.size == picture.size == read_size(tmp_path / "a.png")
    assert (255, 0, 0) == picture.image.getpixel(red)
    assert ("turned upright as its EXIF orientation says",) == picture.notes


def test_pictures_are_reduced_only_where_asked(tmp_path) -> None:
    Image.new("RGB", (400, 100)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", side=100)
    assert (100, 25) == picture.image.size
    assert (400, 100) == picture.size
    assert ("reduced from 400x100 to 100x25",) == picture.notes
