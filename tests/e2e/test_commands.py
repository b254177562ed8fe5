"""Every command does what its help says, and its exit code and JSON mean what the README says."""

import json
import re
import signal
import time
from pathlib import Path

import jsonschema
import pytest

ROUTERS = Path(__file__).parent / "routers.py"
COMMANDS = (
    "audit", "sites", "capture", "report", "diff", "schema", "claims", "conformance",
)  # fmt: skip
UNCONTROLLED = (
    "import arrcoc_verify.audit as a; a._own_controls = dict; "
    "from arrcoc_verify.cli import main; main()"
)
# Tests that run in the background inherit that Ctrl-C is ignored.
HEARS_CTRL_C = (
    f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {UNCONTROLLED}"
)
ASKED = "whole.query-causes-tokens"


@pytest.fixture(scope="session")
def runs(tmp_path_factory, uncontrolled):
    """Return the records of a sound router and of one that is reversed, on the same claims."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import run_audit, scene_set
    from arrcoc_verify.trial import Settings

    folder = tmp_path_factory.mktemp("runs")
    settings = Settings(claims=(ASKED, "attending.tokens-in-range"))
    for name in ("sound", "reversed_"):
        model = load(f"{ROUTERS}:{name}")
        run_audit(model, scene_set(model, per_cluster=1), settings, folder / name)
    return folder


def test_help_loads_nothing_heavy_and_names_every_command(process):
    code = (
        "import sys; from arrcoc_verify.cli.ending import run; run(['--help']);"
        "print('LOADED', *{'torch', 'numpy', 'PIL', 'jinja2'} & set(sys.modules))"
    )
    done = process(code=code)

    assert set() == set(COMMANDS) - set(re.findall(r"\w+", done.out))
    assert "LOADED" == done.out.strip().splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(command, name):
    done = command(name, "--help")

    assert 0 == done.code
    assert f"Example: arrcoc-verify {name}" in done.out


def test_without_a_command_the_help_is_shown_as_a_usage_error(command):
    done = command()

    assert 4 == done.code
    assert "Commands:" in done.out


def test_an_unknown_command_suggests_the_nearest(command):
    done = command("audt")

    assert 4 == done.code
    assert "audit" in done.err


def test_an_audit_of_the_reference_model_in_a_process_of_its_own_holds(process, tmp_path):
    done = process(
        "audit", "--claims", "attending.tokens-*", "--per-cluster", "1", "--json", "audit.json"
    )

    told = json.loads((tmp_path / "audit.json").read_text())
    page = Path(done.out.strip().splitlines()[-1])
    assert 0 == done.code, done.err + done.out
    assert page == Path(told["report"])
    assert re.fullmatch(r"reports/\d{8}T\d{6}Z-[0-9a-f]{4}/report\.html", str(page))
    assert (tmp_path / page).stat().st_size > 10_000
    assert "Traceback" not in done.err


def test_the_json_of_an_audit_is_what_its_schema_says(audit):
    from arrcoc_verify.report.schema import schema

    done, told = audit(claims=[ASKED, "attending.tokens-in-range"])

    jsonschema.validate(told, schema("audit"))
    assert {"model", "claims", "gates", "report", "seconds", "peak_mib"} == set(told)
    assert {"id", "stage", "verdict", "effect", "interval", "n", "reason"} == set(told["claims"][0])
    assert {"id", "passed", "reason"} == set(told["gates"][0])
    asked = next(claim for claim in told["claims"] if claim["id"] == ASKED)
    assert asked["interval"][0] < asked["effect"] < asked["interval"][1]
    assert Path(told["report"]).exists()
    assert done.out.strip().splitlines()[-1] == told["report"]


def test_a_refuted_claim_exits_with_1_and_is_told_with_what_was_measured(audit):
    done, told = audit(router="reversed_", claims=[ASKED])

    assert 1 == done.code
    assert ["refuted"] == [claim["verdict"] for claim in told["claims"]]
    assert "Refuted" in done.out
    assert ASKED in done.out
    for words in ("asking for an object", "tokens", "margin", "its contrary is"):
        assert words in done.out


def test_a_severed_query_fails_its_gate_and_exits_with_2(audit):
    done, told = audit(router="deaf", claims=[ASKED])

    [gate] = [gate for gate in told["gates"] if gate["id"] == "query.live"]
    assert 2 == done.code
    assert gate["passed"] is False
    assert "the query does not get in" in gate["reason"]
    assert ["invalid"] == [claim["verdict"] for claim in told["claims"]]
    assert "Gates that failed" in done.out


def test_a_waiver_changes_the_exit_code_and_not_the_verdict(audit, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        "[[tool.arrcoc_verify.waivers]]\n"
        f'claim = "{ASKED}"\nreason = "by design"\nauthor = "A. Nonymous"\nexpires = 2999-01-01\n'
    )

    done, told = audit(router="reversed_", claims=[ASKED, "attending.tokens-in-range"])

    assert 0 == done.code
    assert "refuted" in [claim["verdict"] for claim in told["claims"]]
    assert "waived by A. Nonymous until 2999-01-01" in " ".join(done.out.split())


def test_a_profile_file_takes_claims_away_with_their_reason(audit, tmp_path):
    (tmp_path / "mine.toml").write_text(f'[excluded]\n"{ASKED}" = "we make no such claim"\n')

    done, told = audit("--profile", "mine.toml", claims=[ASKED, "attending.tokens-in-range"])

    assert 0 == done.code
    [asked] = [claim for claim in told["claims"] if claim["id"] == ASKED]
    assert "not_applicable" == asked["verdict"]
    assert "we make no such claim" in asked["reason"]


def test_an_audit_never_overwrites_a_record(audit):
    first, _ = audit("--out", "run")
    second, _ = audit("--out", "run")

    assert (0, 2) == (first.code, second.code)
    assert "already holds a record: resume it, or choose another folder" in second.err


def test_a_stopped_audit_says_how_to_go_on_and_does(process, tmp_path):
    options = ["--model", f"{ROUTERS}:slow", "--per-cluster", "1", "--claims", "whole.*-tokens"]
    running = process.start("audit", *options, "--out", "run", code=HEARS_CTRL_C)
    readings = tmp_path / "run" / "readings"
    for _ in range(12_000):
        if running.poll() is not None or any(readings.glob("*.json")):
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    kept = sorted(readings.glob("*.json"))

    resumed = process("audit", "--resume", "run", "--json", "resumed.json", code=UNCONTROLLED)

    assert 130 == running.returncode, out + err
    assert "To go on: arrcoc-verify audit --resume run" in err
    assert "Traceback" not in err
    assert kept
    planned = json.loads((tmp_path / "run" / "run.json").read_text())["planned"]
    told = json.loads((tmp_path / "resumed.json").read_text())
    assert set(planned) == {claim["id"] for claim in told["claims"]}, resumed.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "success"


def test_a_run_that_has_ended_cannot_be_resumed(audit, command):
    audit("--out", "run")

    done = command("audit", "--resume", "run")

    assert 4 == done.code
    assert "has ended, there is nothing to go on with" in done.err


def test_resuming_takes_the_options_that_the_run_was_begun_with(command, tmp_path):
    done = command("audit", "--resume", "run", "--seed", "3")

    assert 4 == done.code
    assert "leave --seed out" in done.err


def test_sites_tells_what_a_model_holds(command):
    done = command("sites", "--model", f"{ROUTERS}:sound", "--json", "sites.json")

    told = json.loads(Path("sites.json").read_text())
    site = next(one for one in told["sites"] if one["name"] == "balancing.relevance")
    assert 0 == done.code
    assert "knowing.query_relevance" in done.out
    assert [8, 8] == site["shape"]
    assert "relevance" == site["role"]
    assert site["fired"]


def test_capture_writes_a_store_and_goes_on_with_it(command):
    from arrcoc_verify.activations import ActivationStore

    options = ["--model", f"{ROUTERS}:sound", "--per-cluster", 1, "--sites", "knowing.*"]
    first = command("capture", *options, "--out", "store", "--json", "capture.json")
    again = command("capture", *options, "--resume", "store")

    told = json.loads(Path("capture.json").read_text())
    store = ActivationStore.open("store")
    assert (0, 0) == (first.code, again.code)
    assert told["examples"] == len(store)
    assert {site["name"] for site in told["sites"]} == set(store.sites)
    assert {"knowing.information", "knowing.salience", "knowing.query_relevance"} == set(
        store.sites
    )


def test_a_stopped_capture_says_how_to_go_on(command, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("arrcoc_verify.capture.capture", stopped)

    done = command("capture", "--model", f"{ROUTERS}:sound", "--per-cluster", 1, "--out", "store")

    assert 130 == done.code
    assert "To go on: the same command with --resume store" in done.err


def test_a_store_that_is_not_there_cannot_be_resumed(command):
    done = command("capture", "--resume", "nowhere")

    assert 4 == done.code
    assert "found none at nowhere" in done.err


def test_report_renders_every_view_without_torch(process, runs, tmp_path):
    blocked = "import sys; sys.modules['torch'] = None; from arrcoc_verify.cli import main; main()"
    done = process(
        "report", runs / "sound", "--out", "page.html", "--junit", "junit.xml", "--sarif",
        "out.sarif", "--markdown", "summary.md", code=blocked,
    )  # fmt: skip

    assert 0 == done.code, done.err
    assert (runs / "sound" / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    assert "<testsuites" in (tmp_path / "junit.xml").read_text()
    assert "2.1.0" == json.loads((tmp_path / "out.sarif").read_text())["version"]
    assert "sound router" in (tmp_path / "summary.md").read_text()


def test_a_record_that_was_changed_is_rendered_and_said_to_be(command, runs, tmp_path):
    import shutil

    shutil.copytree(runs / "sound", tmp_path / "copy")
    lines = tmp_path / "copy" / "results.jsonl"
    lines.write_text(lines.read_text().replace("holds", "Holds", 1))

    done = command("report", "copy")

    assert 2 == done.code
    assert "does not add up" in done.err


def test_a_folder_without_a_record_is_said(command, tmp_path):
    done = command("report", "nowhere")

    assert 2 == done.code
    assert "a record is a folder with run.json" in done.err


def test_diff_exits_with_1_when_a_verdict_flipped_for_the_worse(command, runs):
    done = command(
        "diff", runs / "sound", runs / "reversed_", "--json", "diff.json", "--html", "diff.html"
    )

    told = json.loads(Path("diff.json").read_text())
    assert 1 == done.code
    assert [ASKED] == told["worse"]
    assert "1 for the worse, 0 for the better" in done.out
    assert Path("diff.html").stat().st_size > 1000


def test_diff_exits_with_0_when_verdicts_flipped_for_the_better_or_not_at_all(command, runs):
    better = command("diff", runs / "reversed_", runs / "sound")
    same = command("diff", runs / "sound", runs / "sound")

    assert (0, 0) == (better.code, same.code)
    assert "0 of 2 verdicts flipped" in same.out


def test_schema_names_and_prints_the_schemas(command):
    names = command("schema").out.split()
    for name in ("audit", "event", "run"):
        assert name in names
        jsonschema.Draft202012Validator.check_schema(json.loads(command("schema", name).out))
    assert "did you mean 'audit'?" in command("schema", "audits").err


def test_claims_are_listed_with_margin_unit_and_source(command):
    from arrcoc_verify.suite import CLAIMS

    done = command("claims", "--json", "claims.json")
    told = json.loads(Path("claims.json").read_text())["claims"]

    assert [claim.id for claim in CLAIMS] == [claim["id"] for claim in told]
    assert {"id", "sentence", "margin", "unit", "source"} < set(told[0])
    assert all(claim.id in done.out for claim in CLAIMS)


def test_conformance_exits_with_1_when_a_declaration_is_not_true(command):
    sound = command("conformance", f"{ROUTERS}:sound", "--json", "sound.json")
    liar = command("conformance", f"{ROUTERS}:unsteady", "--json", "liar.json")

    assert (0, 1) == (sound.code, liar.code), sound.out
    checks = json.loads(Path("liar.json").read_text())["checks"]
    assert False is next(one for one in checks if one["id"] == "deterministic")["passed"]


def test_a_closed_pipe_is_no_error(process):
    running = process.start("claims")
    running.stdout.close()
    _, err = running.communicate(timeout=120)

    assert "Traceback" not in err
