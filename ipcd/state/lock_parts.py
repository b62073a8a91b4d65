"""What locks consist of: sessions, parties, what is held and who waits. Pure; the rules are in lock.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ipcd_client.primitives.segments import Segment

from ipcd.state.quota import Owner, Part


@dataclass(slots=True, eq=False)
class Wait:
    """An acquisition that was not granted yet. `since`: when it began; `number`: of no other; and for circles over
    several homes (chase.py), when it began in microseconds since the epoch, and what its party's sessions are called
    elsewhere, each with its node."""

    session: Session
    id: int
    start: int
    end: int
    shared: bool
    since: float
    number: int
    began: int = 0
    elsewhere: Sequence[tuple[str, bytes]] = ()

    def conflicts(self, start: int, end: int, shared: bool) -> bool:
        """Whether that and this cannot be held by two sessions at one time."""
        return self.start < end and start < self.end and not (shared and self.shared)


@dataclass(slots=True, eq=False)
class Party:
    """In whose name some sessions hold and wait."""

    key: object
    sessions: dict[Session, None] = field(default_factory=dict)

    def waits(self) -> Iterator[Wait]:
        """Of all its sessions."""
        for session in self.sessions:
            yield from session.waits.values()

    def holds(self) -> bool:
        """Whether it holds anything."""
        return any(session.held for session in self.sessions)


@dataclass(slots=True, eq=False)
class Lock:
    """One of them. Sessions that hold anything, those of them that hold something exclusively, and waits in order."""

    name: str
    token: int = 0
    ranges: int = 0
    sessions: set[Session] = field(default_factory=set)
    holders: dict[Session, None] = field(default_factory=dict)
    writers: dict[Session, None] = field(default_factory=dict)
    waits: dict[Wait, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Session:
    """An owner of ranges of one lock. `about`: who it is, for people. `name`: what it is called at other homes, if
    anything. `since`: when it was last granted anything, which whoever carries the actions out sets. `changes`: of what
    it holds, counted."""

    lock: Lock
    party: Party
    owner: Owner
    about: str
    name: bytes
    ranges: Part
    held: list[Segment] = field(default_factory=list)
    waits: dict[int, Wait] = field(default_factory=dict)
    since: float = 0.0
    changes: int = 0
    over: bool = False
