"""The factorial is balanced, complete and moves one factor between matched cells."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.scenes import Region, Scene, scenes
from arrcoc_verify.scenes.factorial import FACTORS, design, factorial, matched
from arrcoc_verify.scenes.isolation import isolate, main, movement, natural_spread, read

MADE = scenes("select", per_cluster=1)[:3]
CELLS = [cell for scene in MADE for cell in factorial(scene)]


def test_every_combination_of_levels_occurs_once_in_every_scene() -> None:
    for scene in MADE:
        levels = [cell.levels for cell in CELLS if cell.base == scene.name]
        assert list(itertools.product((0, 1), repeat=4)) == levels


def test_the_design_is_orthogonal() -> None:
    x = design(CELLS)
    assert np.array_equal(len(CELLS) * np.eye(4), x.T @ x)
    assert np.array_equal(np.zeros(4), x.sum(0))


@pytest.mark.parametrize("factor", FACTORS)
def test_matched_cells_differ_in_one_factor_only(factor: str) -> None:
    found = matched(CELLS, factor)
    assert 8 * len(MADE) == len(found)
    for low, high in found:
        differ = [name for name in FACTORS if getattr(low, name) != getattr(high, name)]
        assert [factor] == differ
        assert (0, 1) == (getattr(low, factor), getattr(high, factor))


def test_the_target_stays_the_measured_region() -> None:
    for cell in CELLS:
        base = next(scene for scene in MADE if scene.name == cell.base)
        assert base.target.label == cell.scene.target.label
        assert (base.query if cell.query else base.other_query) == cell.scene.query
        same_place = base.target.box == cell.scene.target.box
        assert bool(cell.position) == same_place


def test_names_tell_cells_apart() -> None:
    assert len(CELLS) == len({cell.scene.name for cell in CELLS})


def test_the_same_seed_gives_the_same_pixels() -> None:
    again = factorial(MADE[0])
    for one, other in zip(CELLS, again, strict=False):
        assert np.array_equal(one.scene.pixels, other.scene.pixels)


def test_natural_scenes_leave_out_what_they_cannot_have() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    scene = Scene(
        image=Image.fromarray(pixels), query="find it", target=Region(box=(8, 8, 24, 24)),
        unit="u", cluster="u", role="assert", name="natural",
    )  # fmt: skip
    assert 4 == len(factorial(scene, grid=(8, 8)))
    two = dataclasses.replace(scene, distractor=Region(box=(40, 40, 16, 16)), other_query="that")
    assert {(1,)} == {(cell.position,) for cell in factorial(two, grid=(8, 8))}
    assert 8 == len(factorial(two, grid=(8, 8)))


def test_composed_cells_pass_isolation_with_little_unintended_movement() -> None:
    kept, dropped, rows = isolate(CELLS)
    assert [] == dropped
    assert CELLS == kept
    by_name = {(row.factor, row.estimator): row for row in rows}
    for factor in ("information", "salience", "query"):
        assert by_name[factor, factor].mean >= 0.9
        for estimator in ("information", "salience", "edges", "chroma", "position", "query"):
            if estimator != factor:
                assert by_name[factor, estimator].share <= 0.05
    assert by_name["salience", "chroma"].mean == by_name["information", "chroma"].mean == 0


def test_scenes_outside_the_limits_are_dropped_whole_with_a_reason() -> None:
    # Sabotage: where information is high, salience is high too.
    base = CELLS[0].base
    bright = {cell.levels: cell.scene.image for cell in CELLS if cell.base == base}
    mixed = []
    for cell in CELLS:
        if cell.base == base and cell.information:
            levels = (1, 1, *cell.levels[2:])
            changed = dataclasses.replace(cell.scene, image=bright[levels])
            mixed.append(dataclasses.replace(cell, scene=changed))
        else:
            mixed.append(cell)
    kept, dropped, _ = isolate(mixed)
    assert [base] == [one.name for one in dropped]
    assert 16 * (len(MADE) - 1) == len(kept)
    assert base not in {cell.base for cell in kept}
    assert ("information", "salience") == (dropped[0].factor, dropped[0].estimator)


def test_readings_have_known_values_on_flat_pictures() -> None:
    pixels = np.full((64, 64, 3), 128, dtype=np.uint8)
    pixels[16:32, 16:32] = 255
    scene = Scene(
        image=Image.fromarray(pixels), query="the white box", unit="u", cluster="u",
        target=Region(box=(16, 16, 16, 16), label="white box"), role="assert", name="flat",
    )  # fmt: skip
    found = read(scene, (8, 8))
    assert found.salience == pytest.approx(100 - 53.585, abs=0.01)  # L* of sRGB 128
    assert (0.375, 0.375) == tuple(found.position)
    assert found.information < 1
    assert found.query == 1
    assert found.edges == pytest.approx(0, abs=2)
    assert {0.0} == set(movement(found, found).values())


def test_natural_units_are_those_that_the_fixtures_have() -> None:
    found = natural_spread(scenes("select"))
    assert found == pytest.approx({"information": 1.0, "salience": 6.0, "edges": 2.1}, rel=0.1)


def test_the_command_prints_the_table_and_writes_it(tmp_path, capsys) -> None:
    file = tmp_path / "isolation.json"
    assert 0 == main(["--role", "donor", "--per-cluster", "1", "--json", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (4, 64, 64, []) == tuple(
        found[key] for key in ("scenes", "cells", "cells_kept", "dropped")
    )
    assert 4 * 6 == len(found["rows"])
    assert "4 scenes, 64 cells: 64 cells kept, 0 scenes dropped" in capsys.readouterr().out
