"""Options, ini keys and [tool.arrcoc_verify], read into one `Config`."""

from collections.abc import Mapping
from typing import Any

import pytest

from arrcoc_verify.config import KEYS, Config, Layer, from_pyproject, settle
from arrcoc_verify.errors import UnknownName, UsageError

HELP: Mapping[str, tuple[str, str]] = {
    "model": ("SPEC", "model under test: reference:analytic, FILE.toml, package.module:factory"),
    "images": ("PATH", "a folder, a CSV image,query,box or COCO json; default: those embedded"),
    "profile": ("P", "claims that are made: a TOML file, or default; else the model's own"),
    "out": ("DIR", "write the session's verdicts as a record and a page"),
    "seed": ("N", "of every draw"),
    "device": ("D", "cpu or cuda"),
    "alpha": ("A", "error rate of the session's claims together; default 0.01"),
    "confidence": ("C", "level of the intervals; default 0.99"),
    "per_cluster": ("N", "scenes of each independent cluster; default 2"),
    "claims": ("PATTERN", "with --arrcoc-suite: only these, such as 'balancing.*'"),
    "inconclusive": ("fail|skip", "what an inconclusive verdict does to its test; default fail"),
    "family": ("N", "number of claims that share alpha; default: those collected"),
}
"""Key -> (value, help) of an option `--arrcoc-<key>` and an ini key `arrcoc_<key>`."""

SWITCHES = {"skip_bad_rows": "leave out pictures and rows that cannot be used"}


def add(parser: pytest.Parser) -> None:
    """Declare every option and its ini twin."""
    group = parser.getgroup("arrcoc", "causal claims about visual token allocators")
    for key, (metavar, text) in HELP.items():
        name = key.replace("_", "-")
        group.addoption(f"--arrcoc-{name}", dest=f"arrcoc_{key}", metavar=metavar, help=text)
        parser.addini(f"arrcoc_{key}", text, type="string", default=None)
    for key, text in SWITCHES.items():
        name = key.replace("_", "-")
        group.addoption(
            f"--arrcoc-{name}", dest=f"arrcoc_{key}", action="store_true", default=None, help=text
        )
        parser.addini(f"arrcoc_{key}", text, type="string", default=None)
    group.addoption(
        "--arrcoc-suite", action="store_true", help="collect the built-in claims as tests"
    )


def read(config: pytest.Config) -> Config:
    """Return the session's settings: command line over ini over pyproject.toml.

    Raises:
        pytest.UsageError: a key is unknown or a value is wrong.
    """
    keys = (*HELP, *SWITCHES)
    try:
        _refuse_unknown_ini(config, keys)
        given = {key: config.getoption(f"arrcoc_{key}") for key in keys}
        ini = {key: config.getini(f"arrcoc_{key}") or None for key in keys}
        folder = None if config.inipath is None else config.inipath.parent
        return settle(
            from_pyproject(config.rootpath, upward=False),
            Layer(name=f"the ini file {config.inipath}", values=ini, folder=folder),
            Layer(name="the command line", values=given),
        )
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _refuse_unknown_ini(config: pytest.Config, keys: tuple[str, ...]) -> None:
    known = [f"arrcoc_{key}" for key in keys]
    # Where pytest keeps them is its own business; without them its own warning remains.
    held: Mapping[str, Any] = getattr(config, "_inicfg", {})
    for name in held:
        if name.startswith("arrcoc_") and name not in known:
            raise UnknownName(f"key of {config.inipath}", name, known)


def arguments(config: Config, keys: tuple[str, ...]) -> list[str]:
    """Return the settings under these keys that somebody set, as options of a command."""
    words = []
    for key in keys:
        if key not in config.origin or key not in KEYS:
            continue
        value = getattr(config, key)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        words += [f"--{key.replace('_', '-')}", text]
    return words
