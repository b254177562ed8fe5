"""The page of a case is enough to name the stage, and shows nothing that is not escaped."""

import html
import re
from dataclasses import replace

import pytest

from arrcoc_verify.debug.causes import MEANING, STAGE_OF
from arrcoc_verify.debug.page import content
from arrcoc_verify.debug.planted import diagnose, plant
from arrcoc_verify.report.debugging import considered, render
from arrcoc_verify.verdict import STAGES

ONE_A_STAGE = (
    "upside-down", "query-severed", "encoder-blind-here", "asked-blind-here", "tension-down",
    "demand-dim-here",
)  # fmt: skip


def stage_by_hand(page):
    """Return the stage that a reader finds in the table of experiments, without the verdict.

    The reader looks for what alone brings the tokens back and takes the first such stage in flow:
    what lies behind it can only make up for it.
    """
    pattern = r'<td class="code">([^<]*)</td>.*?<td>(yes|no|undecided)</td></tr>'
    rows = re.findall(pattern, page, re.DOTALL)
    codes = {code for code, restores in rows if restores == "yes" and " and " not in code}
    alone = {STAGE_OF[code.replace(" ", "_")] for code in codes - {"–"}}
    return min(alone, key=STAGES.index)


@pytest.mark.parametrize("name", ONE_A_STAGE)
def test_the_page_alone_names_the_stage_of_a_planted_failure(sound, name):
    (planted,) = plant(sound, names=[name])
    page = render([content(diagnose(planted).found, "again")], "a case")

    said = set(re.findall(r"stage <b>(\w+)</b>", page))
    assert {STAGE_OF[code] for code in planted.codes} == said


@pytest.mark.parametrize("name", ONE_A_STAGE)
def test_its_experiments_say_the_same_as_its_verdict(sound, name):
    (planted,) = plant(sound, names=[name])
    page = render([content(diagnose(planted).found, "again")], "a case")

    assert [STAGE_OF[code] for code in planted.codes] == [stage_by_hand(page)]


def test_the_page_says_what_became_of_every_known_cause(sound):
    (planted,) = plant(sound, names=["tension-down"])
    found = diagnose(planted).found
    rows = considered(content(found, "again").data, MEANING)

    assert list(STAGE_OF) == [row[0] for row in rows]
    assert {"named"} == {here for code, _, here, _ in rows if code in planted.codes}
    assert set(found.ruled_out) == {code for code, _, here, _ in rows if here == "ruled out"}
    tried = {code for one in found.evidence for code in [one.code]}
    assert not {code for code, _, here, _ in rows if here == "not tested"} & tried


def test_what_comes_from_the_user_is_escaped(sound):
    (planted,) = plant(sound, names=["tension-down"])
    found = diagnose(planted).found
    evil = "<script>alert(1)</script>"
    made = content(replace(found, case=replace(found.case, name=evil, query=evil)), evil)
    page = render([made], evil)

    assert "<script" not in page
    assert html.escape(evil) in page or "&lt;script&gt;" in page
