"""Locks, semaphores, signals and the homes of pipes, as callers that say what they like use them."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from fuzz.callers import HERE, THERE
from fuzz.registry import target
from fuzz.things import END, FAR, OWNS, TEXTS, TIME, Things, World, drive, methods
from ipcd_client.access import identity as ids
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import lock_pb2, node_pb2, peer_pb2, pipe_pb2, semaphore_pb2, signal_pb2
from ipcd_client.primitives.segments import END as LAST

from ipcd import limits
from ipcd.primitives.lock import LockServicer
from ipcd.primitives.pipe import PipeServicer
from ipcd.primitives.semaphore import SemaphoreServicer
from ipcd.primitives.signal import SignalServicer
from ipcd.state.chase import WAYS
from ipcd.state.semaphore import MOST

# -- locks --------------------------------------------------------------------------------------------


def _check_locks(world: World) -> None:
    servicer: LockServicer = world.servicer
    state = servicer._locks
    sessions = [session for lock in state.locks.values() for session in lock.sessions]
    assert sorted(map(id, sessions)) == sorted(id(one) for one in servicer._calls if not one.over)
    assert sorted(world.kept) == sorted(state.locks)
    for lock in state.locks.values():
        assert len(lock.waits) <= limits.LOCK_WAITS_PER_LOCK
        assert lock.ranges == sum(len(session.held) for session in lock.sessions) <= limits.LOCK_RANGES_PER_LOCK
        held = [(session, one) for session in lock.sessions for one in session.held]
        for session, one in held:
            assert 0 <= one.start < one.end <= LAST
            assert len(session.waits) <= limits.LOCK_WAITS_PER_SESSION
            for other, another in held:
                assert other is session or not one.conflicts(another.start, another.end, another.shared)
    for call in servicer._calls.values():
        assert len(call._answers) <= limits.LOCK_UNREAD + limits.LOCK_WAITS_PER_SESSION
        assert len(call._timers) <= limits.LOCK_WAITS_PER_SESSION
    assert state.waiting.used == sum(len(lock.waits) for lock in state.locks.values())
    assert state.ranges.used == sum(lock.ranges for lock in state.locks.values())
    assert state.sessions.used == len(sessions)
    assert sorted(state.named) == sorted(session.name for session in sessions)
    waits = {wait for lock in state.locks.values() for wait in lock.waits}
    assert all(len(wait.elsewhere) <= limits.LOCK_ELSEWHERE for wait in waits)
    chaser = servicer._chaser
    chases = chaser._chases
    # What is over is let go of when it would be looked at again.
    assert chases._going.keys() <= chaser._timers.keys()
    assert all(len(going.ways) <= WAYS for going in chases._going.values())
    assert len(chases._seen) <= limits.LOCK_CHASES
    for seen in chases._seen.values():
        assert len(seen) <= limits.LOCK_CHASE_STEPS
    assert len(chaser._sending) == chaser._under_way.total() <= limits.LOCK_CHASE_SENT * len(world.links.names())


def _chased(world: World, request: peer_pb2.ChaseRequest) -> None:
    world.broker.on_chase(THERE, request)


def _clear_locks(world: World) -> None:
    servicer: LockServicer = world.servicer
    assert not servicer._calls
    assert not servicer._locks._parties
    for name in world.kept:
        servicer._remove(name, force=False)


_LOCKS: Final = Things(
    lambda world: LockServicer(world.keeper, world.loop.time),
    methods(lock_pb2, "Lock"),
    _check_locks,
    _clear_locks,
    more=((peer_pb2.ChaseRequest, _chased),),
    small={
        "LOCK_CHASES": 2,
        "LOCK_CHASE_STEPS": 2,
        "LOCK_SESSIONS": 10,
        "LOCK_SESSIONS_EACH": OWNS,
        "LOCK_RANGES_PER_LOCK": 8,
        "LOCK_RANGES_PER_SESSION": 4,
        "LOCK_WAITS_PER_LOCK": 4,
        "LOCK_WAITS_PER_SESSION": 2,
        "LOCK_UNREAD": 2,
        "NAMES": 3,
    },
)


def _acquire(id_: int, start: int = 0, length: int = 0, **more: Any) -> lock_pb2.LockHoldRequest:
    range_ = lock_pb2.LockRange(start=start, length=length)
    return lock_pb2.LockHoldRequest(name="a", id=id_, acquire=lock_pb2.LockAcquire(range=range_, **more))


# Names are counted, as chance is: sessions' and chases'. What the other node knows of those here may be right.
_NAMES: Final = [number.to_bytes(limits.LOCK_NAME, "big") for number in range(1, 6)]
_THERE: Final = [lock_pb2.LockSession(node=THERE, secret=_NAMES[0]), lock_pb2.LockSession(node=FAR, secret=_NAMES[1])]


def _chase(number: int, *sessions: bytes) -> bytes:
    mark = peer_pb2.ChaseWait(node=HERE, number=number)
    steps = [peer_pb2.ChaseStep(session=session, last=mark, way=b"way") for session in sessions]
    chase = peer_pb2.ChaseRequest(origin=mark, chase=_NAMES[number % len(_NAMES)], hops=number, steps=steps)
    return _LOCKS.step(5, chase.SerializeToString())


_LOCK_STEPS: Final = (
    _LOCKS.call("Hold", _acquire(1)),
    _LOCKS.call("Hold", _acquire(1, shared=True), 1),
    _LOCKS.call("Hold", _acquire(1, 1, 2, wait=0.5), 2),
    _LOCKS.call("Hold", lock_pb2.LockHoldRequest(name="b", party="p")),
    _LOCKS.call("Hold", lock_pb2.LockHoldRequest(name="a", party="p"), 1),
    _LOCKS.say(_acquire(2, 4, 2)),
    _LOCKS.say(_acquire(3, shared=True), 1),
    _LOCKS.say(lock_pb2.LockHoldRequest(id=4, release=lock_pb2.LockRange(start=1, length=1))),
    _LOCKS.say(lock_pb2.LockHoldRequest(cancel=2)),
    _LOCKS.call("Hold", _acquire(1, elsewhere=_THERE), 1),
    _LOCKS.say(_acquire(5, elsewhere=_THERE)),
    _chase(2, *_NAMES),
    # Somebody waits, and is asked about from both sides.
    _LOCKS.call("Hold", _acquire(1))
    + _LOCKS.call("Hold", _acquire(1, elsewhere=_THERE), 1)
    + _chase(3, *_NAMES[:2])
    + _LOCKS.step(TIME, b"\x01"),
    _LOCKS.call("Look", lock_pb2.LockLookRequest()),
    _LOCKS.call("Remove", lock_pb2.LockRemoveRequest(name="a", force=True)),
    _LOCKS.step(END),
    _LOCKS.step(TIME, b"\x04"),
)


@target("lock", _LOCKS.steps(_LOCK_STEPS), words=(*_LOCK_STEPS, b"\x08" + b"\xff" * 9 + b"\x01"), largest=2048)
def _lock(data: bytes) -> object:
    """Sessions, ranges, waits, circles, also of another node's locks, and removals."""
    return drive(_LOCKS, data)


# -- semaphores ---------------------------------------------------------------------------------------


def _check_semaphores(world: World) -> None:
    servicer: SemaphoreServicer = world.servicer
    state = servicer._state
    assert sorted(world.kept) == [name for name, _ in state.all()]
    for name, thing in state.all():
        assert 0 <= thing.value <= MOST
        assert [ticket.number for ticket in thing.takers] == sorted(ticket.number for ticket in thing.takers)
        assert all(name in ticket.taken for ticket in thing.holders.values())
        if thing.takers:
            place = thing.takers[0].place
            assert place is not None
            assert place.needed > thing.value, "the first one could go on"
        assert thing.value not in thing.exact, "one that waits for so many could go on"
    assert sum(thing.waiting for _, thing in state.all()) == len(state._waiting) == len(servicer._results)
    assert servicer._waits.used == len(servicer._results)
    assert servicer._holds.used >= len(servicer._held)


def _clear_semaphores(world: World) -> None:
    state = world.servicer._state
    assert not any(thing.holders or thing.waiting for _, thing in state.all())
    assert not world.servicer._results


_SEMAPHORES: Final = Things(
    lambda world: SemaphoreServicer(world.keeper, world.loop.time),
    methods(semaphore_pb2, "Semaphore"),
    _check_semaphores,
    _clear_semaphores,
    small={
        "SEMAPHORE_HOLDS_EACH": OWNS,
        "SEMAPHORE_WAITS_EACH": OWNS,
        "SEMAPHORE_STEPS": 4,
        "SEMAPHORE_SHOWN": 2,
        "NAMES": 3,
    },
)


def _semaphore(value: int | None, *deltas: int, **more: Any) -> semaphore_pb2.SemaphoreRequest:
    operations = [semaphore_pb2.SemaphoreOperation(delta=delta) for delta in deltas]
    return semaphore_pb2.SemaphoreRequest(name="a", value=value, operations=operations, **more)


_TWO: Final = semaphore_pb2.SemaphoreRequest(name="a", value=1)
_TWO.operations.add(delta=-1)
_TWO.operations.add(name="b", delta=1, value=0)
_SEMAPHORE_STEPS: Final = (
    _SEMAPHORES.call("Operate", _semaphore(2)),
    _SEMAPHORES.call("Operate", _semaphore(None, 1)),
    _SEMAPHORES.call("Operate", _semaphore(2, -1, wait=0.5), 1),
    _SEMAPHORES.call("Operate", _semaphore(None, 0), 2),
    _SEMAPHORES.call("Operate", _TWO),
    _SEMAPHORES.call("Hold", _semaphore(2, -2)),
    _SEMAPHORES.call("Hold", _semaphore(2, -1, party="p"), 2),
    _SEMAPHORES.call("Hold", _TWO, 3),
    _SEMAPHORES.say(_semaphore(None, 1)),
    _SEMAPHORES.call("Look", semaphore_pb2.SemaphoreLookRequest(name="a", all=True)),
    _SEMAPHORES.call("Remove", semaphore_pb2.SemaphoreRemoveRequest(name="a")),
    _SEMAPHORES.step(END),
    _SEMAPHORES.step(TIME, b"\x04"),
)


@target(
    "semaphore",
    _SEMAPHORES.steps(_SEMAPHORE_STEPS),
    words=(*_SEMAPHORE_STEPS, b"\x10\xff\xff\xff\xff\x0f", b"\x10\xfe\xff\xff\xff\x0f"),
    largest=2048,
)
def _semaphores(data: bytes) -> object:
    """Operations on one and several, held and not."""
    return drive(_SEMAPHORES, data)


# -- signals ------------------------------------------------------------------------------------------


def _check_signals(world: World) -> None:
    servicer: SignalServicer = world.servicer
    listeners = list(servicer._listeners.all())
    assert len(servicer._listeners) == len(listeners) == len(servicer._news) == len(servicer._by_token)
    assert servicer._watches.used == len(servicer._exits)
    for one in listeners:
        if one.flag is not None:
            ids.parsed(one.flag.identity)
            assert one.flag.process.ByteSize() <= 2 * limits.NAME, "a raised flag keeps what it does not need"
        assert one.coalesced <= one.raised


def _raised_there(world: World, request: peer_pb2.PeerRaiseRequest) -> None:
    with contextlib.suppress(IpcdError):
        world.broker.on_raise(THERE, request)


_SIGNALS: Final = Things(
    lambda world: SignalServicer(world.keeper),
    methods(signal_pb2, "Signal"),
    _check_signals,
    more=((peer_pb2.PeerRaiseRequest, _raised_there),),
    small={"LISTENERS_EACH": OWNS, "EXITS_EACH": OWNS, "EXIT_TOLD": 0.04},
)
_RAISED: Final = peer_pb2.PeerRaiseRequest(
    request=signal_pb2.RaiseRequest(name="a", pid=7, pid_node=HERE, group="b"),
    process=node_pb2.Process(node=THERE, pid=9),
    identity=f"{ids.of_node('default', THERE)}/uid/7",
)
_SIGNAL_STEPS: Final = (
    _SIGNALS.call("Listen", signal_pb2.ListenRequest(name="a")),
    _SIGNALS.call("Listen", signal_pb2.ListenRequest(name="a", group="b"), 1),
    _SIGNALS.call("Listen", signal_pb2.ListenRequest(name="b"), 3),
    _SIGNALS.call("Raise", signal_pb2.RaiseRequest(name="a")),
    _SIGNALS.call("Raise", signal_pb2.RaiseRequest(name="a", pid=7, pid_node=HERE), 2),
    _SIGNALS.call("Raise", signal_pb2.RaiseRequest(name="a", group="b"), 3),
    _SIGNALS.call("Take", signal_pb2.TakeRequest(name="a", listener="0000000000000001")),
    _SIGNALS.call("ListListeners", signal_pb2.ListListenersRequest(name="*")),
    _SIGNALS.call("WatchExit", signal_pb2.WatchExitRequest(name="7")),
    _SIGNALS.call("WatchExit", signal_pb2.WatchExitRequest(name="4194305")),
    _SIGNALS.call("WatchExit", signal_pb2.WatchExitRequest(name="a", by=signal_pb2.WatchExitRequest.BY_SERVER)),
    _SIGNALS.call("TellExit", signal_pb2.TellExitRequest(name="7", wait_status=9)),
    _SIGNALS.step(5, _RAISED.SerializeToString()),
    _SIGNALS.step(TIME, b"\x04"),
)


@target(
    "signal",
    _SIGNALS.steps(_SIGNAL_STEPS, (*TEXTS, "*", "7", "4194305", str(1 << 40), "0" * 16)),
    words=(*_SIGNAL_STEPS, b"spiffe://default/node/there/"),
    largest=2048,
)
def _signal(data: bytes) -> object:
    """Flags, of this node's processes and of another's, and the ends of processes."""
    return drive(_SIGNALS, data)


# -- pipes --------------------------------------------------------------------------------------------


def _check_pipes(world: World) -> None:
    servicer: PipeServicer = world.servicer
    pipes = servicer._pipes._pipes
    assert sorted(world.kept) == sorted(name for name, pipe in pipes.items() if not pipe.unnamed)
    assert sorted(servicer._owners) == sorted(name for name, pipe in pipes.items() if name in servicer._owners)
    assert servicer._unnamed.used == len(servicer._owners)
    assert servicer._pipes._unnamed == sum(pipe.unnamed for pipe in pipes.values())
    assert sum(len(pipe.ends) for pipe in pipes.values()) <= len(servicer._news) <= servicer._ends.used
    for pipe in pipes.values():
        assert len(pipe.ends) <= limits.PIPE_ENDS_EACH
        assert pipe.ends or pipe.stays or pipe.unopened, "a pipe that nobody has open"
        for end in pipe.ends.values():
            assert end.address is None or end.address.ByteSize() <= 512


def _clear_pipes(world: World) -> None:
    servicer: PipeServicer = world.servicer
    for name in list(servicer._pipes._pipes):
        assert not servicer._pipes.remove(name)
        servicer._settle(name)


_PIPES: Final = Things(
    lambda world: PipeServicer(world.keeper),
    # Those that carry bytes are clients of the node: what comes of that, other targets try.
    methods(pipe_pb2, "Pipe", without=("Read", "Write")),
    _check_pipes,
    _clear_pipes,
    small={"PIPE_ENDS_OF": OWNS, "PIPES_UNNAMED_OF": OWNS, "NAMES": 3},
)


def _end(side: int, name: str = "a", **more: Any) -> pipe_pb2.PipeOpen:
    reader = pipe_pb2.PipeAddress(node=HERE, server="s", key=b"k") if side == pipe_pb2.PIPE_SIDE_READ else None
    return pipe_pb2.PipeOpen(name=name, side=side, reader=reader, **more)  # type: ignore[arg-type]


_READ, _WRITE = pipe_pb2.PIPE_SIDE_READ, pipe_pb2.PIPE_SIDE_WRITE
_PIPE_STEPS: Final = (
    _PIPES.call("Make", pipe_pb2.PipeMake(name="a")),
    _PIPES.call("Make", pipe_pb2.PipeMake(name="unnamed.x")),
    _PIPES.call("Open", _end(_READ)),
    _PIPES.call("Open", _end(_WRITE), 1),
    _PIPES.call("Open", _end(_WRITE, wait=0.0), 2),
    _PIPES.call("Open", _end(_READ, wait=0.5), 3),
    _PIPES.call("Open", _end(_READ, "unnamed.x")),
    _PIPES.call("Open", _end(_WRITE, "unnamed.x"), 1),
    _PIPES.call("Open", _end(_WRITE, "unnamed.x", again=True), 1),
    _PIPES.call("Look", pipe_pb2.PipeName(name="a")),
    _PIPES.call("Remove", pipe_pb2.PipeName(name="a")),
    _PIPES.call("Remove", pipe_pb2.PipeName(name="unnamed.x")),
    _PIPES.step(END),
    _PIPES.step(TIME, b"\x04"),
    _PIPES.step(TIME, b"\x00\x02"),
)


@target(
    "pipe",
    _PIPES.steps(_PIPE_STEPS, (*TEXTS, "unnamed.x", "unnamed.x", "unnamed.")),
    words=(*_PIPE_STEPS, FAR.encode()),
    largest=2048,
)
def _pipe(data: bytes) -> object:
    """Ends of pipes with names and without, opened in any order."""
    return drive(_PIPES, data)
