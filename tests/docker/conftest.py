"""Containers, where there can be any, and what the tests of them measure.

They take a Docker daemon that answers, compose, and the base image: `docker/with-daemon make test` brings its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import pytest
from cluster.eventually import eventually
from docker.stack import Stack, build, docker, reason

_STACK = pytest.StashKey[Stack]()
_NOTICED = pytest.StashKey[list[str]]()

# Seconds in which everybody knows: 3 are promised, and a busy machine has as many more, with what it takes to ask.
PROMISED = 3.0
BOUND = 3 * PROMISED


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NOTICED] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the containers wrote, where a test fails."""
    report = yield
    stack = item.stash.get(_STACK, None)
    if report.failed and report.when != "teardown" and stack is not None:
        report.sections.append(("logs of the containers", stack.logs()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Who noticed what, within how long."""
    if config.stash[_NOTICED]:
        terminalreporter.section("containers: who noticed what")
        for line in config.stash[_NOTICED]:
            terminalreporter.line(line)


class Notice:
    """Waits, within the bound, until somebody knows, and writes down how long that took."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self, what: str, since: float, condition: Callable[[str], object], *who: str) -> None:
        """Until `condition` holds for each of them. `since`: when it happened, by time.monotonic()."""
        for name in who:
            eventually(partial(condition, name), BOUND, what=f"{what}: {name}")
            self._lines.append(f"{what}: {name} after {time.monotonic() - since:.1f} s")


@pytest.fixture
def notice(request: pytest.FixtureRequest) -> Notice:
    return Notice(request.config.stash[_NOTICED])


@pytest.fixture(scope="session")
def project() -> str:
    """What the containers, networks, volumes and images of this run begin with."""
    why = reason()
    if why:
        pytest.skip(why)
    return os.environ.get("DOCKER_PROJECT") or f"ipcd-test-{os.getpid()}"


@pytest.fixture(scope="session")
def image(project: str) -> Iterator[str]:
    """The image, made of the source tree."""
    tag = f"{project}:image"
    build(tag)
    yield tag
    docker("image", "rm", "--force", tag)


MakeStack = Callable[..., Stack]


@pytest.fixture(scope="module")
def make_stack(project: str, image: str) -> Iterator[MakeStack]:
    """Starts the services of compose files; they end with the module."""
    stacks: list[Stack] = []

    def make(name: str, *files: str) -> Stack:
        stacks.append(Stack(*files, project=f"{project}-{name}", image=image))
        return stacks[-1]

    yield make
    wrong: list[str] = []
    for stack in stacks:
        # Shown if the teardown finds something wrong.
        print(stack.logs())
        wrong += stack.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def mended(request: pytest.FixtureRequest) -> Iterator[Callable[[Stack], None]]:
    """Takes the stack that a test uses: what the test broke is mended after it."""
    used: list[Stack] = []

    def use(stack: Stack) -> None:
        request.node.stash[_STACK] = stack
        used.append(stack)

    yield use
    for stack in used:
        stack.mend()
