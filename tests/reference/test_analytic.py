"""The stages of the analytic model against docs/analytic.md, and what is known in the limits."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc_verify.graph import Edit, resume, run
from arrcoc_verify.intervention import shift
from arrcoc_verify.metric import METRICS
from arrcoc_verify.model import SCORERS, TENSIONS
from arrcoc_verify.reference import analytic
from arrcoc_verify.reference.analytic import model
from arrcoc_verify.scenes import scenes
from tests.reference import by_hand
from tests.reference.test_texture import flat, picture, texture_by_hand

MUTE = "mumble"
"""A query that says nothing to the model."""


@pytest.fixture(scope="module")
def shown():
    """Six composed scenes of real photographs."""
    return scenes("select", per_cluster=1)[:6]


@pytest.fixture(scope="module")
def clean(shown):
    return run(model(), [one.image for one in shown], [one.query for one in shown])


def seen(image, query=MUTE):
    return run(model(), [image], [query])


def values(result, site):
    return result[site][0].numpy()


def cells_of(image):
    """Pixels `[patch, 16, 16, 3]` in reading order."""
    raw = np.asarray(image).reshape(16, 16, 16, 16, 3)
    return raw.transpose(0, 2, 1, 3, 4).reshape(256, 16, 16, 3)


def from_cells(tiles):
    raw = tiles.reshape(16, 16, 16, 16, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(raw.reshape(256, 256, 3), dtype=np.uint8))


def luminance(levels):
    """Texture maps whose luminance is given, `[height, width]`, and nothing else."""
    maps = torch.zeros(1, 13, 256, 256)
    maps[0, 0] = torch.as_tensor(levels, dtype=torch.float32)
    return maps


def entropy(maps):
    return analytic.information(analytic.information_features(maps))[0].numpy()


def information_by_hand(luma):
    found = []
    for cell in luma.reshape(16, 16, 16, 16).transpose(0, 2, 1, 3).reshape(256, 256):
        shares = np.zeros(65)
        place = cell * 63
        for low, part in zip(np.floor(place).astype(int), place % 1, strict=True):
            shares[low] += (1 - part) / 256
            shares[low + 1] += part / 256
        kept = shares[shares > 0]
        found.append(-(kept * np.log(kept)).sum() / math.log(64))
    return np.array(found)


def salience_by_hand(ycc):
    colour = ycc.reshape(3, 16, 16, 16, 16).mean((2, 4))
    mean = colour.mean((1, 2))
    around = [(-4, 0), (4, 0), (0, -4), (0, 4), (-3, -3), (-3, 3), (3, -3), (3, 3)]
    found = []
    for row in range(16):
        for column in range(16):
            others = [
                colour[:, min(max(row + r, 0), 15), min(max(column + c, 0), 15)] for r, c in around
            ]
            gaps = [np.abs(colour[:, row, column] - other) @ [1, 2, 2] for other in [*others, mean]]
            found.append(np.mean(gaps) / (np.mean(gaps) + 0.25))
    return np.array(found)


def query_relevance_by_hand(shares, asked):
    blocks = shares.reshape(10, 64, 4, 64, 4).mean((2, 4))
    cosine = np.einsum("cij,c->ij", np.sqrt(blocks), asked)
    return cosine.reshape(16, 4, 16, 4).mean((1, 3)).ravel() ** 2


# Knowing


def test_the_three_scores_are_what_the_document_says(shown, clean):
    for index, scene in enumerate(shown[:3]):
        maps = texture_by_hand(scene.image)
        asked = clean["query.embedding"][index, :10].numpy()
        expected = {
            "information": information_by_hand(maps[0]),
            "salience": salience_by_hand(maps[:3]),
            "query_relevance": query_relevance_by_hand(maps[3:], asked),
        }
        for name, scores in expected.items():  # the texture array is single precision
            actual = clean[f"knowing.{name}"][index]
            np.testing.assert_allclose(scores, actual, rtol=0, atol=2e-5, err_msg=name)


def test_scores_lie_between_zero_and_one(clean):
    for name in SCORERS:
        scores = clean[f"knowing.{name}"]
        assert 0 <= float(scores.min())
        assert float(scores.max()) <= 1


def test_a_cell_of_one_bin_level_holds_no_information():
    for level in (0, 21, 42, 63):  # the bin levels that eight bits can show exactly
        made = values(seen(flat([level * 255 // 63] * 3)), "knowing.information")
        np.testing.assert_allclose(0, made, rtol=0, atol=1e-4)
    for level in range(64):
        made = entropy(luminance(np.full((256, 256), level / 63)))
        np.testing.assert_allclose(0, made, rtol=0, atol=1e-4)


def test_a_flat_cell_between_two_levels_holds_a_sixth_and_no_flat_cell_more():
    half = entropy(luminance(np.full((256, 256), 30.5 / 63)))
    np.testing.assert_allclose(1 / 6, half, atol=1e-6)
    for level in range(0, 256, 5):
        assert entropy(luminance(np.full((256, 256), level / 255))).max() <= 1 / 6 + 1e-6


def test_a_cell_with_all_levels_alike_holds_all_information():
    cell = (np.arange(256) % 64 / 63).reshape(16, 16)
    np.testing.assert_allclose(1, entropy(luminance(np.tile(cell, (16, 16)))), atol=1e-4)


@pytest.mark.parametrize("count", [2, 4, 8, 16, 32])
def test_information_of_equally_frequent_levels_is_their_number_of_bits_in_sixths(count):
    cell = (np.arange(256) % count / 63).reshape(16, 16)
    expected = math.log2(count) / 6
    np.testing.assert_allclose(expected, entropy(luminance(np.tile(cell, (16, 16)))), atol=1e-4)


def test_information_does_not_hang_on_where_a_pixel_lies():
    tiles = cells_of(picture(0))
    mixed = np.random.default_rng(1).permutation(tiles.reshape(256, 256, 3), axis=1)
    one, other = (values(seen(from_cells(t)), "knowing.information") for t in (tiles, mixed))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_a_uniform_picture_has_no_salience():
    for rgb in ((0, 0, 0), (200, 30, 90), (128, 128, 128)):
        np.testing.assert_allclose(0, values(seen(flat(rgb)), "knowing.salience"), atol=1e-5)


@pytest.mark.parametrize(
    ("flip", "axis"),
    [(Image.Transpose.FLIP_LEFT_RIGHT, 1), (Image.Transpose.FLIP_TOP_BOTTOM, 0)],
)
@pytest.mark.parametrize("name", SCORERS)
def test_scores_of_a_mirror_image_are_mirrored(shown, clean, flip, axis, name):
    mirrored = run(model(), [shown[0].image.transpose(flip)], [shown[0].query])
    expected = np.flip(values(clean, f"knowing.{name}").reshape(16, 16), axis)
    actual = values(mirrored, f"knowing.{name}").reshape(16, 16)
    np.testing.assert_allclose(expected, actual, rtol=0, atol=1e-5)


def test_an_equal_shift_of_all_pixels_leaves_salience_and_query_relevance(shown, clean):
    brighter = Image.fromarray(np.asarray(shown[0].image) + np.uint8(21))
    assert np.asarray(brighter).min() >= 21  # nothing wrapped round
    moved = run(model(), [brighter], [shown[0].query])
    for name in ("salience", "query_relevance"):
        expected, actual = (values(one, f"knowing.{name}") for one in (clean, moved))
        np.testing.assert_allclose(expected, actual, rtol=0, atol=2e-5)


def test_only_query_relevance_hears_the_query(shown, clean):
    other = run(model(), [one.image for one in shown], [one.other_query for one in shown])
    for name in ("information", "salience"):
        assert torch.equal(clean[f"knowing.{name}"], other[f"knowing.{name}"])
    assert not torch.equal(clean["knowing.query_relevance"], other["knowing.query_relevance"])


def test_blocks_with_exactly_the_shares_asked_for_have_cosine_one():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(10), 2)
    maps = torch.zeros(2, 13, 256, 256, dtype=torch.float64)
    maps[:, 3:] = torch.from_numpy(shares)[:, :, None, None]
    asked = torch.cat([torch.from_numpy(np.sqrt(shares)), torch.zeros(2, 2)], 1)
    blocks = analytic.descriptor(maps)
    alike = analytic.query_relevance(analytic.query_features(blocks, asked))
    np.testing.assert_allclose(1, alike, rtol=1e-9)
    crossed = analytic.query_relevance(analytic.query_features(blocks, asked.flip(0)))
    cosine = np.sqrt(shares[0] * shares[1]).sum()
    np.testing.assert_allclose(cosine**2, crossed, rtol=1e-9)
    assert cosine < 1


def test_an_unknown_word_is_relevant_nowhere():
    assert 0 == np.abs(values(seen(picture(0)), "knowing.query_relevance")).max()


def test_a_picture_in_the_colour_asked_for_is_relevant_everywhere():
    # Cb = Cr = 0.15 / sqrt(2), at mid grey: the centre of purple, to eight bits.
    chroma = 255 * 0.15 / math.sqrt(2)
    rgb = np.rint([128 + 1.402 * chroma, 128 - 1.058269 * chroma, 128 + 1.772 * chroma]).astype(int)
    purple = seen(flat(rgb.tolist()), "the purple one")
    green = seen(flat(rgb.tolist()), "the green one")
    assert values(purple, "knowing.query_relevance").min() > 0.97
    assert values(green, "knowing.query_relevance").max() < 1e-6


def test_stages_read_the_vectors_and_nothing_else(clean):
    """Replace a vector: the score is the readout of what is there now."""
    for name, role in (("information", "information"), ("query_relevance", "query")):
        site = f"knowing.{role}_features"
        flipped = resume(clean, edits=[Edit(site=site, write=lambda old: old.flip(1))])
        expected = clean[f"knowing.{name}"].flip(1)
        np.testing.assert_allclose(expected, flipped[f"knowing.{name}"], rtol=0, atol=1e-12)


# Balancing and attending


def test_balancing_and_attending_are_what_the_document_says(clean):
    for index in range(len(clean)):
        scores = np.stack([clean[f"knowing.{name}"][index].numpy() for name in SCORERS])
        said = tuple(clean["balancing.context"][index, :3].tolist())
        hand = by_hand.allocate(scores, said, 32768)
        for site, expected in (
            ("balancing.tensions", hand.tensions),
            ("balancing.weights", hand.weights),
            ("balancing.mix", hand.mix),
            ("balancing.normaliser", hand.level),
            ("balancing.relevance", hand.relevance),
            ("attending.demand", hand.demand),
            ("attending.multiplier", hand.multiplier),
            ("attending.lod", hand.lod),
        ):
            actual = clean[site][index]
            np.testing.assert_allclose(expected, actual, rtol=1e-12, atol=1e-9, err_msg=site)
        np.testing.assert_array_equal(
            by_hand.whole(clean["attending.lod"][index].numpy()), clean["attending.tokens"][index]
        )


def test_the_budget_is_spent_on_every_picture(clean):
    np.testing.assert_allclose(32768, clean["attending.lod"].sum(1), rtol=0, atol=1e-8)
    assert [32768.0] * len(clean) == clean["attending.tokens"].sum(1).tolist()


def test_weights_sum_to_one_and_reports_are_true(clean):
    np.testing.assert_allclose(1, clean["balancing.weights"].sum(1), rtol=1e-12)
    for name in ("tensions", "weights"):
        assert torch.equal(clean[f"balancing.{name}"], clean[f"balancing.reported_{name}"])


def test_each_kind_of_query_moves_its_tension(shown):
    def tensions(query):
        return dict(
            zip(TENSIONS, values(seen(shown[0].image, query), "balancing.tensions"), strict=True)
        )

    plain, broad, odd = (tensions(q) for q in (MUTE, "the whole scene", "anything odd"))
    named = tensions("the blue one")
    assert broad["compress"] > plain["compress"] > named["compress"]
    assert odd["exploit"] < plain["exploit"] == named["exploit"]
    assert broad["focus"] < plain["focus"] < named["focus"]


def test_an_image_gets_the_same_whatever_stands_beside_it(shown, clean):
    for size in (1, 4):
        again = run(model(), [s.image for s in shown], [s.query for s in shown], batch_size=size)
        assert torch.equal(clean["attending.lod"], again["attending.lod"])


# Known answers


@pytest.mark.parametrize("query", [MUTE, "the whole scene", "the purple cat", "anything odd"])
@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (13, 200, 77), (128, 128, 128)])
def test_every_patch_of_a_blank_picture_gets_128_tokens(rgb, query):
    blank = seen(flat(rgb), query)
    np.testing.assert_allclose(128, values(blank, "attending.lod"), rtol=0, atol=1e-9)
    assert [128.0] == np.unique(values(blank, "attending.tokens")).tolist()


def test_focus_moves_nothing_when_nothing_known_was_asked_for(shown):
    base = run(model(), [one.image for one in shown], [MUTE] * len(shown))
    for amount in (-0.5, 0.3):
        push = torch.tensor([0, 0, amount], dtype=torch.float64)
        moved = resume(
            base, edits=[Edit(site="balancing.tensions", value=base["balancing.tensions"] + push)]
        )
        assert not torch.equal(base["balancing.weights"], moved["balancing.weights"])
        np.testing.assert_allclose(base["attending.lod"], moved["attending.lod"], rtol=0, atol=1e-9)


def test_the_unit_of_the_scores_does_not_matter_while_the_weights_are_held(clean):
    edits = [Edit(site=f"knowing.{name}", write=lambda old: 0.4 * old) for name in SCORERS] + [
        Edit(site="balancing.weights", value=clean["balancing.weights"])
    ]
    scaled = resume(clean, edits=edits)
    np.testing.assert_allclose(0.4 * clean["balancing.mix"], scaled["balancing.mix"], rtol=1e-9)
    np.testing.assert_allclose(clean["attending.lod"], scaled["attending.lod"], rtol=0, atol=1e-9)


def test_one_white_cell_on_black():
    tiles = np.zeros((256, 16, 16, 3), dtype=np.uint8)
    place = 16 * 7 + 8
    tiles[place] = 255
    bright = seen(from_cells(tiles))
    np.testing.assert_allclose(0, values(bright, "knowing.information"), atol=1e-4)
    away = [(-4, 0), (4, 0), (0, -4), (0, 4), (-3, -3), (-3, 3), (3, -3), (3, 3)]
    near = np.zeros(256, dtype=bool)
    near[[16 * (7 + r) + 8 + c for r, c in away]] = True
    distance = np.full(256, 1 / 256 / 9)
    distance[near] = (1 + 1 / 256) / 9
    distance[place] = (8 + 255 / 256) / 9
    stands_out = distance / (distance + 0.25)
    np.testing.assert_allclose(stands_out, values(bright, "knowing.salience"), atol=1e-6)
    expected = stands_out / (stands_out + stands_out.mean())
    # Information is 1e-5 and not 0, since white is 0.99999994 in single precision.
    np.testing.assert_allclose(expected, values(bright, "balancing.relevance"), atol=1e-4)
    lod = np.full(256, (32768 - 9 * 400) / 247)
    lod[near] = lod[place] = 400
    np.testing.assert_allclose(lod, values(bright, "attending.lod"), rtol=0, atol=1e-9)
    whole = np.full(256, 118.0)
    whole[np.flatnonzero(lod < 400)[:22]] = 119
    whole[lod == 400] = 400
    np.testing.assert_array_equal(whole, values(bright, "attending.tokens"))
    assert 32768 == whole.sum()
    # The table of the document, in its order.
    rows = [place, int(np.flatnonzero(near)[0]), 0]
    text = (Path(__file__).parents[2] / "docs" / "analytic.md").read_text(encoding="utf-8")
    table = text.split("**One bright cell.**")[1].split("**A boundless dose.**")[0]
    shown = re.findall(r"\| (\d\.\d{4}) \| (\d\.\d{4}) \| (\d\.\d{4}) \| .* \|\n", table)
    assert [
        (f"{stands_out[i]:.4f}", f"{expected[i]:.4f}", f"{expected[i] ** 4 + 1e-6:.4f}")
        for i in rows
    ] == shown
    assert f"{lod[0]:.4f}" in table


def test_a_boundless_dose_has_a_bounded_effect(shown, clean):
    region = torch.as_tensor(np.stack([s.target.cells((16, 16), s.image.size) for s in shown]))
    share = region.double().mean(1)
    for name in SCORERS:
        endless = resume(clean, edits=[shift(f"knowing.{name}", 1e9, where=region)])
        related, lod = endless["balancing.relevance"], endless["attending.lod"]
        for index in range(len(shown)):
            inside, size = region[index], float(region[index].sum())
            np.testing.assert_allclose(1 / (1 + share[index]), related[index, inside], rtol=1e-6)
            np.testing.assert_allclose(0, related[index, ~inside], atol=1e-6)
            most = min(400, 64 + 336 * (32768 - 64 * 256) / 336 / size)
            np.testing.assert_allclose(most, lod[index, inside], atol=0.1)


def test_ablating_the_demand_of_one_patch_pays_all_others_and_causes_nothing():
    tame = dataclasses.replace(model(), name="tame")
    base = run(tame, [picture(3)], [MUTE])
    demand = values(base, "attending.demand")
    lost = int(demand.argmax())
    assert values(base, "attending.lod").max() < 400
    where = torch.zeros(1, 256, dtype=torch.bool)
    where[0, lost] = True
    after = resume(base, edits=[Edit(site="attending.demand", write=torch.zeros_like, where=where)])
    wanted, whole = (32768 - 64 * 256) / 336, demand.sum()
    expected = 336 * wanted * demand * demand[lost] / (whole * (whole - demand[lost]))
    gained = values(after, "attending.lod") - values(base, "attending.lod")
    others = np.arange(256) != lost
    np.testing.assert_allclose(expected[others], gained[others], rtol=0, atol=1e-9)
    assert gained[others].min() > 0
    mask = torch.from_numpy(others)[None]
    held = Edit(site="attending.multiplier", value=base["attending.multiplier"])
    local = resume(base, edits=[*after.edits, held])
    tokens = METRICS["tokens"]
    assert 0 == float(tokens(local.allocation, mask) - tokens(base.allocation, mask))
