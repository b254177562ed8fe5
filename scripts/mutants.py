"""Change the deciding code bit by bit, and see whether the tests notice.

    python scripts/mutants.py                     all mutants of stats, claim and verdict
    python scripts/mutants.py --module conclude   of one module
    python scripts/mutants.py --every 10          a tenth of them

Results are kept as they come in, so that a stopped run goes on; a mutant that lived is tried again,
for a test may notice it now. One that lives must be explained in tests/mutants.toml, by its id, or
the command fails. A mutant that the tests could not even be collected with, or that ran out of
time, is counted apart: neither is a test that noticed.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np  # noqa: F401 - loaded once, for all forks
import pandas as pd  # noqa: F401
import PIL.Image  # noqa: F401
import pytest
import rich.progress  # noqa: F401
import scipy.stats  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "tests" / "mutants.toml"
SECONDS = 120
PATH_TEST = "tests/faults/test_verdict_path.py"
TESTS: dict[str, tuple[str, ...]] = {
    "stats/conclude": ("tests/unit/stats/test_conclude.py", PATH_TEST),
    "stats/decide": ("tests/unit/stats/test_decide.py", PATH_TEST),
    "stats/multiplicity": ("tests/unit/stats/test_multiplicity.py", PATH_TEST),
    "stats/equivalence": ("tests/unit/stats/test_equivalence.py",),
    "stats/interval": ("tests/unit/stats/test_interval.py",),
    "stats/permutation": ("tests/unit/stats/test_permutation.py",),
    "stats/flips": ("tests/unit/stats/test_permutation.py",),
    "stats/tails": ("tests/unit/stats/test_tails.py", "tests/unit/stats/test_decide.py"),
    "stats/power": ("tests/unit/stats/test_power.py",),
    "stats/sequential": ("tests/unit/stats/test_sequential.py",),
    "stats/trend": ("tests/unit/stats/test_trend.py",),
    "stats/sample": (
        "tests/unit/stats/test_sample.py",
        "tests/unit/stats/test_decide.py",
        "tests/unit/stats/test_conclude.py",
        "tests/unit/stats/test_interval.py",
    ),
    "claim": ("tests/unit/test_claim.py", PATH_TEST),
    "verdict": ("tests/unit/test_verdict.py", PATH_TEST),
}
"""Module -> the tests that must notice."""
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum",
         "maximum": "minimum", "amin": "amax", "amax": "amin"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: its id hangs on the code around it and not on line numbers."""

    id: str
    module: str
    line: int
    change: str
    source: str


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module of the package, such as `stats/decide`."""
    text = (ROOT / "arrcoc_verify" / f"{module}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    seen: Counter[str] = Counter()
    for number, (node, field, new) in enumerate(_changes(tree)):
        mutated = copy.deepcopy(tree)
        _apply(mutated, number)
        line = getattr(node, "lineno", 0)
        said = f"{_name(getattr(node, field, node))} -> {_name(new)}"
        key = f"{module}:{ast.unparse(_statement(tree, node))[:200]}:{said}"
        seen[key] += 1
        digest = hashlib.sha256(f"{key}:{seen[key]}".encode()).hexdigest()[:10]
        yield Mutant(id=digest, module=module, line=line, change=said, source=ast.unparse(mutated))


def _name(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_name(one) for one in value)
    return type(value).__name__ if isinstance(value, ast.AST) else repr(value)


def _statement(tree: ast.AST, node: ast.AST) -> ast.AST:
    line = getattr(node, "lineno", 0)
    found = [
        one for one in ast.walk(tree)
        if isinstance(one, ast.stmt) and one.lineno <= line <= (one.end_lineno or one.lineno)
    ]  # fmt: skip
    return max(found, key=lambda one: one.lineno, default=tree)


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """Yield node, field and new value of every change, in a fixed order."""
    for node in _deciding(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            yield node, "op", SWAPS[type(node.op)]()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "op", None
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            new = not node.value if isinstance(node.value, bool) else node.value + 1
            if new != node.value:  # 1e60 + 1 is 1e60
                yield node, "value", new
        else:
            yield from _renamed(node)


def _renamed(node: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    for field in ("id", "attr"):
        name = getattr(node, field, None)
        if isinstance(node, ast.Name | ast.Attribute) and name in NAMES:
            yield node, field, NAMES[name]


def _deciding(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what can decide something: no annotations, no decorators, no messages of errors."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, ast.Raise | ast.JoinedStr):
                yield node
                yield from _deciding(node)


def _apply(tree: ast.AST, number: int) -> None:
    """Make the change with this number in a tree, in place."""
    for at, (node, field, new) in enumerate(_changes(tree)):
        if at != number:
            continue
        if new is None and isinstance(node, ast.UnaryOp):  # `not x` becomes `not not x`
            node.operand = ast.UnaryOp(op=ast.Not(), operand=node.operand)
        else:
            setattr(node, field, new)
        ast.fix_missing_locations(tree)
        return


def sandbox(folder: Path) -> Path:
    """Make a checkout whose package can be changed; everything else is a link."""
    shutil.copytree(ROOT / "arrcoc_verify", folder / "arrcoc_verify",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("tests", "fixtures", "reports", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def warm(modules: Set[str], folder: Path) -> None:
    """Compile once what no mutant changes: run the tests on the sound code, keep its bytecode.

    Raises:
        SystemExit: the tests fail on the sound code, so that they would show nothing.
    """
    tests = sorted({name for module in modules for name in TESTS[module]})
    sys.dont_write_bytecode = False
    outcome = _tested(tests, folder)
    sys.dont_write_bytecode = True
    if outcome != "lived":
        raise SystemExit(f"the tests do not pass on the code as it is: {outcome}")
    for path in (folder / "arrcoc_verify").rglob("*.pyc"):
        if any(path.stem.split(".")[0] == module.split("/")[-1] for module in TESTS):
            path.unlink()  # a mutant as long and as old as the sound code would be taken for it


def outcome_of(mutant: Mutant, folder: Path) -> str:
    """Return `killed`, `lived`, `broke` (nothing could be collected) or `slow`."""
    path = folder / "arrcoc_verify" / f"{mutant.module}.py"
    sound = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        return _tested(TESTS[mutant.module], folder)
    finally:
        path.write_text(sound, encoding="utf-8")


def _tested(tests: Sequence[str], folder: Path) -> str:
    """Run the tests in a fork of this process, which has loaded what takes long, and no more."""
    child = os.fork()
    if child == 0:
        os._exit(_run_tests(tests, folder))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {0: "lived", 1: "killed"}.get(os.waitstatus_to_exitcode(status), "broke")
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "slow"


def _run_tests(tests: Sequence[str], folder: Path) -> int:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    try:
        return int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
    except (Exception, SystemExit):  # noqa: BLE001 - what ends pytest is no test that noticed
        return 3


def explained() -> dict[str, str]:
    """Return id -> why a living mutant changes nothing that matters."""
    if not EXPLAINED.exists():
        return {}
    return dict(tomllib.loads(EXPLAINED.read_text(encoding="utf-8")).get("explained", {}))


def main(argv: Sequence[str] | None = None) -> int:
    """Try mutants; the exit code says whether all that lived are explained."""
    parser = argparse.ArgumentParser(description="Mutation testing of the deciding code.")
    parser.add_argument("--module", action="append", help="such as conclude; default: all")
    parser.add_argument("--every", type=int, default=1, help="one in so many mutants")
    parser.add_argument("--results", type=Path, default=ROOT / "reports" / "mutants.jsonl")
    chosen = parser.parse_args(argv)
    _alone()
    wanted = [m for m in TESTS if not chosen.module or m.split("/")[-1] in chosen.module]
    mutants = [one for module in wanted for one in list(mutants_of(module))[:: chosen.every]]
    done = _read(chosen.results)
    with tempfile.TemporaryDirectory() as made, chosen.results.open("a", encoding="utf-8") as log:
        folder = sandbox(Path(made))
        warm({one.module for one in mutants if one.id not in done}, folder)
        for number, one in enumerate(mutants):
            if one.id in done:
                continue
            done[one.id] = outcome_of(one, folder)
            row = {**asdict(one), "outcome": done[one.id]}
            del row["source"]
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(f"{number + 1}/{len(mutants)} {one.module}:{one.line} {one.change}: "
                  f"{done[one.id]}", flush=True)  # fmt: skip
    return _report(mutants, done)


def _alone() -> None:
    """Make forks safe and small: one thread, no bytecode, no package loaded beforehand."""
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}
    loaded = [name for name in sys.modules if name.startswith("arrcoc_verify")]
    if loaded:
        raise SystemExit(f"the package is loaded already: {loaded[:3]}")


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    why, last = explained(), {row["id"]: row["outcome"] for row in rows}
    return {key: outcome for key, outcome in last.items() if outcome != "lived" or key in why}


def _report(mutants: Sequence[Mutant], done: dict[str, str]) -> int:
    why = explained()
    print(dict(Counter(done[one.id] for one in mutants)))
    open_ = [one for one in mutants if done[one.id] == "lived" and one.id not in why]
    for one in open_:
        print(f"unexplained: {one.id} {one.module}:{one.line} {one.change}")
    return 1 if open_ else 0


if __name__ == "__main__":
    sys.exit(main())
