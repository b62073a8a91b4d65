"""Programs that are run by commands, while they run: their streams and signals, from threads and from loops."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, eventually
from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives import command_run
from ipcd_client.primitives.errors import BadRequest
from primitives.command_faces import Offers, gone, loop_command, seen_from
from primitives.roads import Road

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


def test_a_signal_comes_before_what_is_written_after_it(road: Road, offer: Offers) -> None:
    """Who sends the signals is another process than who writes."""
    name = offer("copy", "cat")
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdin=PIPE, stdout=PIPE)
        sender = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(sender, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGCONT)
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                process.communicate(b"x", timeout=0.5)
            assert not caught.value.output
        finally:
            os.kill(sender, signal.SIGCONT)
        assert process.communicate()[0] == b"x"
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
