"""Commands: offered and run, on every road, from threads and from loops."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, eventually
from integration.gateway import address_of
from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives import command_run
from ipcd_client.primitives.errors import BadRequest, CannotStart, Full, Lost, NoSuchName, TimedOut
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Road

Offers = Callable[..., str]


def alive(pid: int) -> bool:
    """Whether it runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> None:
    eventually(lambda: not alive(pid), f"process {pid} is gone")


@pytest.fixture
def offer(road: Road) -> Iterator[Offers]:
    """Offers a command at the road's end: its name, as it is called there."""
    with contextlib.ExitStack() as stack:

        def offered(name: str, *program: str, **keywords: Any) -> str:
            text = road.name(name)
            server = ipcd_client.command(text.partition("@")[0], node=road.home.socket).serve(
                program, **{"grace": 0.3, **keywords}
            )
            stack.callback(server.stop)
            seen_from(road.front, text)
            return text

        yield offered


def seen_from(daemon: Daemon, text: str) -> None:
    """Waits until a node knows of it."""
    with ipcd_client.command(text, node=daemon.socket) as command:

        def known() -> bool:
            try:
                return bool(command.describe().name)
            except CallFailed:
                return False

        eventually(known, f"{text} is known at {daemon.node}")


class Face:
    """Runs commands from a thread or from a loop."""

    def __init__(self, kind: str, road: Road) -> None:
        self._kind = kind
        self._road = road
        # One loop for all runs: what grpc.aio has under way when a loop is closed, it takes up on the next one, where
        # that fails, and is kept for ever.
        self._runner = asyncio.Runner()
        self._thread = threading.get_ident()

    def run(self, name: str, *args: str, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
        """To the end."""
        if self._kind == "sync":
            with ipcd_client.command(name, **self._road.keywords) as command:
                return command.run(args, **keywords)
        run = self._runner.run if threading.get_ident() == self._thread else asyncio.run
        return run(self._loop_run(name, args, keywords))

    def close(self) -> None:
        """Ends the loop."""
        self._runner.close()

    async def _loop_run(self, name: str, args: Any, keywords: Any) -> subprocess.CompletedProcess[bytes]:
        given = self._road.loop_keywords()
        try:
            async with ipcd_client.aio.command(name, **given) as command:
                return await command.run(args, **keywords)
        finally:
            if "channel" in given:
                await given["channel"].close()


@pytest.fixture(params=["sync", "aio"])
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Face]:
    face = Face(request.param, road)
    yield face
    face.close()


# -- what both faces do -----------------------------------------------------------------------------


def test_input_outputs_and_exit_code(face: Face, offer: Offers) -> None:
    name = offer("sh", "sh", "-c", "cat; echo problem >&2; exit 7")
    done = face.run(name, input=b"one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"one\ntwo\n", b"problem\n")


def test_more_than_any_window_both_ways(face: Face, offer: Offers) -> None:
    name = offer("cat", "cat")
    data = os.urandom(1 << 20) * 3
    assert face.run(name, input=data).stdout == data


def test_one_that_reads_no_input(face: Face, offer: Offers) -> None:
    name = offer("true", "sh", "-c", "exec <&-; sleep 0.2; echo done")
    done = face.run(name, input=b"x" * (1 << 20))
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_without_input_it_is_empty(face: Face, offer: Offers) -> None:
    name = offer("wc", "wc", "-c")
    assert face.run(name).stdout.strip() == b"0"


def test_arguments_and_environment_as_offered(face: Face, offer: Offers) -> None:
    name = offer("show", "sh", "-c", 'echo "$A-$B $@"', "sh", args=("*.txt", "-v"), args_most=2, env=("A", "B=[0-9]"))
    done = face.run(name, "-v", "x y.txt", env={"A": "$HOME", "B": "5"})
    assert done.stdout == b"$HOME-5 -v x y.txt\n"
    for args, env, words in (
        (["a.txt"] * 3, {}, "at most 2"),
        (["a.md"], {}, "a.md"),
        (["-x.txt"], {}, "-x.txt"),
        ([], {"B": "55"}, "B='55'"),
        ([], {"LD_PRELOAD": "x"}, "LD_PRELOAD"),
        (["a\0.txt"], {}, "zero byte"),
        (["x" * 70000 + ".txt"], {}, "bytes"),
    ):
        with pytest.raises(BadRequest, match=words):
            face.run(name, *args, env=env)


def test_by_default_nothing_may_be_added(face: Face, offer: Offers) -> None:
    name = offer("plain", "true")
    with pytest.raises(BadRequest, match="none is allowed"):
        face.run(name, "x")
    with pytest.raises(BadRequest, match="nothing may be set"):
        face.run(name, env={"X": "1"})
    with pytest.raises(BadRequest, match="outlive"):
        face.run(name, detach=True)


def test_killed_by_a_signal(face: Face, offer: Offers) -> None:
    assert face.run(offer("die", "sh", "-c", "kill -9 $$")).returncode == -9


def test_a_program_that_is_not_there(face: Face, offer: Offers) -> None:
    with pytest.raises(CannotStart, match="No such file"):
        face.run(offer("none", "/does/not/exist"))
    with pytest.raises(CannotStart, match="Permission denied"):
        face.run(offer("folder", "/etc"))


def test_nobody_offers_it(face: Face, road: Road) -> None:
    with pytest.raises(CallFailed, match="no server 'nothing'") as caught:
        face.run(f"nothing@{road.home.node}")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", ["", "a b", "a/b", "@b", "a@", "x" * 129])
def test_wrong_names(name: str) -> None:
    for make in (ipcd_client.command, ipcd_client.aio.command):
        with pytest.raises(BadRequest):
            make(name)


def test_as_many_run_as_may(face: Face, road: Road, offer: Offers) -> None:
    name = offer("one", "cat", most=1, waiting=1)
    with ipcd_client.command(name, **road.keywords) as command:
        first = command.popen(stdin=PIPE)
        with pytest.raises(Full, match="no more than 1"):
            face.run(name)
        with pytest.raises(TimedOut, match=r"after 0\.05 s"):
            face.run(name, wait=0.05)
        waiting = threading.Thread(target=face.run, args=[name], kwargs={"wait": None})
        waiting.start()
        eventually(lambda: command.describe().waiting, "somebody waits")
        with pytest.raises(Full, match="wait for their turn"):
            face.run(name, wait=5)
        assert first.communicate() == (None, None)
        first.close()
        waiting.join(LONG)
        assert not waiting.is_alive()
        eventually(lambda: not command.describe().running, "nothing runs")
        assert command.describe().started == 2


def test_no_longer_than_it_may(face: Face, offer: Offers) -> None:
    name = offer("long", "sleep", "60", seconds=0.1)
    assert face.run(name).returncode == -signal.SIGTERM


def test_what_ignores_sigterm_gets_sigkill(road: Road, offer: Offers) -> None:
    name = offer("deaf", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done", grace=0.2)
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdout=PIPE)
        assert process.stdout is not None
        # Before that it would be ended by SIGTERM.
        assert process.stdout.readline() == b"deaf\n"
        process.close()
        gone(process.pid)
        eventually(lambda: not command.describe().running, "nothing runs")


def test_what_it_leaves_behind_ends_after_the_grace(face: Face, offer: Offers) -> None:
    name = offer("leave", "sh", "-c", "sleep 60 & echo $!", grace=0.2)
    done = face.run(name)
    assert done.returncode == 0
    gone(int(done.stdout))


def test_descriptors_group_and_session(face: Face, offer: Offers) -> None:
    name = offer("look", "sh", "-c", "ls /proc/self/fd | wc -l; ps -o pgid=,sid= -p $$; echo $$")
    # ls itself opens the directory.
    fds, group, session, pid = face.run(name).stdout.split()
    assert (int(fds), group, session) == (4, pid, pid)


def test_a_time_out_of_the_caller_ends_it(face: Face, road: Road, offer: Offers, tmp_path: Path) -> None:
    name = offer("say", "sh", "-c", "echo $$ > $OUT; exec sleep 60", env=("OUT",))
    out = tmp_path / "out"
    with pytest.raises(subprocess.TimeoutExpired):
        face.run(name, timeout=0.3, env={"OUT": str(out)})
    with ipcd_client.command(name, **road.keywords) as command:
        eventually(lambda: not command.describe().running, "nothing runs")
        assert command.describe().started == 1
    # It may have been ended before it could say so.
    if out.exists() and (said := out.read_text()):
        assert not alive(int(said))


# -- Popen ------------------------------------------------------------------------------------------


def test_streams_as_they_come(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")
    with ipcd_client.command(name, **road.keywords).popen(stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in ("one\n", "zwei ü\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        assert process.poll() is None
        assert process.returncode is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(LONG) == 0
        assert process.args == [name]
    assert process.poll() == process.returncode == 0


def test_an_unread_error_output_holds_back_no_more_than_a_pipe(road: Road, offer: Offers) -> None:
    # 300 kB of it fit into the window and the kernel's pipe; the rest of it makes the command wait.
    script = "head -c 300000 /dev/zero >&2; echo out; head -c 3000000 /dev/zero >&2; echo end"
    name = offer("err", "sh", "-c", script)
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"out\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        out, err = process.communicate()
        assert (out, len(err), process.returncode) == (b"end\n", 3300000, 0)
        process.close()


def test_a_writer_waits_for_a_command_that_does_not_read(road: Road, offer: Offers) -> None:
    name = offer("slow", "sh", "-c", "read line; cat > /dev/null; echo over")
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdin=PIPE, stdout=PIPE)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(b"x\n" * (1 << 20), timeout=0.3)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == b"over\n"
        process.close()


def test_output_nobody_reads_is_a_broken_pipe(road: Road, offer: Offers) -> None:
    name = offer("yes", "yes")
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdout=PIPE)
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(LONG) == -signal.SIGPIPE
        process.close()


def test_files_and_descriptors(road: Road, offer: Offers, tmp_path: Path) -> None:
    name = offer("both", "sh", "-c", "cat; echo err >&2")
    given, taken = tmp_path / "in", tmp_path / "out"
    given.write_bytes(b"data\n" * 100000)
    with ipcd_client.command(name, **road.keywords) as command:
        with given.open() as source, taken.open("wb") as sink:
            process = command.popen(stdin=source, stdout=sink, stderr=STDOUT)
            assert process.wait(LONG) == 0
            process.close()
        assert taken.read_bytes() == given.read_bytes() + b"err\n"
        with taken.open("wb") as sink, command.popen(stdin=DEVNULL, stdout=DEVNULL, stderr=sink.fileno()) as process:
            assert process.wait(LONG) == 0
        assert taken.read_bytes() == b"err\n"
        reading, writing = os.pipe()
        try:
            # Nothing will ever come of it: the end of the command ends the wait for it.
            with command.popen(stdin=reading, stdout=DEVNULL, stderr=DEVNULL) as process:
                process.kill()
                assert process.wait(LONG) == -signal.SIGKILL
        finally:
            os.close(reading)
            os.close(writing)


def test_signals_reach_the_whole_group(road: Road, offer: Offers) -> None:
    name = offer("group", "sh", "-c", "sleep 60 & echo $!; wait")
    with ipcd_client.command(name, **road.keywords).popen(stdout=PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.terminate()
        assert process.wait(LONG) == -signal.SIGTERM
        gone(child)
        process.send_signal(signal.SIGTERM)  # to nobody
        with pytest.raises(BadRequest):
            process.send_signal(99)


def test_a_handle_that_is_closed_ends_no_run(road: Road, offer: Offers) -> None:
    with ipcd_client.command(offer("cat", "cat"), **road.keywords) as command:
        process = command.popen(stdin=PIPE, stdout=PIPE)
    assert process.communicate(b"x")[0] == b"x"
    process.close()


def test_close_ends_the_run(road: Road, offer: Offers) -> None:
    with ipcd_client.command(offer("sleep", "sleep", "60"), **road.keywords) as command:
        process = command.popen()
        process.close()
        eventually(lambda: not command.describe().running, "nothing runs")
        with pytest.raises(IpcdError):
            process.wait()


def test_many_from_many_threads(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat", most=4)
    results: list[bytes] = []
    with ipcd_client.command(name, **road.keywords) as command:

        def one(number: int) -> None:
            results.append(command.run(input=b"%d" % number, wait=None).stdout)

        threads = [threading.Thread(target=one, args=[number]) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert sorted(map(int, results)) == list(range(12))


def test_a_fork_is_told_that_the_run_is_not_its_own(road: Road, offer: Offers) -> None:
    process = ipcd_client.command(offer("cat", "cat"), **road.keywords).popen(stdin=PIPE)
    call = process._call
    call._process += 1
    with pytest.raises(UsageError, match="fork"):
        process.poll()
    call._process -= 1
    process.close()


# -- Process ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def loop_command(road: Road, name: str) -> Any:
    given = road.loop_keywords()
    async with ipcd_client.aio.command(name, **given) as command:
        yield command
    if "channel" in given:
        await given["channel"].close()


def test_streams_of_a_loop(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")

    async def main() -> None:
        async with (
            loop_command(road, name) as command,
            await command.popen(stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process,
        ):
            assert process.pid
            process.stdin.write(b"one\n")
            await process.stdin.drain()
            assert await process.stdout.readline() == b"one\n"
            assert process.returncode is None
            process.stdin.close()
            await process.stdin.wait_closed()
            assert await process.stdout.read() == b""
            assert await process.wait() == 0

    asyncio.run(main())


def test_communicate_after_the_end_of_the_input(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdin=PIPE, stdout=PIPE)
        process.stdin.write(b"said")  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
        assert process.communicate() == (b"said", None)
        process.close()


def test_communicate_after_the_end_of_the_input_on_a_loop(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")

    async def main() -> None:
        async with loop_command(road, name) as command:
            process = await command.popen(stdin=PIPE, stdout=PIPE)
            process.stdin.write(b"said")
            process.stdin.write_eof()
            assert await process.communicate() == (b"said", None)
            await process.close()

    asyncio.run(main())


def test_a_loop_holds_back_what_it_does_not_read(road: Road, offer: Offers) -> None:
    name = offer("yes", "yes")

    async def main() -> None:
        async with loop_command(road, name) as command:
            process = await command.popen(stdout=PIPE)
            assert len(await process.stdout.readexactly(3_000_000)) == 3_000_000
            process.terminate()
            assert await process.wait() == -signal.SIGTERM
            await process.close()

    asyncio.run(main())


def test_files_of_a_loop(road: Road, offer: Offers, tmp_path: Path) -> None:
    name = offer("cat", "cat")
    given, taken = tmp_path / "in", tmp_path / "out"
    given.write_bytes(b"data\n" * 100000)

    async def main() -> None:
        with given.open() as source, taken.open("wb") as sink:
            async with loop_command(road, name) as command:
                process = await command.popen(stdin=source, stdout=sink)
                assert await process.wait() == 0
                await process.close()

    asyncio.run(main())
    assert taken.read_bytes() == given.read_bytes()


def test_offered_by_a_loop(road: Road) -> None:
    async def main() -> bytes:
        text = road.name("looped")
        offered = ipcd_client.aio.command(text.partition("@")[0], node=road.home.socket)
        async with await offered.serve(["cat"]) as server, loop_command(road, text) as command:
            await asyncio.to_thread(seen_from, road.front, text)
            out = (await command.run(input=b"hello")).stdout
            assert server.running == 0
            return bytes(out)

    assert asyncio.run(main()) == b"hello"


# -- plain gRPC -------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["gateway"], indirect=True)
def test_a_plain_client_needs_no_credit(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")
    requests = [
        pb.RunRequest(name=name, start=pb.RunStart()),
        pb.RunRequest(stdin=b"some"),
        pb.RunRequest(stdin=b"thing"),
    ]
    out, code = b"", -1
    # The end of the requests is that of the input.
    for reply in command_pb2_grpc.CommandStub(road.keywords["channel"]).Run(iter(requests), timeout=LONG):
        out += reply.stdout
        if reply.HasField("exit"):
            code = reply.exit.code
    assert (out, code) == (b"something", 0)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.RunRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.RunRequest(name="no such name", start=pb.RunStart()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.RunRequest(name="nowhere", start=pb.RunStart()), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_what_a_plain_client_says_is_not_trusted(cluster: Any, first: pb.RunRequest, code: grpc.StatusCode) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(command_pb2_grpc.CommandStub(channel).Run(iter([first]), timeout=LONG))
        assert caught.value.code() is code


def test_more_than_was_granted_is_refused(road: Road, offer: Offers) -> None:
    name = offer("sleep", "sleep", "60")
    target = f"ipcd:///{name.partition('@')[0]}"
    channel = road.keywords.get("channel") or ipcd_client.channel(target, node=road.front.socket)
    requests = [pb.RunRequest(name=name, start=pb.RunStart()), *[pb.RunRequest(stdin=bytes(60000))] * 12]
    hold = threading.Event()

    def sent() -> Iterator[pb.RunRequest]:
        yield from requests
        hold.wait(LONG)

    try:
        with pytest.raises(grpc.RpcError) as caught:
            list(command_pb2_grpc.CommandStub(channel).Run(sent(), timeout=LONG))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "granted" in str(caught.value.details())
    finally:
        hold.set()
        if "channel" not in road.keywords:
            channel.close()


def test_a_caller_that_reads_nothing_keeps_no_place(road: Road, offer: Offers) -> None:
    name = offer("yes", "yes", seconds=0.2)
    target = f"ipcd:///{name.partition('@')[0]}"
    channel = road.keywords.get("channel") or ipcd_client.channel(target, node=road.front.socket)
    with ipcd_client.command(name, **road.keywords) as command:
        call = command_pb2_grpc.CommandStub(channel).Run(iter([pb.RunRequest(name=name, start=pb.RunStart())]))
        try:
            eventually(lambda: command.describe().started == 1, "it is started")
            eventually(lambda: command.describe().running == 0, "its place is free")
        finally:
            call.cancel()
            if "channel" not in road.keywords:
                channel.close()


def test_a_caller_says_that_it_has_all(face: Face, offer: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody waits for the end of that.
    monkeypatch.setattr(command_run, "_FAREWELL", 4 * LONG)
    done = face.run(offer("out", "sh", "-c", "cat; echo out; echo err >&2"), input=b"in\n", timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\nout\n", b"err\n")


def test_a_call_ends_after_its_requests(road: Road, offer: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_run, "_FAREWELL", 4 * LONG)
    name = offer("true", "true")
    target = f"ipcd:///{name.partition('@')[0]}"
    channel = road.keywords.get("channel") or ipcd_client.channel(target, node=road.front.socket)
    over = threading.Event()

    def sent() -> Iterator[pb.RunRequest]:
        yield pb.RunRequest(name=name, start=pb.RunStart(no_stdin=True))
        over.wait(LONG)

    ended: list[bool] = []

    def read() -> None:
        for reply in command_pb2_grpc.CommandStub(channel).Run(sent(), timeout=2 * LONG):
            if reply.HasField("exit"):
                exited.set()
        ended.append(over.is_set())

    exited = threading.Event()
    reading = threading.Thread(target=read)
    reading.start()
    try:
        with ipcd_client.command(name, **road.keywords) as command:
            assert exited.wait(LONG)
            eventually(lambda: not command.describe().running, "nothing runs")
    finally:
        over.set()
        reading.join(LONG)
        if "channel" not in road.keywords:
            channel.close()
    assert ended == [True]


def test_streams_that_are_none(road: Road, offer: Offers) -> None:
    with ipcd_client.command(offer("cat", "cat"), **road.keywords) as command:
        reading, writing = os.pipe()
        os.close(reading)
        closed = io.open(writing, "wb")  # noqa: SIM115, UP020
        closed.close()
        with Path(os.devnull).open("rb") as only_read, Path(os.devnull).open("wb") as only_written:
            for keywords in (
                {"stdin": io.BytesIO()},
                {"stdin": 1 << 20},
                {"stdin": only_written},
                {"stdout": object()},
                {"stdout": STDOUT},
                {"stdout": only_read},
                {"stdout": closed},
                {"stderr": closed, "stdin": only_read},
                {"stdout": PIPE, "encoding": "nonsense"},
            ):
                with pytest.raises(BadRequest):
                    command.popen(**keywords)
        # Before anything was started.
        assert command.describe().started == 0


def test_streams_that_are_none_to_a_loop(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")

    async def main() -> int:
        with Path(os.devnull).open("rb") as only_read:  # noqa: ASYNC230
            async with loop_command(road, name) as command:
                for keywords in ({"stdin": io.BytesIO()}, {"stdin": 1 << 20}, {"stdout": only_read}):
                    with pytest.raises(BadRequest):
                        await command.popen(**keywords)
                return int((await command.describe()).started)

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("thread_name", ["ipcd-command", "ipcd-command-run"])
def test_a_thread_that_cannot_be_had_leaves_nothing(
    road: Road, offer: Offers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread_name: str
) -> None:
    begun = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == thread_name:
            raise RuntimeError("can't start new thread")
        begun(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    given = tmp_path / "in"
    given.write_bytes(b"data")
    with ipcd_client.command(offer("cat", "cat"), **road.keywords) as command, given.open() as source:
        with pytest.raises(RuntimeError):
            command.popen(stdin=source, stdout=DEVNULL)
        eventually(lambda: not command.describe().running, "nothing runs")


class Flooding(command_pb2_grpc.CommandServicer):
    """Sends output that nobody has granted, until its caller ends the call, which sets `over`."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def Run(self, requests: Iterator[pb.RunRequest], context: Any) -> Iterator[pb.RunReply]:
        context.add_callback(self.over.set)
        yield pb.RunReply(started=pb.RunStarted(pid=1))
        while context.is_active():
            yield pb.RunReply(stdout=bytes(64 << 10))


def test_more_output_than_was_granted(road: Road) -> None:
    name = road.name("flood")
    servicer = Flooding()
    server = ipcd_client.server(name=name.partition("@")[0], node=road.home.socket)
    command_pb2_grpc.add_CommandServicer_to_server(servicer, server)
    server.start()

    async def main() -> None:
        async with loop_command(road, name) as command:
            process = await command.popen(stdout=PIPE)
            # Of what is not read, nobody sees that it is too much but the one that it would be kept for.
            with pytest.raises(Lost, match="has sent more"):
                await process.wait()
            await process.close()

    try:
        eventually(lambda: known(road, name), "its node knows of it")
        with ipcd_client.command(name, **road.keywords) as command:
            process = command.popen(stdout=PIPE)
            with pytest.raises(Lost, match="has sent more"):
                process.wait(LONG)
            assert servicer.over.wait(LONG)
            process.close()
        servicer.over.clear()
        asyncio.run(main())
        assert servicer.over.wait(LONG)
    finally:
        server.stop(None).wait()


def known(road: Road, name: str) -> bool:
    """Whether it can be called."""
    target = f"ipcd://{road.home.node}/{name.partition('@')[0]}"
    with ipcd_client.channel(target, node=road.front.socket) as channel:
        try:
            command_pb2_grpc.CommandStub(channel).Describe(pb.DescribeCommandRequest(name="x"), timeout=LONG)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNIMPLEMENTED)
    return True


def test_a_server_of_another_name(cluster: Any) -> None:
    with (
        ipcd_client.command("right", node=cluster.front.socket).serve(["true"]),
        ipcd_client.channel("ipcd:///right", node=cluster.front.socket) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        command_pb2_grpc.CommandStub(channel).Describe(pb.DescribeCommandRequest(name="wrong"), timeout=LONG)
    assert str(caught.value.details()).startswith(NoSuchName.reason)
