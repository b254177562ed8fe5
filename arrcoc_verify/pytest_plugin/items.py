"""The built-in claims as tests: `pytest --arrcoc-model M --arrcoc-suite`, without a user's file."""

from collections.abc import Iterable, Iterator, Sequence

import pytest

from arrcoc_verify.errors import ArrcocError, UsageError
from arrcoc_verify.pytest_plugin.marker import MARK
from arrcoc_verify.pytest_plugin.saying import Arrcoc, ClaimFailed, ClaimInvalid
from arrcoc_verify.pytest_plugin.state import session_of

SUITE = "arrcoc-suite"


class Suite(pytest.Collector):
    """Holds the built-in claims."""

    def collect(self) -> Iterable["ClaimItem"]:
        """Yield one test a claim that the options ask for."""
        from arrcoc_verify.suite import select

        for claim in select(session_of(self.config).settings.claims):
            yield ClaimItem.from_parent(self, name=claim.id)


class ClaimItem(pytest.Item):
    """One built-in claim."""

    def runtest(self) -> None:
        """Judge the claim."""
        Arrcoc(self).holds(self.name)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return where the test is, for listings."""
        return SUITE, None, f"claim {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: None = None) -> str:  # type: ignore[override]
        """Return the finding alone: there is no code of the user's to show."""
        if isinstance(excinfo.value, ClaimFailed | ClaimInvalid | ArrcocError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))


def built_in(session: pytest.Session) -> Iterator[pytest.Item]:
    """Yield a test for every built-in claim that the options ask for."""
    suite = Suite.from_parent(session, name=SUITE, nodeid=SUITE)
    for item in suite.collect():
        item.add_marker(getattr(pytest.mark, MARK))
        yield item


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse patterns of claim ids that match nothing.

    Raises:
        pytest.UsageError: with the nearest id.
    """
    from arrcoc_verify.suite import select

    try:
        select(patterns)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
