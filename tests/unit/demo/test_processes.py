"""Child processes: spoken to, told of when they fail, always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipcd.demo.processes import Child, Children, StageError

ECHO = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps({"error": command["fail"]} if "fail" in command else {"got": command}), flush=True)
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path) as children:
        yield children


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_talker_answers(children: Children) -> None:
    talker = children.start_talker("echo", "-c", ECHO)
    assert talker.ask({"do": "é\n"}, 10) == {"got": {"do": "é\n"}}
    talker.say({"one": 1})
    talker.say({"two": 2})
    assert [talker.answer(10), talker.answer(10)] == [{"got": {"one": 1}}, {"got": {"two": 2}}]
    with pytest.raises(StageError, match=r"^echo: no such road$"):
        talker.ask({"fail": "no such road"}, 10)


def test_one_that_does_not_answer_is_told_of(children: Children) -> None:
    talker = children.start_talker("mute", "-c", "import sys; sys.stderr.write('thinking'); sys.stdin.read()")
    with pytest.raises(StageError, match="mute has not answered for 1 s"):
        talker.ask({}, 1)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise SystemExit('the reason')", "(?s)broken ended by itself, exit code 1; its last words:\nthe reason"),
        ("import os; os.kill(os.getpid(), 9)", "broken ended by itself, killed by SIGKILL"),
        ("print('not JSON', flush=True); input()", "broken answered b'not JSON'"),
        ("import os, time; os.close(1); time.sleep(60)", "broken closed its pipes"),
    ],
)
def test_one_that_fails_is_told_of_with_its_last_words(children: Children, program: str, says: str) -> None:
    talker = children.start_talker("broken", "-c", program)
    with pytest.raises(StageError, match=says):
        talker.ask({}, 10)


def test_one_that_floods_is_cut_off(children: Children) -> None:
    talker = children.start_talker("flood", "-c", "while True: print('x' * 65536, end='')")
    with pytest.raises(StageError, match="more than 1048576 bytes"):
        talker.answer(10)


def test_none_is_left_however_it_takes_being_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Children, "GRACE", 0.5)
    with Children(tmp_path) as children:
        talker = children.start_talker("echo", "-c", ECHO)
        daemon = children.start("daemon", "-c", "import time; time.sleep(60)")
        stubborn = children.start(
            "stubborn",
            "-c",
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"
            "time.sleep(60)",
        )
        ended = children.start("ended", "-c", "")
        eventually(lambda: "deaf" in (tmp_path / "child-2.log").read_text())
        pids = [child.pid for child in (talker, daemon, stubborn, ended)]
    assert all(gone(pid) for pid in pids)


def test_one_can_be_ended_before_the_others(children: Children) -> None:
    first = children.start("first", "-c", "import time; time.sleep(60)")
    second = children.start_talker("second", "-c", ECHO)
    children.stop(first)
    assert gone(first.pid)
    with pytest.raises(StageError, match="first ended by itself, killed by SIGTERM"):
        first.check_running()
    assert second.ask({"still": "there"}, 10) == {"got": {"still": "there"}}


def test_settings_of_the_users_own_node_do_not_reach_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPCD_SOCKET", "/run/ipcd/ipcd.sock")
    monkeypatch.setenv("IPCD_SPIN_US", "7")
    shown = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k[:5] == 'IPCD_'}))"
    with Children(tmp_path) as children:
        assert children.start_talker("environment", "-c", shown).answer(10) == {"IPCD_SPIN_US": "7"}


INTERRUPTED = """
import sys, time
from pathlib import Path
from ipcd.demo.processes import Children, ended_as_interrupted
try:
    with ended_as_interrupted(), Children(Path(sys.argv[1])) as children:
        child = children.start("sleeper", "-c", "import time; time.sleep(60)")
        print(child.pid, flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_was_started(tmp_path: Path, number: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        try:
            pid = int(run.stdout.readline())
            assert not gone(pid)
            run.send_signal(number)
            assert run.stdout.readline() == "interrupted\n"
            assert run.wait(10) == 0
            assert gone(pid)
        finally:
            run.kill()


def test_a_child_is_in_no_group_that_the_terminal_interrupts(children: Children) -> None:
    child: Child = children.start("apart", "-c", "import time; time.sleep(60)")
    assert os.getpgid(child.pid) == child.pid
