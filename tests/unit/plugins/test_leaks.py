"""The leak check catches each kind of thing it counts, says what it is, and leaves alone what is not a leak."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plugins import leaks

CONFTEST = """
pytest_plugins = ["plugins.leaks"]

def pytest_configure(config):
    config.pluginmanager.get_plugin("plugins.leaks").SETTLE_SECONDS = 0.3
"""

IMPORTS = "import mmap, os, pytest, socket, subprocess, tempfile, threading\nkept = []\n"

Run = Callable[[str], tuple[dict[str, int], str]]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs tests with the check, in a process of their own: it looks at the whole process, and this one is checked."""
    monkeypatch.setenv("PYTHONPATH", str(Path(leaks.__file__).parent.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they cost a second, each time, and are not the subject
    pytester.makeconftest(CONFTEST)

    def begin(source: str) -> tuple[dict[str, int], str]:
        pytester.makepyfile(IMPORTS + source)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=40)
        return result.parseoutcomes(), result.stdout.str()

    return begin


LEAKS = {
    "descriptor": ("kept.append(os.open('/etc/hostname', os.O_RDONLY))", r"fd \d+ -> /etc/hostname"),
    "eventfd": ("kept.append(os.eventfd(0))", r"fd \d+ -> anon_inode:\[eventfd\]"),
    "socket": (
        "kept.append(socket.create_server(('127.0.0.1', 0)))",
        r"fd \d+ -> socket:\[\d+\] AF_INET local \('127\.0\.0\.1', \d+\) not connected",
    ),
    "mapping": (
        "fd = os.memfd_create('ring'); os.truncate(fd, 4096); kept.append(mmap.mmap(fd, 4096)); close_memfds()",
        r"mapping rw-s of /memfd:ring \(deleted\)",
    ),
    "thread": (
        "threading.Thread(target=threading.Event().wait, args=(20,), name='pump', daemon=True).start()",
        r"thread 'pump' \(daemon\)",
    ),
    "process": ("kept.append(subprocess.Popen(['sleep', '20']))", r"process \d+, running: sleep 20"),
    "zombie": (
        "kept.append(subprocess.Popen(['true'])); os.waitid(os.P_PID, kept[-1].pid, os.WEXITED | os.WNOWAIT)",
        r"process \d+, exited, but nobody waited for it: \(true\)",
    ),
    "orphan": ("subprocess.run(['sh', '-c', 'sleep 21 >/dev/null 2>&1 &'])", r"process \d+, running: sleep 21"),
    "file": ("open(tempfile.gettempdir() + '/x.left', 'w').close()", r"file \S+/x\.left"),
}

# mmap keeps a duplicate of the descriptor it was given: with both closed, the mapping is all that is left.
CLOSE_MEMFDS = """
def close_memfds():
    for name in os.listdir("/proc/self/fd"):
        if os.path.realpath("/proc/self/fd/" + name).startswith("/memfd:"):
            os.close(int(name))
"""


def is_running(pid: int) -> bool:
    """A killed orphan is gone once its new parent waited for it, which is not ours to hurry: a zombie does not run."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def test_each_leak_is_an_error_that_names_it_and_no_other_test_is_blamed(run: Run) -> None:
    source = CLOSE_MEMFDS + "".join(
        f"def test_{kind}():\n    {statement}\ndef test_after_{kind}():\n    pass\n"
        for kind, (statement, _) in LEAKS.items()
    )
    outcomes, output = run(source)
    assert outcomes == {"passed": 2 * len(LEAKS), "errors": len(LEAKS)}, output
    for kind, (_, words) in LEAKS.items():
        assert re.search(rf"ERROR at teardown of test_{kind} _+\nthe test left behind:\n  {words}\n", output), output

    # And nothing of it outlives the check.
    for pid in re.findall(r"process (\d+), running", output):
        assert not is_running(int(pid)), output


def test_what_ends_soon_or_belongs_to_a_wider_fixture_is_no_leak(run: Run) -> None:
    outcomes, output = run(
        """
@pytest.fixture(scope="module")
def daemon():
    ends = socket.socketpair()
    with subprocess.Popen(["sleep", "20"]) as process:
        yield process
        process.kill()
    for end in ends:
        end.close()

def test_first(daemon):
    threading.Timer(0.1, int).start()

def test_second(daemon, socket_dir, tmp_path):
    (tmp_path / "kept").touch()
    with tempfile.TemporaryDirectory(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_dir / "s"))
        (socket_dir / "s").unlink()
"""
    )
    assert outcomes == {"passed": 2}, output


def test_who_leaked_is_blamed_and_once(run: Run) -> None:
    outcomes, output = run(
        """
@pytest.fixture(scope="module")
def of_the_module():
    kept.append(os.eventfd(0))

def test_innocent(of_the_module):
    pass

def test_socket_file(socket_dir):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_dir / "name.sock"))

def test_failing():
    held = socket.socket()  # alive through the traceback: to report it too would hide why the test failed
    assert not held
"""
    )
    assert outcomes == {"passed": 2, "failed": 1, "errors": 2}, output
    assert re.search(r"sockets left behind:\n  \S+/name\.sock\n", output), output
    assert re.search(r"the fixtures of \S+ left behind:\n  fd \d+ -> anon_inode:\[eventfd\]\n", output), output
