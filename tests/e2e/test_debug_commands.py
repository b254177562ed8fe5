"""`debug`, `repair` and `triage` as a user gives them, with what is wrong said before any work."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text('image,query,box\na.png,find it,"0,0,48,48"\n')
    return "a.png"


@pytest.mark.parametrize("most", [0, -3])
def test_at_least_one_case_is_wanted(command, picture, most):
    done = command("triage", "a.csv", "--most", most)

    assert done.code == 4
    assert f"wanted --most of at least 1, got {most}" in done.err


def test_a_table_has_queries_of_its_own(command, picture):
    done = command("triage", "a.csv", "--query", "who is that?")

    assert done.code == 4
    assert "a.csv is a table" in done.err


def test_a_folder_is_neither_picture_nor_query(command, picture, tmp_path):
    (tmp_path / "others").mkdir()
    done = command(
        "debug", picture, "--query", "find it", "--region", "0,0,48,48", "--against", "others"
    )

    assert done.code == 4
    assert "got the folder others" in done.err


def test_a_goal_that_no_budget_reaches_is_refused(command, picture):
    done = command(
        "debug", picture, "--query", "find it", "--region", "0,0,96,96", "--expect", ">=300"
    )

    assert done.code == 4
    assert "256 of 256 patches" in done.err


def test_where_the_result_cannot_go_is_said_before_the_work(command, picture, tmp_path):
    (tmp_path / "file").write_text("")
    done = command(
        "debug", picture, "--query", "find it", "--region", "0,0,48,48", "--json", "file/a.json"
    )

    assert done.code not in (0, 1, 3)
    assert "a file stands where a folder is wanted" in done.err
    assert not done.out


@pytest.mark.parametrize(
    "asked",
    [("debug", "a.png", "--label", "face"), ("triage", ".", "--label", "face"),
     ("debug", "a.png", "--label", "dog", "--region", "0,0,48,48"), ("triage", "a.csv")],
)  # fmt: skip
def test_a_model_that_finds_labels_wants_one_to_find(command, picture, asked):
    query = () if asked[-1] == "a.csv" else ("--query", "find it")
    done = command(*asked, *query, "--labels", ".")

    assert done.code == 4
    assert "wanted --labels with a --label that it is to find" in done.err
