"""The attempts of calls that a retry policy allows: gRPC's proposal A6, as grpcio carries it out.

Pure: time is not looked at, and chance is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc

from ipcd_client.frame.codec import ENTRY_COST
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.service_config import RetryPolicy, Throttling

# What the server is told: how many attempts there were before.
PREVIOUS: Final = "grpc-previous-rpc-attempts"
# What a server answers with: milliseconds until the next attempt; anything that is no such number for "not again".
PUSHBACK: Final = "grpc-retry-pushback-ms"

# Requests of a call that the server has not answered yet are kept, in case that it refuses the call: as many bytes.
KEPT_MOST: Final = 64 << 10

# A pause is shorter or longer by as much, as a part of it.
_JITTER: Final = 0.2
_PUSHBACK_MOST: Final = (1 << 63) - 1
_TOKEN: Final = 1000  # thousandths

Entries = tuple[tuple[str, str | bytes], ...]


class Throttle:
    """Tokens, which failures take and successes give back. While half of them are gone, nothing is tried again."""

    def __init__(self, throttling: Throttling) -> None:
        self._most = throttling.max_tokens
        self._ratio = throttling.token_ratio
        self._tokens = throttling.max_tokens

    def failed(self) -> bool:
        """An attempt has failed. Whether another one may be made."""
        self._tokens = max(0, self._tokens - _TOKEN)
        return self._tokens > self._most // 2

    def succeeded(self) -> None:
        """An attempt has ended well."""
        self._tokens = min(self._most, self._tokens + self._ratio)


class Retries:
    """The attempts of one call. `buffer`: how many bytes of it are kept at most, so that they can be sent again."""

    def __init__(self, policy: RetryPolicy, throttle: Throttle | None, buffer: int) -> None:
        self.previous = 0  # attempts that have ended
        self.committed = False  # to the attempt under way
        self._policy = policy
        self._throttle = throttle
        self._buffer = buffer
        self._backoff = policy.initial_backoff

    def holds(self, size: int) -> bool:
        """Whether that many bytes of the call can be kept. If not, there is no further attempt."""
        self.committed = self.committed or size > self._buffer
        return not self.committed

    def metadata(self, entries: Entries) -> Entries:
        """The call's, for the attempt to come."""
        return (*entries, (PREVIOUS, str(self.previous))) if self.previous else entries

    def after(self, call: ClientCall, chance: float) -> float | None:
        """Seconds until the next attempt, after one that has ended; None if there is none. `chance`: from 0 up to,
        not including, 1."""
        if call.code is grpc.StatusCode.OK:
            if self._throttle is not None:
                self._throttle.succeeded()
            return None
        # Nobody but this side has ended it.
        here = call.cut and call.code is grpc.StatusCode.CANCELLED
        if call.code not in self._policy.codes or here:
            return None
        allowed = self._throttle is None or self._throttle.failed()
        if not allowed or self.committed or call.responded:
            return None
        self.previous += 1
        if self.previous >= self._policy.attempts:
            return None
        pushback = pushed_back(call.trailing_metadata)
        if pushback is None:
            return self._pause(chance)
        self._backoff = self._policy.initial_backoff
        return None if pushback < 0 else pushback / 1000

    def _pause(self, chance: float) -> float:
        policy = self._policy
        pause = min(self._backoff, policy.max_backoff)
        self._backoff = min(self._backoff * policy.multiplier, policy.max_backoff)
        return pause * (1 - _JITTER + 2 * _JITTER * chance)


class Restarts:
    """Whether a call that has ended is started again: if no handler has seen it, whatever a policy says, up to
    `attempts` starts; or as the policy says."""

    def __init__(self, attempts: int, retries: Retries | None = None) -> None:
        self.retries = retries
        self._attempts = attempts

    def metadata(self, entries: Entries) -> Entries:
        """The call's, for the start to come."""
        return entries if self.retries is None else self.retries.metadata(entries)

    def after(self, call: ClientCall, chance: float, *, replayable: bool) -> float | None:
        """Seconds until the next start, after one that has ended; None if there is none. `replayable`: its requests
        can be sent again. `chance`: from 0 up to, not including, 1."""
        if call.refused and call.code is grpc.StatusCode.UNAVAILABLE:
            self._attempts -= 1
            if self._attempts > 0 and replayable:
                return 0.0
        retries = self.retries
        if retries is None:
            return None
        retries.committed = retries.committed or not replayable
        pause = retries.after(call, chance)
        if pause is None:
            self.retries = None  # each attempt counts once
        return pause


class Kept:
    """The streamed requests of a call, kept while it may be started again: until the server has answered anything, or
    they are more than `most` bytes. From then on the call is not `replayable`. `ended`: there are no others."""

    def __init__(self, most: int) -> None:
        self.replayable = True
        self.requests: list[bytes] = []
        self.ended = False
        self._most = most
        self._size = 0

    def add(self, request: bytes, call: ClientCall) -> None:
        """Before it is sent."""
        if not self.replayable:
            return
        self._size += len(request)
        if self._size > self._most or (call.initial_metadata is not None and call.code is None):
            self.replayable = False
            self.requests = []
        else:
            self.requests.append(request)


def pushed_back(trailing: md.Metadata) -> int | None:
    """Milliseconds that the server wants to have until the next attempt, below 0 for none at all; None if it does not
    say."""
    said = [value for key, value in trailing if key == PUSHBACK]
    if not said:
        return None
    try:
        pushback = int(said[-1])
    except ValueError:
        return -1
    return pushback if -_PUSHBACK_MOST <= pushback <= _PUSHBACK_MOST else -1


def without_previous(entries: Entries) -> Entries:
    """A program cannot say how many attempts there were."""
    return tuple([entry for entry in entries if entry[0] != PREVIOUS])


def cost(method: str, entries: Iterable[tuple[str, str | bytes]]) -> int:
    """Bytes that a call takes in the buffer, but for its messages."""
    return len(method) + ENTRY_COST + sum(len(key) + len(value) + ENTRY_COST for key, value in entries)
