"""A user's tests end as their verdicts do, say why, and cannot get lost."""

import json
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

HOLDS = """
    def test_relevance_causes_tokens(arrcoc):
        verdict = arrcoc.causes("relevance", region="target", at_least=2)
        assert verdict.outcome == "holds"
"""
REFUTED = """
    def test_far_too_much(arrcoc):
        arrcoc.causes("relevance", region="target", at_least=300)
"""
NEARLY = """
    def test_nearly(arrcoc):
        arrcoc.causes("relevance", region="target", at_least={at_least})
"""
ORDER = ("said", "measured", "null", "stage", "worst", "replay")


def summary(result):
    """Return the plugin's summary, as lines."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if re.fullmatch(r"=+ arrcoc =+", line))
    stop = next(i for i, line in enumerate(lines) if i > start and line.startswith("==="))
    return lines[start + 1 : stop]


def test_a_claim_that_holds_passes(judge):
    result = judge(HOLDS)

    result.assert_outcomes(passed=1)
    assert 0 == result.ret
    assert any(re.match(r"attending +1 ", line) for line in summary(result))


def test_a_refuted_claim_fails_and_says_why_in_the_fixed_order(judge):
    result = judge(REFUTED)

    result.assert_outcomes(failed=1)
    text = [line.removeprefix("E").strip() for line in result.outlines if line[1:].strip()]
    heads = [line.split(maxsplit=1)[0] for line in text]
    start = heads.index("said")
    assert ORDER == tuple(heads[start : start + 6])
    assert "relevance of the target causes its tokens, at least 300 a patch" in text[start]
    assert "margin 300" in text[start + 1]
    result.stdout.fnmatch_lines(["FAILED test_mine.py::test_far_too_much - own.causes-relevance*"])


def test_the_replay_of_an_own_claim_is_a_command_that_judges_at_the_same_level(judge):
    result = judge(REFUTED + HOLDS)

    [line] = [line for line in result.outlines if re.match(r"E +replay", line)]
    assert "pytest test_mine.py::test_far_too_much --arrcoc-model" in line
    assert "--arrcoc-alpha 0.01 --arrcoc-family 2 --arrcoc-out reports/closer" in line


def test_the_replay_of_a_built_in_claim_is_an_audit(judge):
    source = """
        def test_total(arrcoc):
            arrcoc.holds("whole.query-causes-tokens", margin=300)
    """
    result = judge(source)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*replay*arrcoc-verify audit --model * --claims whole.query-causes-tokens"]
    )


@pytest.mark.parametrize(("mode", "ends"), [("fail", "failed"), ("skip", "skipped")])
def test_an_inconclusive_claim_fails_or_skips_as_asked(judge, mode, ends):
    reading = judge(REFUTED)
    measured = next(line for line in reading.outlines if "measured" in line)
    middle = re.search(r"measured +\+([\d.]+)", measured)[1]

    result = judge(NEARLY.format(at_least=middle), f"--arrcoc-inconclusive={mode}")

    result.assert_outcomes(**{ends: 1})
    assert any(
        line.startswith("INCONCLUSIVE test_mine.py::test_nearly") for line in summary(result)
    )


def test_an_invalid_claim_is_an_error_and_not_a_failure(judge):
    result = judge(HOLDS, router="unsteady")

    result.assert_outcomes(errors=1)
    assert 1 == result.ret
    result.stdout.fnmatch_lines(["INVALID test_mine.py::*gate runtime.determinism failed: *"])


def test_a_claim_about_what_the_model_lacks_is_skipped(judge):
    source = """
        def test_weights(arrcoc):
            arrcoc.holds("balancing.tensions-trade-off")
    """
    result = judge(source, "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*not applicable: sound router declares no site with role*"])


def test_an_unknown_claim_suggests_the_nearest(judge):
    source = """
        def test_typo(arrcoc):
            arrcoc.holds("attending.tokens-in-rang")
    """
    result = judge(source)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did you mean 'attending.tokens-in-range'?*"])
    assert not any("experiment.py" in line for line in result.outlines)


def test_one_picture_and_query_can_be_held_to_a_number(judge):
    source = """
        from PIL import Image
        import pytest

        @pytest.fixture
        def picture(tmp_path):
            image = Image.new("RGB", (256, 256), (128, 128, 128))
            image.paste((200, 90, 40), (0, 0, 64, 64))
            image.save(tmp_path / "one.png")
            return tmp_path / "one.png"

        def test_enough(arrcoc, picture):
            arrcoc.region_gets(picture, "the orange box", (0, 0, 64, 64), at_least=200)

        def test_too_little(arrcoc, picture):
            arrcoc.region_gets(picture, "the orange box", "128,128,64,64", at_least=200)

        def test_outside(arrcoc, picture):
            arrcoc.region_gets(picture, "the orange box", (200, 0, 64, 64), at_least=200)
    """
    result = judge(source)

    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*wanted a box inside the image of 256x256 pixels*"])
    [line] = [line for line in result.outlines if re.match(r"E +debug", line)]
    assert "one.png --model" in line
    assert "--query 'the orange box' --region 128,128,64,64 --expect '>=200'" in line


def test_a_failed_claim_names_the_command_that_debugs_its_worst_case(judge):
    result = judge(REFUTED, cache=True)

    [line] = [line for line in result.outlines if re.match(r"E +debug", line)]
    words = shlex.split(re.sub(r"^E +debug", "", line))
    assert ["arrcoc-verify", "debug"] == words[:2]
    with Image.open(words[2]) as picture:
        width, height = picture.size
    x, y, wide, high = map(int, words[words.index("--region") + 1].split(","))
    assert 0 <= x < x + wide <= width
    assert 0 <= y < y + high <= height
    [worst] = [line for line in result.outlines if re.match(r"E +worst", line)]
    assert words[words.index("--query") + 1] in worst


def test_own_claims_of_every_kind_can_be_said(judge):
    source = """
        def test_ignores(arrcoc):
            arrcoc.ignores("information", "query", within=0.05)

        def test_mediates(arrcoc):
            arrcoc.mediates("query_relevance", factor="query", at_least=0.9)

        def test_necessary(arrcoc):
            arrcoc.necessary("relevance", at_least=2)

        def test_distractor(arrcoc):
            arrcoc.causes("relevance", region="distractor", at_least=2)
    """
    result = judge(source)

    result.assert_outcomes(passed=4)


def test_a_test_that_makes_several_claims_says_so(judge):
    source = """
        import pytest

        def test_two(arrcoc):
            arrcoc.holds("attending.tokens-in-range")
            arrcoc.holds("attending.tokens-are-whole")

        @pytest.mark.arrcoc(claims=2)
        def test_two_announced(arrcoc):
            arrcoc.holds("attending.tokens-in-range")
            arrcoc.holds("attending.tokens-are-whole")
    """
    result = judge(source)

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*@pytest.mark.arrcoc(claims=2)*"])
    assert any(line.startswith("family of 3:") for line in summary(result))


def test_claims_share_one_error_rate(judge):
    result = judge(HOLDS + REFUTED, "--arrcoc-alpha=0.02")

    told = "\n".join(summary(result))
    assert "family of 2: each claim was judged at 0.02 / 2 = 0.01" in told
    assert "Holm over the 2 with a p" in told


def test_fixtures_give_the_model_and_the_scenes(judge):
    source = """
        def test_fixtures(arrcoc_model, arrcoc_scenes):
            assert "sound router" == arrcoc_model.name
            assert len(arrcoc_scenes.asserted) == len({s.cluster for s in arrcoc_scenes.asserted})
    """
    result = judge(source)

    result.assert_outcomes(passed=1)
    assert not any(" arrcoc " in line and "===" in line for line in result.outlines)


def test_a_model_that_cannot_be_loaded_is_an_error_with_one_message(judge):
    result = judge(HOLDS, router="training")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*is in training mode; call .eval() before verifying*"])
    assert not any("Traceback" in line or "adapters" in line for line in result.outlines)
    assert "NOT_RUN" in summary(result)[-1]
    assert summary(result)[-1].endswith(": its setup failed")


def test_claims_without_a_model_are_a_usage_error(judge):
    result = judge(HOLDS, router=None)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*no model is named: give --arrcoc-model SPEC*"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--arrcoc-inconclusive=maybe", "*wanted fail or skip, got 'maybe'*"),
        ("--arrcoc-alpha=2", "*wanted a number between 0 and 1*got '2'*"),
        ("--arrcoc-seed=-1", "*wanted a whole number of at least 0, got '-1'*"),
        ("--arrcoc-nothing=1", "*unrecognized arguments: --arrcoc-nothing=1*"),
    ],
)
def test_a_bad_option_is_a_usage_error(judge, option, message):
    result = judge(HOLDS, option)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("arrcoc('salience')", "*takes keywords only*"),
        ("arrcoc(claim=2)", "*unknown keyword of @pytest.mark.arrcoc*did you mean 'claims'?*"),
        ("arrcoc(claims=0)", "*claims of @pytest.mark.arrcoc: wanted a whole number, got 0*"),
    ],
)
def test_a_marker_with_what_nobody_knows_is_a_usage_error(judge, mark, message):
    result = judge(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it(arrcoc):\n    pass\n")

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([message])


def test_an_unknown_key_in_pyproject_is_a_usage_error(judge, pytester):
    pytester.makepyprojecttoml('[tool.arrcoc_verify]\nmodle = "x"\n')

    result = judge(HOLDS)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*unknown key of *'modle': did you mean 'model'?*"])


def test_an_unknown_key_in_the_ini_file_is_a_usage_error(judge, pytester):
    pytester.makeini("[pytest]\narrcoc_sed = 3\n")

    result = judge(HOLDS)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*unknown key of *'arrcoc_sed': did you mean 'arrcoc_seed'?*"])


def test_the_command_line_wins_over_the_ini_file_and_that_over_pyproject(judge, pytester):
    pytester.makepyprojecttoml(
        '[tool.arrcoc_verify]\nseed = 1\nalpha = 0.02\n[tool.pytest]\narrcoc_seed = "2"\n'
    )

    assert "seed 2, alpha 0.02" in judge(HOLDS, "--collect-only").stdout.str()
    assert "seed 3, alpha 0.02" in judge(HOLDS, "--collect-only", "--arrcoc-seed=3").stdout.str()


def test_waivers_of_pyproject_let_a_refuted_claim_pass_and_are_said(judge, pytester):
    pytester.makepyprojecttoml(
        "[[tool.arrcoc_verify.waivers]]\n"
        'claim = "own.causes-relevance-target"\nreason = "known"\nauthor = "A. Nonymous"\n'
        'expires = "2999-01-01"\n'
    )

    result = judge(REFUTED)

    result.assert_outcomes(passed=1)
    assert any("(waived by A. Nonymous)" in line for line in summary(result))


def test_the_suite_is_collected_without_a_user_s_file(judge):
    result = judge("", "--arrcoc-suite", "--arrcoc-claims=attending.t*", "-v")

    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["arrcoc-suite::attending.tokens-in-range PASSED*"])


@pytest.mark.parametrize("spread", [[], ["-n", "1"]])
def test_a_suite_pattern_that_matches_nothing_is_a_usage_error(judge, spread):
    result = judge("", "--arrcoc-suite", "--arrcoc-claims=atending.tokens-in-range", *spread)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*did you mean 'attending.tokens-in-range'?*"])


def test_junit_carries_each_verdict_as_a_property(judge, pytester):
    judge(HOLDS + REFUTED, "--junitxml=out.xml")

    cases = ET.parse(pytester.path / "out.xml").getroot().findall(".//testcase")
    told = {case.get("name"): json.loads(case.find(".//property").get("value")) for case in cases}
    assert "holds" == told["test_relevance_causes_tokens"]["verdict"]
    refuted = told["test_far_too_much"]
    assert "refuted" == refuted["verdict"]
    assert {"stage", "effect", "interval", "unit", "margin", "n", "p", "reason"} < set(refuted)
    [failure] = [case.find("failure") for case in cases if case.find("failure") is not None]
    assert failure.get("message").startswith("own.causes-relevance-target refuted: ")


def test_a_record_of_the_session_is_written_where_asked(judge, pytester):
    from arrcoc_verify.report.record import Record

    result = judge(HOLDS + REFUTED, "--arrcoc-out=rec")

    record = Record.load(pytester.path / "rec")
    assert ["holds", "refuted"] == sorted(v.outcome for v in record.verdicts)
    assert {"runtime.determinism"} < {gate.id for gate in record.gates}
    assert "sound router" == record.run["subject"]["name"]
    assert (pytester.path / "rec" / "report.html").exists()
    assert summary(result)[-1].endswith("report.html")


def test_a_test_that_got_lost_is_not_run_and_fails_the_session(judge, pytester):
    pytester.makeconftest(
        """
        def pytest_runtest_protocol(item):
            return True if item.name == "test_far_too_much" else None
        """
    )

    result = judge(HOLDS + REFUTED)

    result.assert_outcomes(passed=1)
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    assert "NOT_RUN test_mine.py::test_far_too_much" in "\n".join(summary(result))


def test_workers_say_the_same_as_one_process(judge):
    alone = judge(HOLDS + REFUTED)
    spread = judge(HOLDS + REFUTED, "-n", "2")

    assert alone.parseoutcomes() == spread.parseoutcomes()
    assert summary(alone) == summary(spread)


def test_a_wrong_marker_in_a_worker_is_an_error_of_its_test_alone(judge):
    source = """
        import pytest

        @pytest.mark.arrcoc(claim=2)
        def test_wrong(arrcoc):
            pass

        def test_plain():
            pass
    """

    result = judge(source, "-n", "1")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*did you mean 'claims'?*"])


def test_a_worker_that_dies_leaves_its_test_not_run(judge):
    source = (
        HOLDS
        + """
    def test_crash(arrcoc):
        import os
        os._exit(3)
    """
    )

    result = judge(source, "-n", "1", "--max-worker-restart=0")

    assert 0 != result.ret
    assert "NOT_RUN test_mine.py::test_crash" in "\n".join(summary(result))


def test_a_session_without_claims_is_left_alone(judge):
    result = judge("def test_plain():\n    pass\n", router=None)

    result.assert_outcomes(passed=1)
    assert not any("arrcoc" in line for line in result.outlines if "rootdir" not in line
                   and "plugins" not in line)  # fmt: skip


def test_the_plugin_loads_pytest_and_the_standard_library_only():
    code = "import sys, arrcoc_verify.pytest_plugin; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    ).stdout.split()

    assert set() == {"torch", "numpy", "scipy", "PIL", "rich", "typer", "jinja2"} & set(loaded)
