import base64
import io

import numpy as np
from PIL import Image

from arrcoc_verify.report import colour


def linear_luminance(rgb: np.ndarray) -> np.ndarray:
    encoded = rgb.astype(float) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def test_lightness_rises_in_even_steps() -> None:
    lightness = 116 * np.cbrt(linear_luminance(colour.table())) - 16
    steps = np.diff(lightness[::16])
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.min()


def test_ends_are_dark_and_light() -> None:
    luminance = linear_luminance(colour.table())
    assert luminance[0] < 0.03
    assert luminance[-1] > 0.7


def test_a_map_has_one_pixel_a_cell_and_its_ends_have_the_ends_colours() -> None:
    pixels = decoded(colour.map_uri(np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.0]]), 0.0, 1.0))
    assert (2, 3, 4) == pixels.shape
    first, last = colour.table()[0].tolist(), colour.table()[-1].tolist()
    assert [first, last, first] == [pixels[y, x, :3].tolist() for y, x in ((0, 0), (1, 0), (1, 1))]


def test_a_value_that_is_not_finite_is_transparent() -> None:
    pixels = decoded(colour.map_uri(np.array([[0.0, np.nan], [np.inf, 1.0]]), 0.0, 1.0))
    assert [[255, 0], [0, 255]] == pixels[..., 3].tolist()


def test_a_constant_map_can_be_drawn() -> None:
    pixels = decoded(colour.map_uri(np.full((2, 2), 7.0), 7.0, 7.0))
    assert 1 == len(np.unique(pixels.reshape(-1, 4), axis=0))


def test_the_same_map_gives_the_same_bytes() -> None:
    values = np.linspace(0, 1, 192).reshape(12, 16)
    assert colour.map_uri(values, 0, 1) == colour.map_uri(values.copy(), 0, 1)
