from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from integration import daemons
from integration.nodejs import node

# Who was not let in: what it came with, how often it tried, how often it got in, and how many lines the log has of it.
Tally = Callable[[str, int, int, int], None]
_REFUSED = pytest.StashKey[list[tuple[str, int, int, int]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REFUSED] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Who was not let in."""
    if config.stash[_REFUSED]:
        terminalreporter.section("strangers: refused")
        for what, tries, let_in, lines in config.stash[_REFUSED]:
            terminalreporter.line(f"{what}: tried {tries} times, let in {let_in} times, logged {lines} times")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Adds a line to the summary at the end."""
    listed = request.config.stash[_REFUSED]
    return lambda what, tries, let_in, lines: listed.append((what, tries, let_in, lines))


@pytest.fixture
def cluster() -> Iterator[daemons.Daemons]:
    """Daemons of this test, ended after it."""
    with daemons.daemons() as all_of_them:
        yield all_of_them


@pytest.fixture(scope="session")
def nodejs(tmp_path_factory: pytest.TempPathFactory) -> node.Node:
    """Node.js with gRPC's packages. The first test that needs it installs them, or is skipped with the reason."""
    return node.install(tmp_path_factory.mktemp("nodejs"))
