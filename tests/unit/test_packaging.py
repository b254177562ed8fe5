"""What is installed is what the repository says: one version, one pair, all data, true commands."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import arrcoc_verify

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMAND = re.compile(r"(?:^|[`/])arrcoc-verify ([a-z][a-z-]*)", re.MULTILINE)
DOCUMENTS = ("README.md", "CONTRIBUTING.md")


def pin(name: str) -> str:
    """Return the exact version that pyproject.toml asks of `name`."""
    [version] = [d.split("==")[1] for d in PROJECT["dependencies"] if d.startswith(f"{name}==")]
    return version


def python(code: str) -> str:
    """Return what `code` printed in a fresh process in the repository."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("name", sorted(arrcoc_verify.PUBLIC))
def test_every_public_name_resolves_to_what_its_module_defines(name):
    module = importlib.import_module(f"arrcoc_verify.{arrcoc_verify.PUBLIC[name]}")

    assert getattr(module, name) is getattr(arrcoc_verify, name)
    assert name in dir(arrcoc_verify)


def test_type_checkers_see_the_same_public_names():
    tree = ast.parse(Path(arrcoc_verify.__file__).read_text())
    seen = {
        alias.asname: node.module.removeprefix("arrcoc_verify.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arrcoc_verify.")
        for alias in node.names
    }

    assert arrcoc_verify.PUBLIC == seen


def test_no_public_name_can_be_replaced_by_a_module():
    modules = {path.stem for path in Path(arrcoc_verify.__file__).parent.iterdir()}

    assert set() == modules & set(arrcoc_verify.PUBLIC)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'arrcoc_verify' has no attribute 'nothing'"):
        arrcoc_verify.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["arrcoc_verify", "arrcoc_verify.pytest_plugin"])
def test_importing_the_package_or_its_plugin_loads_nothing_heavy(module):
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()

    assert set() == {"torch", "numpy", "pandas", "PIL"} & set(loaded)


def test_the_version_stands_in_one_place():
    version = re.compile(r"^__version__\s*=|['\"]" + re.escape(PROJECT["version"]), re.MULTILINE)
    sources = (ROOT / "arrcoc_verify").rglob("*.py")

    assert [] == [path for path in sources if version.search(path.read_text())]


def test_the_installed_version_is_the_one_of_pyproject():
    try:
        installed = importlib.metadata.version("arrcoc-verify")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")

    assert PROJECT["version"] == installed == arrcoc_verify.__version__


def test_torch_and_torchvision_are_pinned_as_a_pair_that_belongs_together():
    [wanted] = [
        requirement
        for requirement in importlib.metadata.requires("torchvision")
        if re.match(r"torch\W", requirement)
    ]

    assert pin("torchvision") == importlib.metadata.version("torchvision").split("+")[0]
    assert pin("torch") == importlib.metadata.version("torch").split("+")[0]
    assert f"torch=={pin('torch')}" == re.sub(r"[ ()]", "", wanted)


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(
            r"(?:^|`)make ([a-z]+)", (ROOT / document).read_text(), re.MULTILINE
        )
    }

    assert {"audit", "test"} <= named
    assert set() == named - targets


def test_every_command_that_a_document_names_exists():
    named = {
        command
        for document in DOCUMENTS
        for command in COMMAND.findall((ROOT / document).read_text())
    }
    text = python(
        "import sys; sys.argv[1:] = ['--help']; from arrcoc_verify.cli import main; main()"
    )

    assert "audit" in named
    assert set() == named - set(re.findall(r"[\w-]+", text))


def test_no_import_goes_up_the_layers():
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_the_wheel_holds_code_data_and_doors(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, cwd=tmp_path, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        entry_points = archive.read(
            next(n for n in held if n.endswith("entry_points.txt"))
        ).decode()
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "arrcoc_verify").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    fixtures = {
        f"arrcoc_verify/_fixtures/{path.relative_to(ROOT / 'fixtures').as_posix()}"
        for path in (ROOT / "fixtures").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert set() == package - held
    assert set() == fixtures - held
    assert {"arrcoc_verify/py.typed"} <= held
    assert any(name.endswith(".j2") for name in held)
    assert not any(name.startswith(("tests/", "reports/")) for name in held)
    assert "arrcoc-verify = arrcoc_verify.cli:main" in entry_points
    assert "arrcoc = arrcoc_verify.pytest_plugin" in entry_points
