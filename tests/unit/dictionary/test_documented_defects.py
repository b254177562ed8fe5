import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_table_of_defects_names_is_there():
    page = (ROOT / "docs" / "dictionaries.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) == len(set(named)) >= 14
    for file, name in named:
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), name
