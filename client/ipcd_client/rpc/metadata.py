"""Metadata as grpc users see it: tuples of `(key, value)` namedtuples, and the rules for keys and values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.frame.codec import ENTRY_COST

_KEY: Final = re.compile(r"[0-9a-z_.-]+\Z")

# The one key of gRPC's own that programs set, by grpcio-status and its like.
_STATUS_DETAILS: Final = "grpc-status-details-bin"
# They describe one HTTP/2 connection, or are made anew from what the call has: its deadline, status and method.
_OF_A_HOP: Final = frozenset({"te", "content-type", "content-length", "host", "connection"})


class Metadatum(NamedTuple):
    """One entry. Values of keys ending in -bin are bytes, others text."""

    key: str
    value: str | bytes


Metadata = tuple[Metadatum, ...]
EMPTY: Final[Metadata] = ()


class InvalidMetadata(IpcdError):
    """A key or value that gRPC does not allow: the call fails INTERNAL."""


def received(entries: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """What came over a wire, as users see it."""
    return tuple([Metadatum(key, value) for key, value in entries])


def travels(key: str) -> bool:
    """Whether an entry is the programs' own, so that who makes a call again somewhere else passes it on."""
    return key == _STATUS_DETAILS or not (key.startswith(("grpc-", ":")) or key in _OF_A_HOP)


def checked(
    entries: Iterable[tuple[str | bytes, str | bytes]] | None, limit: int
) -> tuple[tuple[str, str | bytes], ...]:
    """What a user gave, fit to be sent. `limit` bounds the sum of keys and values, and 32 for each entry, in
    bytes.

    Raises:
        TypeError: a key or value that is no text, or text for a -bin key; as grpcio does.
        InvalidMetadata: a key that is not lower-case ASCII letters, digits, `_`, `.`, `-`; a value with
            control or non-ASCII characters.
        UsageError: over the limit.
    """
    if not entries:
        return ()
    result = [_converted(key, value) for key, value in entries]
    total = 0
    for key, value in result:
        if not _KEY.match(key):
            raise InvalidMetadata(f"metadata was invalid: key {key!r} is not made of a-z 0-9 _ . -")
        if isinstance(value, str) and not (value.isascii() and (value.isprintable() or not value)):
            raise InvalidMetadata(
                f"metadata was invalid: the value of {key!r} has other than printable ASCII characters"
            )
        total += len(key) + len(value) + ENTRY_COST
    if total > limit:
        raise UsageError(f"metadata of {total} bytes, the limit is {limit}")
    return tuple(result)


def _converted(key: object, value: object) -> tuple[str, str | bytes]:
    """Text from bytes, and from None, as grpcio makes it."""
    key = _text(key)
    if not key.endswith("-bin"):
        return key, _text(value)
    if not isinstance(value, bytes):
        raise TypeError(f"the value of {key!r} has to be bytes, not {type(value).__name__}")
    return key, value


def _text(given: object) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, bytes):
        return given.decode("latin-1")
    if given is None:
        return ""
    raise TypeError(f"metadata has to be text or bytes, not {type(given).__name__}")
