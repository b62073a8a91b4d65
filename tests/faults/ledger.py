"""The account of all calls: what callers got, what servers saw, and what of it must not be."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from faults.work import ATTEMPTS, BY_NAME, Lane

# Seconds after its deadline in which a call has to have ended on a machine that does much else.
LATE: Final = 5.0
# Violations that are shown.
SHOWN: Final = 12


@dataclass
class Call:
    """One call. Times are CLOCK_MONOTONIC's seconds."""

    id: str
    kind: str
    begun: float
    status: str = ""
    ended: float = 0.0
    details: str = ""
    ends: int = 0
    seen: int = 0

    @property
    def caller(self) -> str:
        """Name of the caller, of whichever process."""
        return self.id.partition(":")[0]

    @property
    def process(self) -> str:
        """Name and process id."""
        return self.id.partition(".")[0]

    @property
    def lane(self) -> Lane:
        return BY_NAME[self.id.split(".")[1]]

    def __str__(self) -> str:
        took = f"after {self.ended - self.begun:.3f} s" if self.ends else "not ended"
        return f"{self.id} {self.kind}: {self.status or '-'} {took}, seen {self.seen} times: {self.details or '-'}"


@dataclass(frozen=True)
class Allowed:
    """What some calls may come to beside OK, while a fault lasts: all calls, or those of these lanes, callers or kinds.

    `says`: an expression that their details have to match. `late`: seconds that they may take beyond their deadline.
    """

    statuses: Collection[str]
    lanes: Collection[str] = ()
    callers: Collection[str] = ()
    kinds: Collection[str] = ()
    says: str = ""
    late: float = 0.0

    def concerns(self, call: Call) -> bool:
        """Whether it is about such a call."""
        return (
            (not self.lanes or call.lane.name in self.lanes)
            and (not self.callers or call.caller in self.callers)
            and (not self.kinds or call.kind in self.kinds)
        )

    def allows(self, call: Call) -> bool:
        """Whether the call may have ended so."""
        return self.concerns(call) and call.status in self.statuses and bool(re.search(self.says, call.details))


@dataclass(frozen=True)
class Window:
    """When a fault could be felt, and what it may have done. `killed`: processes of callers that it has ended."""

    begin: float = float("inf")
    end: float = float("-inf")
    allowed: tuple[Allowed, ...] = ()
    killed: frozenset[str] = frozenset()

    def touches(self, call: Call) -> bool:
        """Whether the call was under way in it."""
        return call.begun <= self.end and call.ended >= self.begin


class Tail:
    """New whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> list[str]:
        """Those since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        return whole.decode().splitlines()

    def forget(self) -> None:
        """Empties the file, of which all has been read, so that it does not grow for an hour. Who writes appends."""
        if self._path.exists() and self._path.stat().st_size == self._at:
            os.truncate(self._path, 0)
            self._at = 0


class Ledger:
    """Reads what the programs write into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = Tail(folder / "seen")
        self._tails: dict[str, Tail] = {}
        # Calls since the last `close`, and how often each number was seen: in those of before it must not come again.
        self.calls: dict[str, Call] = {}
        self._sightings: Counter[str] = Counter()
        # Those of before that failed and were not seen. Their server may only just have found them.
        self._missed: set[str] = set()
        self.total = 0
        self.outcomes: Counter[str] = Counter()
        # Of each lane of each caller process: the number of the pause that it has seen, and the last call that was
        # answered, by when it began.
        self.paused: dict[tuple[str, str], int] = {}
        self.answered: dict[tuple[str, str], list[float]] = {}

    def read(self) -> None:
        """Takes in what is new."""
        for file in sorted(self._folder.glob("*.calls")):
            for line in self._tails.setdefault(file.name, Tail(file)).lines():
                self._take(file.stem, line.split(" ", 4))
        for line in self._seen.lines():
            self._sightings[line.split()[2]] += 1

    def _take(self, caller: str, parts: list[str]) -> None:
        match parts:
            case ["B", number, kind, when]:
                assert number not in self.calls, f"{number} begins twice"
                self.calls[number] = Call(number, kind, float(when))
            case ["E", number, status, when, *details]:
                call = self.calls.setdefault(number, Call(number, "?", float(when)))
                call.ends += 1
                call.status, call.ended, call.details = status, float(when), "".join(details)
                if status == "OK":
                    self.answered.setdefault((caller, call.lane.name), []).append(call.begun)
            case ["P", pause, lane]:
                self.paused[caller, lane] = int(pause)
            case _:
                raise ValueError(f"{caller} wrote {parts}")

    def answers_since(self, caller: str, lane: str, since: float) -> int:
        """How many calls that began then or later were answered."""
        return sum(1 for begun in reversed(self.answered.get((caller, lane), [])) if begun >= since)

    def close(self, window: Window) -> list[str]:
        """Ends the account of these calls, none of which is under way any more: what must not be, in words."""
        self.read()
        for number, count in self._sightings.items():
            if number in self.calls:
                self.calls[number].seen = count
        strange = {number: count for number, count in self._sightings.items() if number not in self.calls}
        wrong = [
            f"{number} was seen {count} times, and nobody has made it"
            for number, count in strange.items()
            if count > 1 or number not in self._missed
        ]
        self._missed -= strange.keys()
        for call in self.calls.values():
            wrong += [f"{what}: {call}" for what in _violations(call, window)]
        self._missed |= {call.id for call in self.calls.values() if call.status != "OK" and not call.seen}
        self.total += len(self.calls)
        self.outcomes.update(call.status or "killed" for call in self.calls.values())
        self.calls.clear()
        self._sightings.clear()
        self.answered.clear()
        for tail in (self._seen, *self._tails.values()):
            tail.forget()
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        return wrong[:SHOWN] + more


def _violations(call: Call, window: Window) -> Iterator[str]:
    most = ATTEMPTS if call.lane.retry else 1
    if call.seen > most:
        yield f"seen more than {most} times"
    if call.ends == 0 and call.process in window.killed:
        return
    if call.ends != 1:
        yield f"ended {call.ends} times"
        return
    rules = [rule for rule in window.allowed if window.touches(call) and rule.concerns(call)]
    if call.ended - call.begun > call.lane.deadline + LATE + max((rule.late for rule in rules), default=0.0):
        yield "beyond its deadline"
    if call.status == "OK":
        if call.seen == 0:
            yield "answered by nobody"
    elif not _chosen(call) and not any(rule.allows(call) for rule in rules):
        when = "" if window.touches(call) else " outside of the fault"
        yield f"not allowed{when}"


def _chosen(call: Call) -> bool:
    """The caller itself has wanted it so."""
    return (call.lane.whim and call.status == "CANCELLED") or (call.lane.hasty and call.status == "DEADLINE_EXCEEDED")
