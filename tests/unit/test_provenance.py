import json
import re
import subprocess
import sys
from pathlib import Path

from arrcoc_verify import provenance


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, arrcoc_verify.provenance, arrcoc_verify.report.html, "
        "arrcoc_verify.report.writer, arrcoc_verify.report.diff; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False\n" == done.stdout


def test_a_digest_follows_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = provenance.folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x").write_text("cache")
    assert first == provenance.folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert first != provenance.folder_digest(tmp_path)
    assert re.fullmatch("sha256:[0-9a-f]{64}", first)


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert known == provenance.file_digest(tmp_path / "empty")


def test_the_order_of_keys_does_not_matter() -> None:
    assert provenance.json_digest({"a": 1, "b": 2}) == provenance.json_digest({"b": 2, "a": 1})


def test_a_folder_without_a_repository_has_no_commit(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None


def test_a_commit_is_found_and_a_change_is_seen(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = provenance.git_commit(tmp_path)
    (tmp_path / "file").write_text("two")
    dirty = provenance.git_commit(tmp_path)
    assert clean is not None
    assert dirty is not None
    assert (False, True) == (clean["dirty"], dirty["dirty"])
    assert clean["commit"] == dirty["commit"]


def test_the_environment_is_plain_data_without_persons_or_hosts() -> None:
    data = provenance.environment()
    json.dumps(data, allow_nan=False)
    assert {"python", "platform", "machine", "cores", "packages", "variables", "git"} == set(data)


def test_a_missing_package_is_left_out() -> None:
    assert ["numpy"] == list(provenance.packages(["numpy", "no-such-distribution-here"]))


def test_time_is_utc_to_the_second() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", provenance.now())


def test_memory_has_been_used() -> None:
    assert 1 < provenance.peak_mib() < 1_000_000


def test_a_digest_of_code_changes_with_what_it_does_and_with_nothing_else(tmp_path):
    file = tmp_path / "one.py"

    def digest(text):
        file.write_text(text)
        return provenance.code_digest([file], tmp_path)

    plain = digest("def f(x):\n    return x + 1\n")

    assert plain == digest(
        '"""Says."""\n\n\ndef f(x):  # why\n    """Says."""\n    return (x + 1)\n'
    )
    assert plain != digest("def f(x):\n    return x + 2\n")
