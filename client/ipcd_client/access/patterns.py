"""Patterns of names and identities, compiled once. Pure.

`*` and `**` are all there is, so that the leftmost place where a piece fits is as good as any other: nothing is ever
tried again, and no text takes longer than its length times the pattern's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ipcd_client.access.identity import SCHEME

# Whether a text fits.
Name = Callable[[str], bool]
# Whether an identity fits, cut at its slashes by `cut`.
Who = Callable[[Sequence[str]], bool]

# Of named things, and of the ends of processes: what stands before the colon of a name, where there is one.
KINDS: Final = ("command", "exit", "lock", "pipe", "queue", "semaphore", "signal", "topic", "value")
ANY: Final = "*"
ANY_SEGMENTS: Final = "**"
# What `cut` leaves before the path: the cluster.
_CLUSTER: Final = 1
# None fits every segment; a text fits itself.
_Segment = str | Name | None


class BadPattern(ValueError):
    """A pattern that no identity or name could ever fit, and why."""


def name(pattern: str) -> Name:
    """Of names: `*` stands for any characters; case matters.

    Raises:
        BadPattern: it is empty, or has what no name has, or is of a kind that there is not.
    """
    if not pattern:
        raise BadPattern("it is empty")
    if not pattern.isprintable() or any(c in pattern for c in " /"):
        raise BadPattern("it has a space, a slash or an unprintable character, which no name has")
    kind, colon, thing = pattern.partition(":")
    if colon and ANY not in kind and kind not in KINDS:
        raise BadPattern(f"there is no kind {kind!r} of named things; there are {', '.join(KINDS)}")
    if colon and "@" in thing and kind != "exit":
        raise BadPattern("it says where the thing is: a rule holds for the name, on the node that it is a rule of")
    return _glob(pattern)


def who(pattern: str) -> Who:
    """Of identities, segment by segment: `*` stands for any characters within one, `**` for any number of segments,
    none included. What does not begin with spiffe:// is the path behind the cluster.

    Raises:
        BadPattern: it is empty, or could fit no identity.
    """
    whole = pattern.startswith(SCHEME)
    segments = pattern.removeprefix(SCHEME).split("/")
    if not pattern.isprintable() or " " in pattern:
        raise BadPattern("it has a space or an unprintable character, which no identity has")
    if "" in segments:
        raise BadPattern("it has an empty segment")
    for segment in segments:
        if ANY_SEGMENTS in segment and segment != ANY_SEGMENTS:
            raise BadPattern(f"** stands for whole segments, not for a part as in {segment!r}")
    path = segments[_CLUSTER if whole and segments[0] != ANY_SEGMENTS else 0 :]
    if not path:
        raise BadPattern("it ends behind the cluster, where no identity does")
    if path[0] != ANY_SEGMENTS and not _glob(path[0])("node"):
        raise BadPattern(
            f"an identity's path begins with node/, as in node/NAME/uid/1000, not with {path[0]!r}; "
            f"with the cluster it is {SCHEME}CLUSTER/node/NAME/uid/1000"
        )
    return _path(segments, 0 if whole else _CLUSTER)


def exactly(path: str) -> Who:
    """Of the one identity that has this path behind its cluster."""
    wanted = path.split("/")
    return lambda segments: segments[_CLUSTER:] == wanted


def cut(identity: str) -> Sequence[str]:
    """The segments of an identity: its cluster, then those of its path."""
    return identity.removeprefix(SCHEME).split("/")


def _glob(pattern: str) -> Name:
    head, *middle = pattern.split(ANY)
    if not middle:
        return pattern.__eq__
    tail = middle.pop()
    pieces = [piece for piece in middle if piece]
    shortest = len(head) + len(tail)
    if not shortest and not pieces:
        return lambda _: True
    if not tail and not pieces:
        return lambda text: text.startswith(head)

    def fits(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = len(head), len(text) - len(tail)
        for piece in pieces:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return fits


def _path(pattern: Sequence[str], begin: int) -> Who:
    """`begin`: the segment of the identity from which on the pattern holds."""
    blocks: list[list[_Segment]] = [[]]
    for segment in pattern:
        if segment == ANY_SEGMENTS:
            blocks.append([])
        else:
            blocks[-1].append(None if segment == ANY else _glob(segment) if ANY in segment else segment)
    head, *middle = blocks
    if not middle:
        return lambda segments: len(segments) == begin + len(head) and _fit(head, segments, begin)
    tail = middle.pop()
    shortest = begin + len(head) + len(tail)

    def fits(segments: Sequence[str]) -> bool:
        end = len(segments) - len(tail)
        if len(segments) < shortest or not _fit(head, segments, begin) or not _fit(tail, segments, end):
            return False
        at = begin + len(head)
        for block in middle:
            while at + len(block) <= end and not _fit(block, segments, at):
                at += 1
            at += len(block)
            if at > end:
                return False
        return True

    return fits


def _fit(block: Sequence[_Segment], segments: Sequence[str], at: int) -> bool:
    for wanted in block:
        if wanted is not None and not (segments[at] == wanted if isinstance(wanted, str) else wanted(segments[at])):
            return False
        at += 1
    return True
