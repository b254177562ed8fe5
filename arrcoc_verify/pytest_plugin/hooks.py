"""What the plugin does at each step of a pytest session."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from arrcoc_verify.errors import ArrcocError, UnknownName
from arrcoc_verify.pytest_plugin import options
from arrcoc_verify.pytest_plugin.ledger import Ledger
from arrcoc_verify.pytest_plugin.saying import Arrcoc, ClaimFailed, ClaimInvalid
from arrcoc_verify.pytest_plugin.state import (
    KNOWN,
    MADE,
    MARK,
    NO_MODEL,
    SESSION,
    Session,
    makes_claims,
    session_of,
)

if TYPE_CHECKING:
    from arrcoc_verify.audit import SceneSet
    from arrcoc_verify.experiment import Experiment
    from arrcoc_verify.model import Model

MARKER = (
    f"{MARK}(claims=1, inconclusive=None): this test makes so many causal claims; what an "
    "inconclusive one does to it (fail or skip)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; what is wrong with them is a usage error."""
    config.addinivalue_line("markers", MARKER)
    state = config.stash[SESSION] = Session(config)
    config.pluginmanager.register(Ledger(config, state), "arrcoc-ledger")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is examined, where something is."""
    settings = session_of(config).settings
    if settings.model is None:
        return None
    images = settings.images or "photographs of the package"
    return f"arrcoc: model {settings.model}, {images}, seed {settings.seed}, alpha {settings.alpha}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the built-in claims if asked for, and refuse markers that say what nobody knows."""
    if config.getoption("arrcoc_suite"):
        from arrcoc_verify.pytest_plugin.items import built_in

        items.extend(built_in(session))
    for item in items:
        for mark in item.iter_markers(MARK):
            _check_marker(item, mark)


def _check_marker(item: pytest.Item, mark: pytest.Mark) -> None:
    if mark.args:
        raise pytest.UsageError(
            f"{item.nodeid}: @pytest.mark.{MARK} takes keywords only "
            f"({', '.join(KNOWN)}), got {mark.args!r}"
        )
    for name, value in mark.kwargs.items():
        if name not in KNOWN:
            error = UnknownName(f"keyword of @pytest.mark.{MARK}", name, KNOWN)
            raise pytest.UsageError(f"{item.nodeid}: {error}")
        right = value in (None, "fail", "skip") if name == "inconclusive" else _whole(value)
        if not right:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{MARK}({name}={value!r})")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the claims that share alpha; ask for a model where tests need one."""
    state = session_of(session.config)
    state.collected(session.items)
    worker = hasattr(session.config, "workerinput")
    if state.expected and state.settings.model is None and not worker:
        raise pytest.UsageError(NO_MODEL)


@pytest.fixture(scope="session")
def arrcoc_experiment(pytestconfig: pytest.Config) -> "Experiment":
    """The model under test on its scenes; gates and runs are shared by all tests."""
    try:
        return session_of(pytestconfig).experiment
    except ArrcocError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def arrcoc_model(arrcoc_experiment: "Experiment") -> "Model":
    """The model under test."""
    return arrcoc_experiment.model


@pytest.fixture(scope="session")
def arrcoc_scenes(arrcoc_experiment: "Experiment") -> "SceneSet":
    """The scenes that verdicts rest on, and those that gates look at."""
    return arrcoc_experiment.scenes


@pytest.fixture
def arrcoc(request: pytest.FixtureRequest) -> Arrcoc:
    """Say claims: `arrcoc.causes("salience", region="target", at_least=2)`."""
    request.getfixturevalue("arrcoc_experiment")  # loads the model in setup: its faults are errors
    return Arrcoc(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the report carry the verdicts, as plain JSON."""
    report = yield
    if not makes_claims(item):
        return report
    carried: Any = report
    made = item.stash.get(MADE, []) if call.when == "call" else []
    carried.arrcoc_news = session_of(item.config).news(made)
    if call.when == "call" and call.excinfo is not None:
        _say_end(carried, call.excinfo.value)
    return report


def _say_end(report: Any, error: BaseException) -> None:
    """Mark what is no failure of the model; the finding is the message, not a class name."""
    if isinstance(error, ClaimInvalid):
        report.arrcoc_end = "INVALID"
    elif isinstance(error, ArrcocError):
        report.arrcoc_end = "ERROR"
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and isinstance(error, ClaimFailed | ClaimInvalid | ArrcocError):
        crash.message = str(error)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, Any] | None:
    """Show a claim that could not be judged as an error, not as a failure of the model."""
    end = getattr(report, "arrcoc_end", "")
    if report.when == "call" and report.failed and end:
        return "error", "E", (end, {"red": True})
    return None
