"""Where there is no shared memory to be had, and where processes share nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path

import pytest
from ipcd_client.testing.wire_tools import LIMIT
from sdk.processes import processes
from shm.world import World

# Which end's segment it then is that there is not.
FAULTS = {
    "memfd_create": "Function not implemented",
    "posix_fallocate": "No space left on device",
    "mmap": "Cannot allocate memory",
    "mmap for reading": "Cannot allocate memory",
}


@pytest.mark.parametrize("role", ["call", "serve"])
@pytest.mark.parametrize("fault", FAULTS)
def test_without_shared_memory_calls_go_over_the_socket(world: World, fault: str, role: str) -> None:
    """And if it was asked for, they fail."""
    server = world.program("serve", *([fault] if role == "serve" else []))
    caller = world.program("call", *([fault] if role == "call" else []))
    for size in (10, 300_000):
        done = caller.do("call", "auto", size)
        assert (done["code"], done["transport"]) == ("OK", "unix")
        assert FAULTS[fault] in done["why"]
    done = caller.do("call", "shm")
    assert done["code"] == "UNAVAILABLE"
    assert "shm was asked for" in done["why"]
    assert FAULTS[fault] in done["why"]
    # The server is none the worse for it.
    assert world.program("call").do("call", "auto")["transport"] == ("shm" if role == "call" else "unix")
    assert caller.process.poll() is server.process.poll() is None


@pytest.mark.parametrize("role", ["call", "serve"])
def test_with_few_descriptors(world: World, role: str) -> None:
    """Wherever they run out: there is a connection, of whichever kind, or a clear error, and later all is well."""
    programs = {each: world.program(each) for each in ("serve", "call")}
    caller = programs["call"]
    assert caller.do("call", "auto")["transport"] == "shm"
    caller.do("close")
    seen = set()
    for room in range(14):
        programs[role].do("limit", room)
        done = caller.do("call", "auto", 10, 2)
        assert done["code"] in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"), done
        seen.add(done.get("transport"))
        if room >= 3:
            assert done["code"] == "OK", (room, done)
        if done.get("transport") == "unix":
            assert done["why"].startswith("unix: ")
        caller.do("close")
    programs[role].do("limit", -1)
    assert seen >= {"shm", "unix"}
    assert caller.do("call", "auto")["transport"] == "shm"


ISOLATED = (
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--ipc",
    "--mount",
    "--mount-proc",
    "--propagation",
    "private",
)
# Nothing of the machine's temporary files is seen but the directory of the socket.
HIDING = """
set -e
mkdir -p "$0/empty"
mount -t tmpfs none /dev/shm
mount --bind "$0" /mnt
mount -t tmpfs none "$TMPDIR"
mkdir -p "$0"
mount --move /mnt "$0"
exec "$@"
"""


def isolation(folder: Path) -> tuple[str, ...]:
    """The command before a command that is to run in namespaces of its own."""
    command = (*ISOLATED, "sh", "-c", HIDING, str(folder))
    try:
        done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError:
        pytest.skip("there is no `unshare` (util-linux)")
    if done.returncode:
        pytest.skip(f"no namespaces can be made: {done.stderr.strip()}")
    return command


@pytest.mark.parametrize("inside", ["caller", "daemon and server"])
def test_processes_in_other_namespaces_share_memory(inside: str) -> None:
    """All that they share is the directory of the daemon's socket."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, contextlib.ExitStack() as stack:
        within = isolation(Path(folder))
        there = within if inside != "caller" else ()
        daemons = stack.enter_context(processes(Path(folder)))
        # It is killed with the command that it runs in, which minds no other signal.
        daemon = daemons.daemon("a", within=there)
        stack.callback(daemons.kill, daemon)
        world = World(daemons, daemon, stack)
        world.program("serve", within=there)
        caller = world.program("call", within=within if inside == "caller" else ())
        for size in (10, 300_000):
            done = caller.do("call", "auto", size)
            assert (done["code"], done["transport"]) == ("OK", "shm"), done
