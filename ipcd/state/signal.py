"""Who listens at one node for which flag, and which flags are raised. Pure.

A flag is no message: it is raised or not. One that is raised again before its listener has taken it stays the one flag.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ipcd_client.pb.ipcd.v1 import node_pb2, signal_pb2

from ipcd import limits
from ipcd.state.quota import Owner, Shares

# Stands for all names, in lists.
ALL: Final = "*"


@dataclass(eq=False, slots=True)
class Listener:
    """One that listens for one flag. `group`: empty for none."""

    name: str
    group: str
    process: node_pb2.Process
    owner: Owner
    raised: int = 0
    coalesced: int = 0
    flag: signal_pb2.Flag | None = None  # raised, and not taken


class Aim(NamedTuple):
    """At whom a flag is raised: at a process (pid and node), at a group, or, with neither, at everybody."""

    pid: int = 0
    node: str = ""
    group: str = ""

    def hits(self, listener: Listener) -> bool:
        """Whether it is one of them."""
        if self.group and listener.group != self.group:
            return False
        return not self.pid or (listener.process.pid == self.pid and listener.process.node == self.node)


class Raised(NamedTuple):
    """What came of it: how many listeners the flag is raised at now, and those of them at which it was not before."""

    listeners: int
    due: list[Listener]


class Listeners:
    """Of one node."""

    def __init__(self, most: int = limits.LISTENERS, each: limits.Each = limits.LISTENERS_EACH) -> None:
        self._shares = Shares("listeners for flags", most, each)
        # By name, and there in the order in which they came.
        self._by_name: dict[str, dict[Listener, None]] = {}

    def __len__(self) -> int:
        return self._shares.used

    def listen(self, name: str, group: str, process: node_pb2.Process, owner: Owner) -> Listener:
        """One more listens.

        Raises:
            LimitReached: there are too many.
        """
        self._shares.take(owner)
        listener = Listener(name, group, process, owner)
        self._by_name.setdefault(name, {})[listener] = None
        return listener

    def leave(self, listener: Listener) -> None:
        """It listens no more. Nothing happens if it did not."""
        of_name = self._by_name.get(listener.name, {})
        if listener not in of_name:
            return
        del of_name[listener]
        if not of_name:
            del self._by_name[listener.name]
        self._shares.give(listener.owner)

    def raise_flag(self, flag: signal_pb2.Flag, aim: Aim) -> Raised:
        """Raises it."""
        hit = [listener for listener in self._by_name.get(flag.name, ()) if aim.hits(listener)]
        due = []
        for listener in hit:
            listener.raised += 1
            if listener.flag is None:
                due.append(listener)
            else:
                listener.coalesced += 1
            listener.flag = flag
        return Raised(len(hit), due)

    @staticmethod
    def take(listener: Listener) -> signal_pb2.Flag | None:
        """Its flag, as it was raised last, which is not raised any more; None if it is not."""
        flag, listener.flag = listener.flag, None
        return flag

    def all(self, name: str = ALL) -> Iterable[Listener]:
        """Those for one name, or for all, by name, and by when they came."""
        names = sorted(self._by_name) if name == ALL else [name]
        return (listener for each in names for listener in self._by_name.get(each, ()))
