"""Who wants which subjects: patterns by their tokens, so that a message looks only at those that can fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from ipcd_client.primitives.subjects import ANY, REST

T = TypeVar("T")


class _Branch(Generic[T]):
    __slots__ = ("branches", "here")

    def __init__(self) -> None:
        self.branches: dict[str, _Branch[T]] = {}
        self.here: dict[T, None] = {}  # in the order in which they came


class Trie(Generic[T]):
    """Patterns (`ipcd_client.primitives.subjects`), each with those who want it."""

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()

    def add(self, pattern: str, item: T) -> None:
        """It wants this."""
        branch = self._root
        for token in pattern.split("."):
            branch = branch.branches.setdefault(token, _Branch())
        branch.here[item] = None

    def remove(self, pattern: str, item: T) -> None:
        """It wants this no more."""
        way = [self._root]
        tokens = pattern.split(".")
        for token in tokens:
            way.append(way[-1].branches[token])
        del way[-1].here[item]
        for index in range(len(tokens) - 1, -1, -1):
            branch = way[index + 1]
            if branch.branches or branch.here:
                break
            del way[index].branches[tokens[index]]

    def match(self, subject: str) -> Iterator[T]:
        """All who want a subject. It must not be changed meanwhile."""
        return _match(self._root, subject.split("."), 0)

    @property
    def empty(self) -> bool:
        """Nobody wants anything."""
        return not self._root.branches


def _match(branch: _Branch[T], tokens: list[str], index: int) -> Iterator[T]:
    if index == len(tokens):
        yield from branch.here
        return
    for token in (tokens[index], ANY):
        further = branch.branches.get(token)
        if further is not None:
            yield from _match(further, tokens, index + 1)
    rest = branch.branches.get(REST)
    if rest is not None:
        yield from rest.here
