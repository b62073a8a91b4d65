"""The faults. What each allows is said as narrowly as the documents promise it.

Three things hold in all of them: no answer is wrong, no call is seen twice that has no retry policy, and a channel that
has its connections does not need a daemon.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final

from faults.engine import fault
from faults.ledger import Allowed
from faults.limits import no_descriptors, no_memory, no_room
from faults.proxy import Weather
from faults.work import HASTY
from faults.world import CALLERS, NODES, SERVERS, World, together
from integration.daemons import LONG

Injecting = Generator[Sequence[Allowed], None, None]

UNAVAILABLE: Final = "UNAVAILABLE"
LATE: Final = "DEADLINE_EXCEEDED"
# Channels that ask a daemon for each call; those whose calls leave the caller's node, or go as if they did. A caller on
# c has no other.
NEW: Final = ("new",)
TCP: Final = ("tcp", "far")
ON_C: Final = tuple(name for name in CALLERS if name.startswith("c"))
# Bytes that a process gets beside what it has, where there is no more memory.
MORE: Final = 0


def names(pids: Iterable[int]) -> str:
    """An expression for details that name one of these processes as who has failed."""
    return "|".join(rf"pid {pid}\b" for pid in pids)


def over_tcp(*statuses: str, late: float = 0.0) -> list[Allowed]:
    """For calls that went over the network."""
    return [Allowed(statuses, lanes=TCP, late=late), Allowed(statuses, callers=ON_C, late=late)]


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """By SIGSTOP, for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# -- kill --------------------------------------------------------------------------------------------


@fault("a server is killed", lasts=0.2)
def server_killed(world: World, dice: random.Random) -> Injecting:
    name = dice.choice(list(SERVERS))
    pid = world.servers[name].pid
    world.servers[name].send_signal(signal.SIGKILL)
    world.servers[name].wait(LONG)
    yield [Allowed([UNAVAILABLE], says=names([pid]))]
    world.start_server(name)


@fault("all servers of a node are killed", lasts=0.2)
def servers_killed(world: World, dice: random.Random) -> Injecting:
    node = dice.choice("ab")
    of_node = [name for name in SERVERS if name[0] == node]
    pids = [world.servers[name].pid for name in of_node]
    for name in of_node:
        world.servers[name].send_signal(signal.SIGKILL)
    for name in of_node:
        world.servers[name].wait(LONG)
    # Pinned to that node: nobody serves it.
    pinned = ("shm", "unix", "tcp") if node == "a" else ("far",)
    yield [
        Allowed([UNAVAILABLE], says=names(pids)),
        Allowed([UNAVAILABLE], lanes=pinned, says="no server for"),
        # Who asks just then is told of one that is dead already.
        Allowed([UNAVAILABLE], lanes=NEW),
    ]
    together(world.start_server, of_node)


@fault("a server ends well", lasts=0.2)
def server_ended(world: World, dice: random.Random) -> Injecting:
    name = dice.choice(list(SERVERS))
    world.servers[name].send_signal(signal.SIGTERM)
    # More requests than are kept cannot be sent again to another.
    yield [Allowed([UNAVAILABLE], kinds=("stream_unary", "stream_stream"), says="did not take the call")]
    assert world.servers[name].wait(LONG) == 0
    world.start_server(name)


@fault("a daemon is killed", lasts=0.3)
def daemon_killed(world: World, dice: random.Random) -> Injecting:
    node = dice.choice(NODES)
    world.daemons[node].kill()
    yield [Allowed([UNAVAILABLE], lanes=NEW)]
    world.start_daemon(node)


@fault("a daemon ends well", lasts=0.3)
def daemon_ended(world: World, dice: random.Random) -> Injecting:
    node = dice.choice(NODES)
    assert world.daemons[node].stop() == 0
    yield [Allowed([UNAVAILABLE], lanes=NEW)]
    world.start_daemon(node)


@fault("all daemons are killed", lasts=0.3)
def daemons_killed(world: World, dice: random.Random) -> Injecting:
    for daemon in world.daemons.values():
        daemon.kill()
    yield [Allowed([UNAVAILABLE], lanes=NEW)]
    together(world.start_daemon, NODES)


@fault("a caller is killed", lasts=0.2)
def caller_killed(world: World, dice: random.Random) -> Injecting:
    name = dice.choice(list(CALLERS))
    world.callers[name].send_signal(signal.SIGKILL)
    world.callers[name].wait(LONG)
    yield []
    world.start_caller(name)


# -- stop --------------------------------------------------------------------------------------------


@fault("a server is stopped", lasts=3 * HASTY)
def server_stopped(world: World, dice: random.Random) -> Injecting:
    """Calls that it has wait as long as they may."""
    with stopped([world.servers[dice.choice(list(SERVERS))].pid]):
        yield []


@fault("a daemon is stopped", lasts=3.0)
def daemon_stopped(world: World, dice: random.Random) -> Injecting:
    """Longer than its heartbeats allow."""
    with stopped([world.daemons[dice.choice(NODES)].process.pid]):
        yield [Allowed([LATE, UNAVAILABLE], lanes=NEW)]


@fault("a caller is stopped", lasts=3 * HASTY)
def caller_stopped(world: World, dice: random.Random) -> Injecting:
    with stopped([world.callers[dice.choice(list(CALLERS))].pid]):
        yield []


@fault("everything stutters", lasts=0.0)
def stutter(world: World, dice: random.Random) -> Injecting:
    """Each process in turn is stopped for some hundredths of a second, again and again: nobody is to notice."""
    pids = list(world.processes().values())
    for pid in dice.sample(pids, len(pids)) + dice.sample(pids, len(pids)):
        with stopped([pid]):
            time.sleep(dice.uniform(0.01, 0.08))
    yield []


# -- cut and slow ------------------------------------------------------------------------------------


@fault("all connections between nodes are reset", lasts=0.2)
def roads_reset(world: World, dice: random.Random) -> Injecting:
    world.roads.reset()
    yield [*over_tcp(UNAVAILABLE), Allowed([UNAVAILABLE], lanes=NEW)]


@fault("connections are cut in the middle of a frame", lasts=0.7)
def roads_cut(world: World, dice: random.Random) -> Injecting:
    with world.roads.under(Weather(cut_after=dice.randrange(500, 30_000))):
        yield [*over_tcp(UNAVAILABLE, LATE), Allowed([UNAVAILABLE, LATE], lanes=NEW)]


@fault("nothing passes between nodes", lasts=3.5)
def roads_held(world: World, dice: random.Random) -> Injecting:
    """Longer than heartbeats allow: the nodes lose each other."""
    world.roads.hold()
    try:
        yield [*over_tcp(UNAVAILABLE, LATE), Allowed([UNAVAILABLE, LATE], lanes=NEW)]
    finally:
        world.roads.go_on()


@fault("the network is slow", lasts=1.0)
def roads_slow(world: World, dice: random.Random) -> Injecting:
    with world.roads.under(Weather(delay=dice.uniform(0.02, 0.15))):
        yield over_tcp(LATE)


# -- corrupt -----------------------------------------------------------------------------------------


@fault("bits flip on links", lasts=1.0)
def links_corrupt(world: World, dice: random.Random) -> Injecting:
    with world.roads.under(Weather(flip_links=0.3)):
        # A token may be among what was changed, or the caller's node, which is not believed then.
        denied = Allowed(["PERMISSION_DENIED"], lanes=NEW, says="bad-token|asked for a caller of node ''")
        yield [Allowed([UNAVAILABLE, LATE, "INTERNAL"], lanes=NEW), denied]
    # What was changed and makes sense nevertheless is believed until the link is made anew: only TLS would show it.
    world.roads.reset(links_alone=True)


@fault("bits flip in frames of calls", lasts=0.7)
def calls_corrupt(world: World, dice: random.Random) -> Injecting:
    """In the type and the length, where it shows. In a message, it would not: only TLS would show it."""
    with world.roads.under(Weather(flip_calls=0.02)):
        yield [*over_tcp(UNAVAILABLE, "INTERNAL", LATE), Allowed([UNAVAILABLE, "INTERNAL", LATE], lanes=NEW)]


# -- fill --------------------------------------------------------------------------------------------


@fault("a daemon has no descriptors left", lasts=0.7)
def daemon_without_descriptors(world: World, dice: random.Random) -> Injecting:
    with no_descriptors([world.daemons[dice.choice(NODES)].process.pid]):
        yield [Allowed([UNAVAILABLE, LATE, "RESOURCE_EXHAUSTED"], lanes=NEW)]


@fault("a server has no descriptors left", lasts=0.7)
def server_without_descriptors(world: World, dice: random.Random) -> Injecting:
    with no_descriptors([world.servers[dice.choice(list(SERVERS))].pid]):
        yield [Allowed([UNAVAILABLE, LATE, "RESOURCE_EXHAUSTED"], lanes=NEW)]


@fault("a caller has no descriptors left", lasts=0.7)
def caller_without_descriptors(world: World, dice: random.Random) -> Injecting:
    name = dice.choice(list(CALLERS))
    with no_descriptors([world.callers[name].pid]):
        yield [Allowed([UNAVAILABLE, "RESOURCE_EXHAUSTED"], lanes=NEW, callers=[name])]


@fault("daemons get no more memory", lasts=0.7)
def daemons_without_memory(world: World, dice: random.Random) -> Injecting:
    with no_memory([daemon.process.pid for daemon in world.daemons.values()], MORE):
        yield [Allowed([UNAVAILABLE, LATE, "RESOURCE_EXHAUSTED"], lanes=NEW)]


@fault("servers get no more memory", lasts=0.7)
def servers_without_memory(world: World, dice: random.Random) -> Injecting:
    with no_memory([server.pid for server in world.servers.values()], MORE):
        # A message that there is no room for is one that cannot be read: what gRPC says of those.
        unread = Allowed(["INTERNAL"], says="^Exception deserializing request!$")
        yield [Allowed([UNAVAILABLE, LATE, "RESOURCE_EXHAUSTED", "UNKNOWN"]), unread]


@fault("the disk is full", lasts=0.5)
def disk_full(world: World, dice: random.Random) -> Injecting:
    """For the daemons: what they remember of other nodes, and their logs. So that there is something to remember, one
    of them is killed meanwhile."""
    node = dice.choice(NODES)
    with no_room([daemon.process.pid for other, daemon in world.daemons.items() if other != node]):
        world.daemons[node].kill()
        yield [Allowed([UNAVAILABLE], lanes=NEW)]
        world.start_daemon(node)
        world.await_whole(LONG)


# -- clocks ------------------------------------------------------------------------------------------


@fault("wall clocks are stepped", lasts=0.5)
def clocks_stepped(world: World, dice: random.Random) -> Injecting:
    """Those of all programs at once, by a day forth or back: deadlines and heartbeats do not go by them."""
    world.step_clocks(dice.choice((-86_400, 86_400)))
    yield []
    world.step_clocks(0)


ALL: Final = (
    server_killed,
    servers_killed,
    server_ended,
    daemon_killed,
    daemon_ended,
    daemons_killed,
    caller_killed,
    server_stopped,
    daemon_stopped,
    caller_stopped,
    stutter,
    roads_reset,
    roads_cut,
    roads_held,
    roads_slow,
    links_corrupt,
    calls_corrupt,
    daemon_without_descriptors,
    server_without_descriptors,
    caller_without_descriptors,
    daemons_without_memory,
    servers_without_memory,
    disk_full,
    clocks_stepped,
)
