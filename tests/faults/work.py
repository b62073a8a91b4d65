"""What is called under faults: requests with numbers, answers that can be checked, and the lanes that calls go in."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SERVICE: Final = "faults.v1.Ledger"
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
# Seconds: the deadline of a call, that of a hasty one, and from one call of a lane to its next. The first is never
# reached where nothing is wrong, not even on a machine that does much else.
DEADLINE: Final = 8.0
HASTY: Final = 0.5
PACE: Final = 0.03
# Seconds between two looks at the gate while it is closed.
LOOK: Final = 0.02
# Bytes of a message's body, drawn at random: mostly small, now and then more than a ring of shared memory takes at
# first, and rarely so much that all that carries it has to grow.
LARGE: Final = 1_500_000
LARGE_SHARE: Final = 0.01
SIZES: Final = (0, 16, 16, 64, 64, 64, 500, 500, 4000, 20_000, 200_000)
# Messages of a stream.
COUNTS: Final = (1, 1, 2, 3, 5, 20)
ATTEMPTS: Final = 4  # of a call that its channel's config has tried again


@dataclass(frozen=True)
class Lane:
    """Calls one after the other. `fresh`: over a channel of its own, each; `retry`: by a retry policy; `whim`: some are
    cancelled; `hasty`: some may miss their deadline; `everywhere`: also where no server is on the caller's node."""

    name: str
    target: str
    transport: str = "auto"
    retry: bool = False
    fresh: bool = False
    whim: bool = False
    hasty: bool = False
    everywhere: bool = False

    @property
    def deadline(self) -> float:
        """Seconds that a call has."""
        return HASTY if self.hasty else DEADLINE

    @property
    def pace(self) -> float:
        """Seconds to the next call: an introduction costs more than a call does."""
        return 5 * PACE if self.fresh else PACE


LANES: Final = (
    Lane("shm", "ipcd://a", "shm"),
    Lane("unix", "ipcd://a", "unix"),
    Lane("tcp", "ipcd://a", "tcp"),
    Lane("any", "ipcd:", everywhere=True),
    Lane("far", "ipcd://b", everywhere=True),
    Lane("retry", "ipcd:", retry=True, everywhere=True),
    Lane("new", "ipcd:", fresh=True, everywhere=True),
    Lane("whim", "ipcd:", whim=True, everywhere=True),
    Lane("hasty", "ipcd:", hasty=True, everywhere=True),
)
BY_NAME: Final = {lane.name: lane for lane in LANES}


def lanes_at(node: str) -> list[Lane]:
    """Those of a caller there."""
    return [lane for lane in LANES if lane.everywhere or lane.target == f"ipcd://{node}"]


@dataclass(frozen=True)
class Plan:
    """One call: everything that is asked and has to be answered follows from it. `id`: CALLER.LANE.NUMBER, where
    CALLER has no dot."""

    id: str
    kind: str
    size: int
    count: int

    @classmethod
    def drawn(cls, number: str, dice: random.Random) -> Plan:
        """The next of a lane."""
        size, count = dice.choice(SIZES), dice.choice(COUNTS)
        if dice.random() < LARGE_SHARE:
            size = LARGE
        # Large ones that are many would take all of the machine's time.
        return cls(number, dice.choice(KINDS), size, 1 if size > 4000 else count)

    @property
    def sends_stream(self) -> bool:
        return self.kind.startswith("stream")

    @property
    def gets_stream(self) -> bool:
        return self.kind.endswith("stream")

    def requests(self) -> list[bytes]:
        """What is sent."""
        return [
            b"%s %d %d\n%s" % (self.id.encode(), index, self.count, self._body(index))
            for index in range(self.count if self.sends_stream else 1)
        ]

    def fault_of(self, answers: Sequence[bytes]) -> str:
        """Why these are not the right answers; empty if they are."""
        expected = list(answers_to(self.kind, self.requests()))
        if len(answers) != len(expected):
            return f"{len(answers)} answers and not {len(expected)}"
        for index, (answer, right) in enumerate(zip(answers, expected, strict=True)):
            if answer != right:
                return f"answer {index} begins {answer[:80]!r}, where {right[:80]!r} is right"
        return ""

    def _body(self, index: int) -> bytes:
        # One letter for each call and place: what comes from another call differs, and it costs next to nothing.
        letter = hashlib.blake2b(b"%s %d" % (self.id.encode(), index), digest_size=1).digest()
        return letter * self.size


def number_of(request: bytes) -> str:
    """The call's number."""
    return request[: request.index(b" ")].decode()


def answer_to(request: bytes, index: int) -> bytes:
    """To one request: its number, the answer's place, a digest, and the body again."""
    head, _, body = request.partition(b"\n")
    digest = hashlib.blake2b(request, digest_size=8).hexdigest()
    return b"%s #%d %s\n%s" % (head, index, digest.encode(), body)


def answers_to(kind: str, requests: Sequence[bytes]) -> Iterator[bytes]:
    """All answers of a call."""
    if kind == "stream_unary":
        yield answer_to(b"".join(requests), 0)
    elif kind == "unary_stream":
        count = int(requests[0].partition(b"\n")[0].split()[2])
        for index in range(count):
            yield answer_to(requests[0], index)
    else:
        for index, request in enumerate(requests):
            yield answer_to(request, index)


class Gate:
    """A file that says whether calls are to be made: "go 3" or "pause 4"."""

    def __init__(self, path: str) -> None:
        # Open for good: where there are no descriptors to be had, it still is.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def set(self, word: str, number: int) -> None:
        """For all who look."""
        os.pwrite(self._fd, f"{word} {number}".ljust(40).encode(), 0)

    def closed(self) -> int:
        """The number of the pause; 0 while calls are to be made."""
        word, _, number = os.pread(self._fd, 40, 0).decode().partition(" ")
        return int(number) if word == "pause" else 0

    def close(self) -> None:
        os.close(self._fd)
