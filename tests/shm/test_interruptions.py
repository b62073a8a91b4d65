"""A fork, and signals, in the middle of calls."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

from conformance.echo import SERVICE
from ipcd_client.testing.wire_tools import LIMIT, asleep
from shm.world import World

FORK = """
import os, queue, sys, threading
import ipcd_client
path, service = sys.argv[1:]
channel = ipcd_client.channel(node=path)
call = channel.unary_unary(f"/{service}/UnaryEcho")
assert call(b"parent", timeout=20) == b"parent"
ours = channel.route(service).connection
assert channel.route(service).transport == "shm"
mapped = lambda: open("/proc/self/maps").read().count("/memfd:ipcd")
assert mapped() == 2
questions = queue.Queue()
answers = channel.stream_stream(f"/{service}/BothEcho")(iter(questions.get, None), timeout=40)
done = threading.Event()
failures = []
def work(number):
    while not done.is_set():
        data = bytes([number]) * (number * 9000)
        try:
            assert call(data, timeout=20) == data
        except BaseException as error:
            failures.append(error)
            return
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for turn in range(5):
    questions.put(b"before %d" % turn)
    assert next(answers) == b"before %d" % turn
    child = os.fork()
    if not child:
        code = 1
        try:
            assert call(b"child" * 10000, timeout=20) == b"child" * 10000
            route = channel.route(service)
            assert route.transport == "shm" and route.connection is not ours
            code = 0
        finally:
            os._exit(code)
    questions.put(b"while %d" % turn)
    assert next(answers) == b"while %d" % turn
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
assert not failures, failures
questions.put(None)
assert list(answers) == []
assert channel.route(service).connection is ours
channel.close()
assert mapped() == 0
"""


def test_a_fork_in_the_middle(world: World) -> None:
    """The parent's calls go on, on the same connection; the child makes one of its own."""
    world.program("serve")
    # Python itself warns of forks in a process with threads: the child of this one does nothing but call.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, world.socket, SERVICE]
    subprocess.run(command, check=True, timeout=LIMIT)


INTERRUPTED = """
import os, signal, sys
import ipcd_client
path, service = sys.argv[1:]
handled = []
signal.signal(signal.SIGUSR1, lambda *_: (handled.append(1), print("handled", flush=True)))
signal.signal(signal.SIGINT, signal.default_int_handler)
channel = ipcd_client.channel(node=path)
call = channel.unary_unary(f"/{service}/UnaryEcho")
assert call(b"before", timeout=20) == b"before"
ours = channel.route(service).connection
print("ready", flush=True)
try:
    channel.unary_unary(f"/{service}/UnaryWait")(b"", timeout=30)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert call(b"after" * 10000, timeout=20) == b"after" * 10000
assert channel.route(service).transport == "shm" and channel.route(service).connection is ours
assert len(handled) == 5
channel.close()
"""


def test_a_blocking_call_goes_on_after_a_signal_and_ends_with_ctrl_c(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    """The connection is as good as before."""
    world.program("serve")
    command = [sys.executable, "-c", INTERRUPTED, world.socket, SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(5):
                asleep(process.pid)
                process.send_signal(signal.SIGUSR1)
                assert process.stdout.readline() == "handled\n"
            asleep(process.pid)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            seconds = time.monotonic() - start
            record_property("seconds until Ctrl-C was answered", seconds)
            assert seconds < 5  # the call's deadline is 30 s
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
