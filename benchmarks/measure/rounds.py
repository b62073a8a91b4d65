"""Turns that are taken one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmarks.stage import Entry, one_line
from ipcd.demo.processes import StageError

Step = Callable[[str], None]  # one turn is done; what it gave

T = TypeVar("T")


def rotated(items: Sequence[T], number: int) -> list[T]:
    """The same, begun with another one each time."""
    first = number % len(items) if items else 0
    return [*items[first:], *items[:first]]


def interleave(
    entries: Sequence[Entry], rounds: int, turn: Callable[[Entry, int], str], step: Step, *, cold: bool = True
) -> None:
    """`turn` for each entry, `rounds` times; it is told the number of the round, and gives what is told of it.

    With `cold`, a round of number -1 comes before: connections and caches are cold, what it gives is to be thrown away.
    Who fails is left out of what follows, with the reason kept.
    """
    for number in range(-1 if cold else 0, rounds):
        for entry in rotated(entries, max(0, number)):
            if entry.missing:
                step("")
                continue
            try:
                told = turn(entry, number)
            except StageError as error:
                entry.fail(one_line(error))
                told = entry.missing
            step(f"{entry.peer.label}: {told}")
