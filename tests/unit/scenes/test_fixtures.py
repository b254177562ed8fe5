"""The fixtures are complete, allowed to be shared, and each has one role."""

from collections import Counter

import pytest
from PIL import Image

from arrcoc_verify.errors import BadImage, UnknownName
from arrcoc_verify.scenes import fixtures, roles

MANIFEST = fixtures.manifest()


def test_there_are_enough_photographs_and_cutouts() -> None:
    assert len(MANIFEST.photographs) >= 150
    assert len(MANIFEST.cutouts) >= 80


def test_all_files_together_are_small() -> None:
    files = [file for file in fixtures.folder().rglob("*.webp") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12_000_000


def test_every_file_is_in_the_manifest_and_every_entry_has_its_file() -> None:
    listed = {one.file for one in (*MANIFEST.photographs, *MANIFEST.cutouts)}
    kept = {
        f"{part}/{file.name}"
        for part in ("photos", "cutouts")
        for file in (fixtures.folder() / part).iterdir()
    }
    assert listed == kept


def test_every_photograph_names_author_source_and_a_free_licence() -> None:
    for one in MANIFEST.photographs:
        assert one.author.strip()
        assert one.source.startswith("https://")
        assert one.licence in ("Public Domain", "CC0-1.0")


def test_every_file_has_the_digest_that_the_manifest_gives() -> None:
    for one in MANIFEST.photographs:
        assert fixtures.photograph(one.id).mode == "RGB"
    for each in MANIFEST.cutouts:
        assert fixtures.cutout(each.id).mode == "RGBA"


def test_names_of_files_do_not_give_labels_away() -> None:
    for one in (*MANIFEST.photographs, *MANIFEST.cutouts):
        assert not set(one.label.lower().split()) & set(one.file.replace(".", "/").split("/"))


def test_no_photograph_or_cutout_has_two_roles() -> None:
    assert [] == roles.overlaps(MANIFEST.photographs, MANIFEST.cutouts)
    for group in (MANIFEST.photographs, MANIFEST.cutouts):
        assert [n for n in Counter(one.id for one in group).values() if n > 1] == []
        assert [n for n in Counter(one.sha256 for one in group).values() if n > 1] == []


def test_no_near_duplicates_cross_roles_or_count_twice() -> None:
    photographs = MANIFEST.photographs
    found = roles.near_duplicates([fixtures.photograph(one.id) for one in photographs])
    assert found  # some are known to be there
    for first, second in found:
        assert photographs[first].role == photographs[second].role
        assert not (photographs[first].scenic and photographs[second].scenic)


def test_overlaps_are_found_when_there_are_some() -> None:
    cutout = MANIFEST.cutouts[0]
    other = next(role for role in fixtures.ROLES if role != cutout.role)
    data = [
        {
            "id": one.id,
            "label": one.label,
            "role": other if one.id == cutout.photograph else one.role,
        }
        for one in MANIFEST.photographs
    ]
    moved = [type("Entry", (), entry) for entry in data]
    assert len(roles.overlaps(moved, MANIFEST.cutouts)) >= 1


def test_pairs_are_of_two_kinds_and_every_pair_has_backgrounds_of_its_own() -> None:
    used: list[str] = []
    for role in fixtures.ROLES:
        for pair, (first, second) in MANIFEST.pairs(role).items():
            assert first.kind != second.kind
            assert first.label != second.label
            backgrounds = MANIFEST.backgrounds(pair)
            assert backgrounds
            assert {role} == {one.role for one in backgrounds}
            assert {None} == {one.cutout for one in backgrounds}
            used.extend(one.id for one in backgrounds)
    assert len(used) == len(set(used))


def test_assert_has_the_most_clusters_and_every_role_has_at_least_four() -> None:
    count = {role: len(MANIFEST.pairs(role)) for role in fixtures.ROLES}
    assert count["assert"] >= 22
    assert count["select"] >= 8
    assert min(count.values()) >= 4
    backgrounds = [p for p in MANIFEST.photographs if p.scenic and p.role == "assert"]
    assert len(backgrounds) >= 60


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'assert'"):
        MANIFEST.pairs("asert")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="photograph"):
        fixtures.photograph("p999")
    with pytest.raises(UnknownName, match="cut-out"):
        fixtures.cutout("c999")


def test_a_changed_file_is_refused(tmp_path, monkeypatch) -> None:
    one = MANIFEST.photographs[0]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / one.file)
    monkeypatch.setattr(fixtures, "folder", lambda: tmp_path)
    fixtures.photograph.cache_clear()
    with pytest.raises(BadImage, match="sha256"):
        fixtures.photograph(one.id)
    (tmp_path / one.file).unlink()
    with pytest.raises(BadImage, match="reinstall"):
        fixtures.photograph(one.id)
    fixtures.photograph.cache_clear()
