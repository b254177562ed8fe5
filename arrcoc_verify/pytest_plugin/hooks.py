"""What the plugin does at each step of a pytest session."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.pytest_plugin import options
from arrcoc_verify.pytest_plugin.ledger import Ledger
from arrcoc_verify.pytest_plugin.marker import MARK, makes_claims, wrong_marker
from arrcoc_verify.pytest_plugin.saying import Arrcoc, ClaimFailed, ClaimInvalid
from arrcoc_verify.pytest_plugin.state import MADE, NO_MODEL, SESSION, Session, session_of

if TYPE_CHECKING:
    from arrcoc_verify.audit import SceneSet
    from arrcoc_verify.experiment import Experiment
    from arrcoc_verify.model import Model

MARKER = (
    f"{MARK}(claims=1, inconclusive=None): this test makes so many causal claims; what an "
    "inconclusive one does to it (fail or skip)"
)


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; what is wrong with them is a usage error."""
    config.addinivalue_line("markers", MARKER)
    state = config.stash[SESSION] = Session(config)
    if config.getoption("arrcoc_suite") and not is_worker(config):
        from arrcoc_verify.pytest_plugin.items import check_patterns

        check_patterns(state.settings.claims)
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
    wrong = [f"{item.nodeid}: {text}" for item in items if (text := wrong_marker(item))]
    if wrong and not is_worker(config):  # a worker that raises here takes the whole session down
        raise pytest.UsageError("\n".join(wrong))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that says what nobody knows, where a worker could not do so before."""
    if text := wrong_marker(item):
        pytest.fail(text, pytrace=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the claims that share alpha; ask for a model where tests need one."""
    state = session_of(session.config)
    state.collected(session.items)
    if state.expected and state.settings.model is None and not is_worker(session.config):
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
