"""Who holds how much of what, and who asks how often. Pure: time is an argument.

An owner is a list of keys, from the narrowest to the widest: a process and its user, or a node and its host, or all of
a process, its user and its node. What it takes counts for each of them, so that one process cannot use up what is its
user's, nor one user what there is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from ipcd import limits

# Keys whose rate is remembered. Beyond, the one that asked longest ago is forgotten, and begins anew.
REMEMBERED: Final = 8192


class Key(NamedTuple):
    """Of what kind an owner is ("process"), and which one ("pid 7")."""

    kind: str
    name: str


Owner = tuple[Key, ...]


def local(uid: int, pid: int, pidfd_id: int = 0) -> Owner:
    """A process of this machine. One that the kernel does not show us here has the pid 0; without a pidfd either, it
    has only its user's share."""
    user = Key("uid", f"uid {uid}")
    if not pid:
        return (Key("process", f"pidfd {pidfd_id}"), user) if pidfd_id else (user,)
    return (Key("process", f"pid {pid}"), user)


def host(name: str) -> Owner:
    """Whoever comes over TCP from there, and has not said who it is."""
    return (Key("host", name),)


def node(remote: str) -> Owner:
    """A node at the other end of a connection, by its HOST:PORT."""
    return (Key("node", remote), Key("host", remote.rpartition(":")[0]))


def remote(name: str, uid: int, pid: int, pidfd_id: int = 0) -> Owner:
    """A process of the node of that name, as that one says: it may have as much as one of this machine, and all of its
    node together as much as a node."""
    return (*(Key(kind, f"{whose} of node {name}") for kind, whose in local(uid, pid, pidfd_id)), Key("node", name))


class Shares:
    """How much of one thing is held. `what` names it; `most` in all; `each` of one owner, by the owner's kind."""

    def __init__(self, what: str, most: int, each: limits.Each) -> None:
        self.used = 0
        self._what = what
        self._most = most
        self._each = each
        self._held: dict[Key, int] = {}
        self._first: dict[Key, int] = {}  # of owners' narrowest keys

    def held(self, key: Key) -> int:
        """Of one key."""
        return self._held.get(key, 0)

    def check(self, owner: Owner, amount: int = 1) -> None:
        """Whether so much more may be taken.

        Raises:
            LimitReached: with the limit's name and number, and whose it is.
        """
        for key in owner:
            limit = self._each.get(key.kind)
            if limit is not None and self._held.get(key, 0) + amount > limit:
                raise limits.LimitReached(
                    f"the limit of {limit} {self._what} of one {key.kind} is reached ({key.name})"
                )
        if self.used + amount > self._most:
            raise limits.LimitReached(f"the limit of {self._most} {self._what} is reached")

    def full(self, owner: Owner) -> set[Key]:
        """Those of an owner's keys that may have no more."""
        return {key for key in owner if self._held.get(key, 0) >= self._each.get(key.kind, self._most)}

    def take(self, owner: Owner, amount: int = 1) -> None:
        """Takes so much more.

        Raises:
            LimitReached: as `check`; nothing was taken.
        """
        self.check(owner, amount)
        self.used += amount
        for key in owner:
            self._held[key] = self._held.get(key, 0) + amount
        for key in owner[:1]:
            self._first[key] = self._first.get(key, 0) + amount

    def give(self, owner: Owner, amount: int = 1) -> None:
        """Gives so much back, of what was taken."""
        if not amount:
            return
        self.used -= amount
        for table, keys in ((self._held, owner), (self._first, owner[:1])):
            for key in keys:
                table[key] -= amount
                if not table[key]:
                    del table[key]

    def is_largest(self, owner: Owner) -> bool:
        """Nobody holds more than this one, as far as owners are told apart."""
        return self._first.get(owner[0], 0) >= max(self._first.values(), default=0)


class Part:
    """What one connection holds of a share, as it changes."""

    __slots__ = ("_owner", "_shares", "amount")

    def __init__(self, shares: Shares, owner: Owner) -> None:
        self.amount = 0
        self._shares = shares
        self._owner = owner

    def set(self, amount: int) -> None:
        """It holds so much now.

        Raises:
            LimitReached: that is more than it may; what it holds stays as it was.
        """
        if amount > self.amount:
            self._shares.take(self._owner, amount - self.amount)
        elif amount < self.amount:
            self._shares.give(self._owner, self.amount - amount)
        self.amount = amount


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rate:
    """How often each owner may do something: `burst` times at once, and `per_second` times in the long run, by the
    owner's kind. `what` names it."""

    def __init__(self, what: str, each: Mapping[str, tuple[float, float]], keys: int = REMEMBERED) -> None:
        self._what = what
        self._each = each
        self._keys = keys
        # The one that asked longest ago comes first.
        self._buckets: OrderedDict[Key, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def check(self, owner: Owner, now: float) -> None:
        """Does it once.

        Raises:
            LimitReached: too often; it does not count.
        """
        buckets = list(self._filled(owner, now))
        for key, bucket in buckets:
            if bucket.tokens < 1:
                per_second, burst = self._each[key.kind]
                raise limits.LimitReached(
                    f"the limit of {per_second:g} {self._what} a second, {burst:g} at once, of one {key.kind} "
                    f"is reached ({key.name})"
                )
        for _, bucket in buckets:
            bucket.tokens -= 1

    def wait(self, owner: Owner, now: float, amount: float) -> float:
        """Does it `amount` times, whatever is left: seconds for which the owner then has to wait."""
        longest = 0.0
        for key, bucket in self._filled(owner, now):
            bucket.tokens -= amount
            if bucket.tokens < 0:
                longest = max(longest, -bucket.tokens / self._each[key.kind][0])
        return longest

    def _filled(self, owner: Owner, now: float) -> Iterable[tuple[Key, _Bucket]]:
        for key in owner:
            rate = self._each.get(key.kind)
            if rate is None:
                continue
            per_second, burst = rate
            bucket = self._buckets.get(key)
            if bucket is None:
                while len(self._buckets) >= self._keys:
                    self._buckets.popitem(last=False)
                bucket = self._buckets[key] = _Bucket(burst, now)
            else:
                self._buckets.move_to_end(key)
                bucket.tokens = min(burst, bucket.tokens + (now - bucket.at) * per_second)
                bucket.at = now
            yield key, bucket


@dataclass(slots=True)
class _Told:
    tokens: float
    at: float
    left_out: int = 0
    since: float = 0.0  # of the first that was left out
    level: int = 0


class Lines:
    """Which lines of a log are written, and how many like them were not. `per_second` and `burst` of one subject."""

    def __init__(self, per_second: float, burst: float, keys: int = REMEMBERED) -> None:
        self._per_second = per_second
        self._burst = burst
        self._keys = keys
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()
        self._quiet: dict[tuple[str, str], _Told] = {}  # those of which some were left out

    @property
    def waiting(self) -> bool:
        """There are some whose number was not told."""
        return bool(self._quiet)

    def allow(self, event: str, subject: str, level: int, now: float) -> bool:
        """Whether to write a line of that event about that subject."""
        key = (event, subject)
        told = self._told.get(key)
        if told is None:
            while len(self._told) >= self._keys:
                # Not one whose number is still to be told, unless there are no others.
                old = next((one for one in self._told if one not in self._quiet), next(iter(self._told)))
                del self._told[old]
                self._quiet.pop(old, None)
            told = self._told[key] = _Told(self._burst, now)
        else:
            self._told.move_to_end(key)
            told.tokens = min(self._burst, told.tokens + (now - told.at) * self._per_second)
            told.at = now
        if told.tokens >= 1:
            told.tokens -= 1
            return True
        if not told.left_out:
            told.since = now
            self._quiet[key] = told
        told.left_out += 1
        told.level = max(told.level, level)
        return False

    def over(self, now: float, age: float) -> list[tuple[str, str, int, int]]:
        """Event, subject, how many were left out and their level, of those where that began `age` seconds ago. They
        are told with this."""
        due = [key for key, told in self._quiet.items() if now - told.since >= age]
        result = []
        for key in due:
            told = self._quiet.pop(key)
            result.append((*key, told.left_out, told.level))
            told.left_out = told.level = 0
        return result
