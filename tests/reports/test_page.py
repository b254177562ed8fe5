import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from arrcoc_verify.report import event as ev
from arrcoc_verify.report.html import BUDGET, headline, render
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.writer import RecordWriter
from arrcoc_verify.verdict import Case, Outcome, Verdict, Waiver
from tests.reports.hostile_record import make_hostile_record
from tests.reports.made_record import make_record
from tests.unit.report.small_record import estimate, finish, header, verdict, writer

HOSTILE = (
    "</script><script>document.body.dataset.pwned=1</script>",
    "{{ 713*719 }}{% raw %}",
    "<img src=x onerror=document.body.dataset.pwned=1>",
    '" onload="document.body.dataset.pwned=1" \' x=\'',
    "\u202egpj.exe\u2066\u200f",
    "</style><style>*{display:none}</style>",
    "</pre></details></table><!-- ",
    "javascript:alert(1)",
)


class Page(HTMLParser):
    """Collects tags, ids, references and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def source(page: Path) -> str:
    return page.read_text()


@pytest.fixture(scope="module")
def parsed(source: str) -> Page:
    return Page(source)


def test_the_same_record_gives_the_same_bytes(record: Record, source: str) -> None:
    assert source == render(Record.load(record.folder))


def test_the_page_refers_to_nothing_outside_itself(source: str, parsed: Page) -> None:
    assert not re.search(r"(src|href|url\()[^>]{0,9}https?:", source)
    for name in ("src", "href", "action", "data", "poster", "srcset"):
        for value in parsed.values(name):
            assert value.startswith(("#", "data:image/"))
    assert "url(" not in source
    assert "@import" not in source


def test_every_link_has_a_target_and_every_id_is_one(parsed: Page) -> None:
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    links = {value[1:] for value in parsed.values("href") if value.startswith("#")}
    assert links <= set(ids)


def test_only_the_pages_own_style_and_script_may_run(source: str, parsed: Page) -> None:
    policy = next(v for v in parsed.values("content") if "default-src" in v)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert [] == parsed.values("style")
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_no_data_is_in_the_script(source: str, record: Record) -> None:
    (script,) = re.findall("<script>(.*?)</script>", source, re.DOTALL)
    assert "knowing" not in script
    assert str(record.run["subject"]["name"]) not in script


def test_every_verdict_and_gate_is_on_the_page(record: Record, parsed: Page) -> None:
    for found in record.verdicts:
        assert found.id in parsed.text
        assert found.sentence in parsed.text
        assert f"claim-{found.id}" in parsed.values("id")
    for gate in record.gates:
        assert gate.id in parsed.text


def test_every_effect_stands_with_its_interval(record: Record, parsed: Page) -> None:
    assert "+21.5 [16.3, 26.7]" in parsed.text
    assert "at most 12" in parsed.text


def test_the_auditors_questions_are_answered_before_the_first_claim(source: str) -> None:
    first = Page(source[: source.index('<section id="claims">')]).text
    for wanted in (
        "Refuted: 4 of 55 required claims do not hold.",
        "shopfront-allocator 2.3",
        "2025-11-22",
        "Not shown by this run",
        "training.gradient-reaches-scorers",
        "waived",
        "not measured yet",
        "arrcoc-verify audit --model shop.toml",
        "Weakest case",
    ):
        assert wanted in first


def test_every_picture_says_in_words_what_it_shows(source: str, parsed: Page) -> None:
    images = re.findall("<img [^>]*>", source)
    assert len(images) > 50
    assert all(re.search('alt="[^"]*from [^"]* to ', image) for image in images)
    for drawing in re.findall("<svg[^>]*>", source):
        assert 'aria-hidden="true"' in drawing or "aria-label=" in drawing


def test_findings_are_read_in_one_order(source: str) -> None:
    for card in re.findall('<dl class="order">(.*?)</dl>', source, re.DOTALL):
        wanted = ["said", "measured", "null", "stage", "worst case", "replay"]
        assert wanted == re.findall("<dt>(.*?)</dt>", card)


def test_outcomes_have_a_letter_and_a_shape(source: str) -> None:
    for outcome in Outcome:
        (symbol,) = re.findall(f'<symbol id="m-{outcome}".*?</symbol>', source)
        assert re.search("<text[^>]*>.</text>", symbol)


def test_refuted_cases_come_first_with_their_replay(source: str, record: Record) -> None:
    cases = re.findall(r'<article class="case (\w+)"', source)
    assert ["refuted"] * 9 == cases[:9]
    worst = next(v for v in record.verdicts if v.outcome is Outcome.REFUTED).worst[0]
    assert f"--case {worst.id}" in source


def test_forty_cases_stay_within_the_budget(tmp_path: Path) -> None:
    many = make_record(tmp_path / "record", cases=40)
    page = render(many)
    assert page.count('<article class="case') == 40
    assert len(page.encode()) <= BUDGET


def test_above_the_budget_fewer_cases_are_shown_and_the_page_says_so(record: Record) -> None:
    page = render(record, budget=460_000)
    shown = page.count('<article class="case')
    assert 0 < shown < 12
    assert len(page.encode()) <= 460_000
    assert f"Showing {shown} of 12 cases" in page
    assert "Showing none of 12 cases" in render(record, budget=1)


def page_with(tmp_path: Path, *verdicts: Verdict) -> str:
    into = writer(tmp_path / "record")
    for one in verdicts:
        into.add_claim(one)
    finish(into)
    return render(Record.load(tmp_path / "record"))


def test_the_debugger_is_told_first_where_a_fault_shows_first(tmp_path: Path) -> None:
    page = page_with(
        tmp_path,
        verdict("knowing.sound"),
        verdict("balancing.right", sentence="the mix is a sum"),
        verdict("balancing.wrong", Outcome.REFUTED),
        verdict("attending.late", Outcome.REFUTED),
    )
    first = Page(page[: page.index('<section id="claims">')]).text
    assert "Refuted first at balancing ; the stages before it hold" in first
    text = Page(page).text
    assert "Where it shows first: balancing. 1 refuted and 1 holding claim there." in text
    assert "(knowing) holds, so look at what balancing does with sound input." in text
    assert "Also refuted, perhaps only because of it: attending." in text


def test_a_fault_after_an_undecided_stage_is_not_pinned_down(tmp_path: Path) -> None:
    page = page_with(
        tmp_path,
        verdict("knowing.unsure", Outcome.INCONCLUSIVE),
        verdict("balancing.wrong", Outcome.REFUTED),
    )
    assert "could be shown, so the cause may lie further up." in page
    assert "the stages before it hold" not in page


def test_a_distance_is_never_said_to_be_wanted_large(tmp_path: Path) -> None:
    effect = estimate(0.0, 0.0, 0.0, method="root mean square, bootstrap-t")
    page = page_with(tmp_path, verdict(kind="mediates", effect=effect, margin=0.01, n=24))
    assert "at most 0.01" in page
    assert "at least 0.01" not in page


def test_a_rule_without_exceptions_shows_its_violations_and_cases(tmp_path: Path) -> None:
    rule = verdict(kind="conserved", numbers={"violations": 0.0, "cases": 264.0}, n=264)
    text = Page(page_with(tmp_path, rule)).text
    assert "0 violations in 264 cases no violation" in text


def test_a_control_that_missed_is_on_the_first_screen(tmp_path: Path) -> None:
    page = page_with(
        tmp_path,
        verdict("knowing.one", controls={"spike": "fired"}),
        verdict("knowing.two", controls={"spike": "missed"}),
    )
    assert "Controls: 1 of 2 did what they must; not those of knowing.two" in Page(page).text


def test_a_picture_kept_for_two_claims_is_shown_once_with_both(tmp_path: Path) -> None:
    def claim(name: str) -> Verdict:
        case = Case(id=f"case-of-{name}", scene="s", query="q", effect=1.0, replay=f"again {name}")
        return verdict(f"knowing.{name}", worst=(case,))

    page = page_with(tmp_path, claim("one"), claim("two"))
    assert page.count('<article class="case') == 1
    for wanted in ('id="case-case-of-one"', 'id="case-case-of-two"', "again one", "again two"):
        assert wanted in page


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_is_inert_in_every_field(
    record: Record, tmp_path: Path, text: str, parsed: Page
) -> None:
    spoiled = render(make_hostile_record(record, tmp_path, text, most=3))
    page = Page(spoiled)
    assert {"script": 1, "style": 1} == {tag: page.tags[tag] for tag in ("script", "style")}
    assert set(page.tags) <= set(parsed.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not set("\u202e\u2066\u200f") & set(spoiled)
    assert str(713 * 719) not in page.text
    for name in ("src", "href"):
        assert all(value.startswith(("#", "data:image/")) for value in page.values(name))
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_a_text_of_a_megabyte_is_cut(record: Record, tmp_path: Path) -> None:
    page = render(make_hostile_record(record, tmp_path, "x" * 1_000_000, most=1))
    assert len(page.encode()) < BUDGET
    assert "1,000,000 characters, whole in the record" in page


def test_a_record_that_was_tampered_with_says_so_on_its_page(
    record: Record, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(record.folder, tmp_path / "record"))
    path = folder / "results.jsonl"
    path.write_text(path.read_text().replace('"outcome":"refuted"', '"outcome":"holds"', 1))
    page = Page(render(Record.load(folder, strict=False)))
    assert "This record does not add up. Do not rely on it." in page.text


def test_a_run_that_stopped_says_what_is_missing(tmp_path: Path) -> None:
    into = RecordWriter(tmp_path / "record", header(planned=("knowing.one", "knowing.two")))
    into.add_claim(verdict())
    page = Page(render(Record.load(tmp_path / "record")))
    assert "Unfinished: 1 of 2 claims were decided." in page.text
    assert "1 planned claims have no verdict: knowing.two" in page.text


def test_an_empty_run_has_a_page_that_is_not_green(tmp_path: Path) -> None:
    finish(writer(tmp_path / "record"))
    page = render(Record.load(tmp_path / "record"))
    assert "Nothing was shown: no required claim ran to a verdict." in page
    assert '<header id="verdict" class="verdict not_run">' in page


def test_what_is_not_finite_is_shown_as_such(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    into = writer(tmp_path / "record")
    into.add_claim(
        verdict(
            outcome=Outcome.INVALID,
            effect=estimate(nan, nan, inf),
            null=estimate(nan, nan, nan),
            margin=16.0,
            numbers={"largest": inf},
        )
    )
    into.add_claim(verdict("knowing.two", effect=estimate(1.0, -inf, inf), margin=nan))
    finish(into)
    page = Page(render(Record.load(tmp_path / "record")))
    assert "not a number" in page.text
    assert "∞" in page.text


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.HOLDS, "Holds: 1 of 1 required claims hold."),
        (Outcome.REFUTED, "Refuted: 1 of 1 required claims do not hold."),
        (Outcome.INVALID, "Invalid: 1 of 1 required claims could not be judged."),
        (Outcome.INCONCLUSIVE, "Undecided: 1 of 1 required claims need more evidence."),
        (Outcome.NOT_RUN, "Incomplete: 1 of 1 required claims did not run."),
        (Outcome.NOT_APPLICABLE, "Nothing was shown: no required claim ran to a verdict."),
    ],
)
def test_the_headline_is_the_verdict_in_a_sentence(
    tmp_path: Path, outcome: Outcome, said: str
) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict(outcome=outcome))
    finish(into)
    assert said == headline(Record.load(tmp_path / "record"))


def test_a_waived_refutation_is_said_beside_what_holds(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    waiver = Waiver(claim="knowing.two", reason="known", author="A", expires="2030-01-01")
    into.add_claim(verdict("knowing.two", Outcome.REFUTED, waiver=waiver))
    assert ("holds", 0) == finish(into)
    said = headline(Record.load(tmp_path / "record"))
    assert "Holds: 1 of 2 required claims hold; 1 more are waived." == said


def test_claims_that_do_not_apply_are_counted_beside_those_that_hold(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    into.add_claim(verdict("knowing.two", Outcome.NOT_APPLICABLE))
    assert ("holds", 0) == finish(into)
    said = headline(Record.load(tmp_path / "record"))
    assert "Holds: 1 of 1 required claims hold; 1 do not apply to what this model shows." == said


def test_evidence_that_a_resumed_run_made_twice_is_shown_once(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    for share in (0.25, 0.75):
        found = ev.Share(source="information", share=share, low=share, high=share)
        into.add(ev.Decomposition(shares=[found]))
    finish(into)
    page = Page(render(Record.load(tmp_path / "record"))).text
    assert "75 %" in page.replace("\u202f", " ")
    assert "25 %" not in page.replace("\u202f", " ")
