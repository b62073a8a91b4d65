"""A pytest plugin that fails a test which leaves something behind, and names it.

Counted: open descriptors of this process, memory mapped from memfds, threads, child processes and whatever else the
test's processes started, and files in the temporary directory. What was there before the test is not counted, so that
a fixture of a module or of the session may keep a daemon running; the same check is made around each module and around
the session, when those fixtures are gone.

The check has no list of exceptions. grpcio needs none: measured with 1.72.1 and 1.85.1 (November 2026), its runtime
ends its threads and closes its pollers within 0.3 s after its last channel or server is gone, and while one lives on in
a wider fixture, others add no descriptor to it. Only Python's threads are counted, not the C threads of such a runtime:
what this project starts, it starts from Python.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# How long what a test closed may take to be gone. Threads end and processes exit a little after they were told to;
# a runtime such as grpcio's takes up to 0.3 s.
SETTLE_SECONDS = 2.0

# How long a program may take to begin.
EXEC_SECONDS = 0.5

# linux/sched.h
PF_KTHREAD = 0x0020_0000

# What a probe finds: an identity, which tells a thing from another that takes its place, and words for a person.
Found = dict[Hashable, str]


def describe_fd(fd: int, target: str) -> str:
    """A socket's link is only an inode number, which tells no one whose socket it is: add its addresses."""
    if not target.startswith("socket:"):
        return f"fd {fd} -> {target}"
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            family = socket.AddressFamily(copy.family).name  # str() of it is its number
            words = [f"fd {fd} -> {target}", family, f"local {copy.getsockname()!r}"]
            try:
                words.append(f"peer {copy.getpeername()!r}")
            except OSError:
                words.append("not connected")
            return " ".join(words)
    except OSError as error:
        return f"fd {fd} -> {target} ({error})"


def fds() -> Found:
    found: Found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are what is wanted
        try:
            found[int(name), os.readlink(f"/proc/self/fd/{name}")] = name  # noqa: PTH115
        except FileNotFoundError:
            pass  # the descriptor that the listing itself needed
    return found


def mappings() -> Found:
    """A memfd lives as long as it is mapped, also when no descriptor of it is left."""
    found: Found = {}
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if "/memfd:" in line:
            span, rights, _offset, _device, inode, path = line.split(maxsplit=5)
            found[span, inode] = f"mapping {rights} of {path}"
    return found


def threads() -> Found:
    # Keyed by the thread itself: the identifier of one that ended is given to the next.
    return {thread: f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}" for thread in threading.enumerate()}


# Processes that are none of a run's, by its mark, and cannot become so: to look at every process of the machine before
# and after each test takes longer than many a test. The inode of its directory tells a process from the next one with
# the same number, and is there for the listing.
_OTHERS: set[tuple[bytes, str, int]] = set()


def environment(file: Path, state: str) -> list[bytes]:
    """Of a process. It is empty while another program takes the process over, which does not take long."""
    end = time.monotonic() + EXEC_SECONDS
    while not (found := file.read_bytes()) and state != "Z" and time.monotonic() < end:
        time.sleep(0.001)
    return found.split(b"\0")


def processes() -> Found:
    """Children, and all that inherited this run's TMPDIR: orphans too, whose parent is no longer ours."""
    mark = b"TMPDIR=" + os.fsencode(tempfile.gettempdir())
    own, found = os.getpid(), Found()
    for entry in os.scandir("/proc"):
        other = mark, entry.name, entry.inode()
        if not entry.name.isdecimal() or int(entry.name) == own or other in _OTHERS:
            continue
        try:
            line = Path(entry.path, "stat").read_text(errors="replace")
            # The command's name stands in parentheses and may hold any character; after it come the plain fields.
            state, parent, *rest = line[line.rindex(")") + 2 :].split()
            if int(parent) != own:
                kernel = int(rest[4]) & PF_KTHREAD  # field 9
                if kernel or mark not in environment(Path(entry.path, "environ"), state):
                    _OTHERS.add(other)
                    continue
            command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's
        started = rest[17]  # field 22: with the process id, it is unique since boot
        how = "exited, but nobody waited for it" if state == "Z" else "running"
        name = command or line[line.index("(") : line.rindex(")") + 1]
        found[int(entry.name), started] = f"process {entry.name}, {how}: {name}"
    return found


def files() -> Found:
    # os.walk, because it takes no offence at a directory that a process removes meanwhile; Path.rglob does.
    return {
        path: f"file {path}"
        for directory, below, plain in os.walk(tempfile.gettempdir())
        for path in (f"{directory}/{name}" for name in below + plain)
    }


PROBES: tuple[Callable[[], Found], ...] = (fds, mappings, threads, processes, files)


@dataclass
class Ledger:
    """What is known of this run: where it keeps its files, and what was already reported or forgiven."""

    directory: Path
    environment: dict[str, str | None]
    known: set[Hashable] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


LEDGER = pytest.StashKey[Ledger]()


def snapshot() -> Found:
    found: Found = {}
    for probe in PROBES:
        found |= probe()
    return found


def leaked(before: Found) -> Found:
    """What is there now and was not before, once it had time to go."""
    left: Found = {}
    end = time.monotonic() + SETTLE_SECONDS
    pause = 0.0
    while True:
        left = {key: words for key, words in snapshot().items() if key not in before}
        if not left or time.monotonic() > end:
            return left
        # Not before the first look: a collection costs more than the look itself, and most tests leave nothing. A thing
        # that only the collector closes was not closed by its owner, which is a ResourceWarning, and so an error too.
        gc.collect()
        time.sleep(pause)
        pause = min(pause + 0.01, 0.1)


def words_for(key: Hashable, words: str) -> str:
    match key:
        case (int(fd), str(target)) if not words.startswith("process"):
            return describe_fd(fd, target)
        case _:
            return words


@contextmanager
def checked(config: pytest.Config, what: str, node: str | None) -> Iterator[None]:
    ledger = config.stash[LEDGER]
    before = snapshot()
    yield
    left = {key: words for key, words in leaked(before).items() if key not in ledger.known}
    if not left:
        return
    lines = [words_for(key, words) for key, words in left.items()]
    ledger.known |= left.keys()
    for key, words in left.items():
        # So that nothing outlives the run, and the next test does not meet it. The start time was part of the key: the
        # number is still that process's, or it is a child of ours and cannot be given to another before we wait for it.
        if words.startswith("process") and isinstance(key, tuple) and key in processes():
            os.kill(key[0], signal.SIGKILL)
    if node in ledger.failed:
        return  # its traceback keeps the locals of the test alive, and what it says is what is wrong
    pytest.fail("\n  ".join([f"{what} left behind:", *lines]), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing(request: pytest.FixtureRequest) -> Generator[None]:
    with checked(request.config, "the session's fixtures", None):
        yield


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(request: pytest.FixtureRequest, _session_leaves_nothing: None) -> Generator[None]:
    with checked(request.config, f"the fixtures of {request.node.nodeid}", None):
        yield


# Autouse and of a plugin, it is set up before the test's own fixtures and torn down after them, but inside those of the
# module and the session.
@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest, _module_leaves_nothing: None) -> Generator[None]:
    with checked(request.config, "the test", request.node.nodeid):
        yield


@pytest.fixture
def socket_dir() -> Generator[Path]:
    """A directory for sockets, with a path short enough for them (108 bytes, which tmp_path may exceed).

    A socket that is still there afterwards was not removed by who bound it: a test that kills the owner removes it.
    """
    directory = Path(tempfile.mkdtemp())
    try:
        yield directory
        end = time.monotonic() + SETTLE_SECONDS
        while left := [path for path in directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]:
            if time.monotonic() > end:
                pytest.fail("\n  ".join(["sockets left behind:", *map(str, left)]), pytrace=False)
            time.sleep(0.02)
    finally:
        shutil.rmtree(directory)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.config.stash[LEDGER].failed.add(item.nodeid)
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a temporary directory of its own, so that every file in it is this run's, whoever else is at work.

    Processes that tests start inherit it, which also tells whose they are. pytest's tmp_path stays where it always is:
    its files are kept after the run, on purpose.
    """
    common = tempfile.gettempdir()
    directory = Path(tempfile.mkdtemp(prefix="ipcd-tests-"))
    ours = {"TMPDIR": str(directory), "PYTEST_DEBUG_TEMPROOT": os.environ.get("PYTEST_DEBUG_TEMPROOT", common)}
    config.stash[LEDGER] = Ledger(directory, {name: os.environ.get(name) for name in ours})
    os.environ.update(ours)
    tempfile.tempdir = None  # it is cached


def pytest_unconfigure(config: pytest.Config) -> None:
    ledger = config.stash.get(LEDGER, None)
    if ledger is None:
        return
    for name, value in ledger.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    shutil.rmtree(ledger.directory, ignore_errors=True)
