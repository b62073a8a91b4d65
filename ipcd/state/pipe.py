"""Who has which pipe open, as its home knows it. Pure: time is an argument.

The bytes go past this: a writer is told of the readers, and gives to them directly. What is kept here says when an open
need not wait any more, when there is nobody left who writes (the end of the file), and nobody left who reads (a broken
pipe). Each verb gives the ends that have news, which `news` then has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ipcd_client.pb.ipcd.v1 import pipe_pb2
from ipcd_client.primitives.errors import BadRequest, NameTaken, NoReader, NoSuchName
from ipcd_client.primitives.naming import is_unnamed

from ipcd import limits

READ: Final = pipe_pb2.PIPE_SIDE_READ
WRITE: Final = pipe_pb2.PIPE_SIDE_WRITE
SIDES: Final = (READ, WRITE)


@dataclass(slots=True)
class End:
    """One process's, of one pipe. `met`: it is open, as the other side has been there."""

    number: int
    pipe: str
    side: pipe_pb2.PipeSide
    address: pipe_pb2.PipeAddress | None
    met: bool = False


@dataclass(slots=True)
class _Pipe:
    name: str
    # It stays without ends.
    stays: bool = False
    # Without a name: the sides that nobody has opened yet, which are there until `expires`.
    unopened: set[int] = field(default_factory=set)
    unnamed: bool = False
    expires: float = 0.0
    ends: dict[int, End] = field(default_factory=dict)

    def of(self, side: int) -> list[End]:
        return [end for end in self.ends.values() if end.side == side]

    def others(self, side: int) -> list[End]:
        return [end for end in self.ends.values() if end.side != side]

    def expected(self, side: int) -> bool:
        """Somebody may come yet to the side opposite of this one."""
        return any(other != side for other in self.unopened)


class Pipes:
    """Of one node. Names are without a node."""

    def __init__(
        self, each: int = limits.PIPE_ENDS_EACH, unnamed: int = limits.PIPES_UNNAMED, wait: float = limits.PIPE_UNOPENED
    ) -> None:
        self._pipes: dict[str, _Pipe] = {}
        self._each = each
        self._unnamed_most = unnamed
        self._wait = wait
        self._unnamed = 0
        self._next = 0

    def __contains__(self, name: str) -> bool:
        return name in self._pipes

    def __len__(self) -> int:
        return len(self._pipes)

    # -- pipes ------------------------------------------------------------------------------------

    def make(self, name: str, now: float) -> None:
        """One that stays; or, where that is what the name says, one without a name.

        Raises:
            NameTaken: there is one without a name that has this one.
            LimitReached: there are too many without names.
        """
        if not is_unnamed(name):
            self._pipes.setdefault(name, _Pipe(name)).stays = True
            return
        if name in self._pipes:
            raise NameTaken("there is a pipe of this name")
        limits.check("pipes without names", self._unnamed + 1, self._unnamed_most)
        self._unnamed += 1
        self._pipes[name] = _Pipe(name, unopened={READ, WRITE}, unnamed=True, expires=now + self._wait)

    def remove(self, name: str) -> list[End]:
        """Takes a pipe away; the ends that it had, which are not open any more.

        Raises:
            NoSuchName: there is none.
        """
        pipe = self._get(name)
        self._drop(pipe)
        return list(pipe.ends.values())

    def facts(self, name: str) -> pipe_pb2.PipeFacts:
        """How many have it open.

        Raises:
            NoSuchName: there is none.
        """
        pipe = self._get(name)
        return pipe_pb2.PipeFacts(
            name=name,
            readers=len(pipe.of(READ)),
            writers=len(pipe.of(WRITE)),
            waiting=sum(not end.met for end in pipe.ends.values()),
            stays=pipe.stays,
        )

    # -- ends -------------------------------------------------------------------------------------

    def open(
        self,
        name: str,
        side: pipe_pb2.PipeSide,
        address: pipe_pb2.PipeAddress | None,
        *,
        blocking: bool,
        again: bool = False,
    ) -> tuple[End, list[End]]:
        """One more end, of a pipe that is made for it if there is none; and whoever has news by that, it too if it is
        open already. An end that does not block is: it reads at once, and writes if there is a reader. `again`: it was
        open before, at another time of this daemon.

        Raises:
            BadRequest: a reader says not where it is, or the side is none.
            NameTaken: the pipe has no name, and this side of it was opened before.
            NoReader: it writes, does not block, and nobody reads.
            LimitReached: too many have it open.
        """
        if side not in SIDES:
            raise BadRequest("a pipe is opened for reading or for writing")
        if side == READ and (address is None or not (address.node and address.server and address.key)):
            raise BadRequest("a reader says where it is, and the key that writers show it")
        if side == READ and address is not None:
            address = _checked(address)
        unnamed = is_unnamed(name)
        pipe = self._pipes.get(name)
        if pipe is None and unnamed and not again:
            raise NoSuchName("there is no such pipe without a name: its ends were opened and closed, or not in time")
        if pipe is not None:
            if pipe.unnamed and side not in pipe.unopened and not again:
                raise NameTaken("this end of a pipe without a name was opened before; each can be opened once")
            limits.check("ends of one pipe", len(pipe.ends) + 1, self._each)
        others = pipe.others(side) if pipe is not None else []
        expected = pipe is not None and pipe.expected(side)
        if side == WRITE and not (blocking or again or others or expected):
            if pipe is None:
                raise NoReader(f"nobody reads the pipe {name}, and there is none")
            raise NoReader(f"nobody reads the pipe {name}")
        if pipe is None:
            pipe = self._pipes[name] = _Pipe(name, unnamed=unnamed)
            self._unnamed += unnamed
        pipe.unopened.discard(side)
        self._next += 1
        end = End(self._next, name, side, address if side == READ else None)
        end.met = bool(others) or expected or again or not blocking
        pipe.ends[end.number] = end
        for other in others:
            other.met = True
        return end, [*others, end] if end.met else others

    def close(self, end: End) -> list[End]:
        """An end is not open any more; whoever has news by that. The pipe goes with its last end, unless it stays."""
        pipe = self._pipes.get(end.pipe)
        if pipe is None or pipe.ends.pop(end.number, None) is None:
            return []
        others = pipe.others(end.side)
        self._look(pipe)
        return others

    def has(self, end: End) -> bool:
        """It is open, or waits to be."""
        pipe = self._pipes.get(end.pipe)
        return pipe is not None and end.number in pipe.ends

    def news(self, end: End) -> pipe_pb2.PipeNews:
        """What an open end is to know."""
        pipe = self._pipes.get(end.pipe)
        if pipe is None or end.number not in pipe.ends:
            return pipe_pb2.PipeNews()
        others = pipe.others(end.side)
        news = pipe_pb2.PipeNews(others=len(others) + pipe.expected(end.side))
        if end.side == WRITE:
            news.readers.extend(other.address for other in others if other.address is not None)
        return news

    # -- time -------------------------------------------------------------------------------------

    def next_expiry(self) -> float | None:
        """When `expire` is to be called."""
        return min((pipe.expires for pipe in self._pipes.values() if pipe.unopened), default=None)

    def expire(self, now: float) -> list[End]:
        """Ends of pipes without names that nobody has opened in time will not come: whoever has news by that."""
        told: list[End] = []
        for pipe in [pipe for pipe in self._pipes.values() if pipe.unopened and pipe.expires <= now]:
            pipe.unopened.clear()
            told += pipe.ends.values()
            self._look(pipe)
        return told

    # -- inside -----------------------------------------------------------------------------------

    def _get(self, name: str) -> _Pipe:
        pipe = self._pipes.get(name)
        if pipe is None:
            raise NoSuchName(f"there is no pipe {name} here")
        return pipe

    def _look(self, pipe: _Pipe) -> None:
        if not (pipe.ends or pipe.stays or pipe.unopened):
            self._drop(pipe)

    def _drop(self, pipe: _Pipe) -> None:
        del self._pipes[pipe.name]
        self._unnamed -= pipe.unnamed


def _checked(address: pipe_pb2.PipeAddress) -> pipe_pb2.PipeAddress:
    """What is kept for as long as the end is open, and told to each writer: nothing else of the request."""
    sizes = {"node": len(address.node.encode()), "server": len(address.server.encode()), "key": len(address.key)}
    for what, size in sizes.items():
        if size > limits.PIPE_ADDRESS[what]:
            raise BadRequest(f"the {what} of a reader's address has {size} bytes, at most {limits.PIPE_ADDRESS[what]}")
    return pipe_pb2.PipeAddress(node=address.node, server=address.server, key=address.key)
