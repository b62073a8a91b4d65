"""Subjects of topics: tokens with dots between them, such as `orders.eu.new`. Pure.

In a pattern, the token `*` stands for any one token, and `>` at the end for one or more.
"""

from __future__ import annotations

from typing import Final

from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest

KIND: Final = "topic"
ANY: Final = "*"
REST: Final = ">"


def pattern(text: str) -> str:
    """What stands before an @NODE, if it is a pattern. Every subject is one.

    Raises:
        BadRequest: it is none.
    """
    name, _ = naming.parse(KIND, text)
    tokens = name.split(".")
    for index, token in enumerate(tokens):
        if not token:
            raise BadRequest(f"a token of {name!r} is empty: a subject is tokens with dots between them")
        if token == REST and index < len(tokens) - 1:
            raise BadRequest(f"{REST} is not the last token of {name!r}")
        if token not in {ANY, REST} and (ANY in token or REST in token):
            raise BadRequest(f"{token!r} of {name!r} is no token: {ANY} and {REST} stand for whole tokens")
    return name


def subject(text: str) -> str:
    """The same, if it is a subject.

    Raises:
        BadRequest: it is none, or it is a pattern with wildcards.
    """
    name = pattern(text)
    if is_wild(name):
        raise BadRequest(f"{name!r} is a pattern, and a message has a subject: without {ANY} and {REST}")
    return name


def group(text: str) -> str:
    """The same text, if it is fit to name a group. It is as long as a name may be; the empty one is no group.

    Raises:
        BadRequest: it is not.
    """
    if len(text.encode("utf-8", "replace")) > naming.MOST or not text.isprintable():
        raise BadRequest(
            f"the name of a group has more than {naming.MOST} bytes, or unprintable characters: {text[:80]!r}"
        )
    return text


def is_wild(name: str) -> bool:
    """Whether a pattern has wildcards."""
    return ANY in name or REST in name


def matches(wanted: str, name: str) -> bool:
    """Whether a subject is one of those that a pattern stands for."""
    tokens = name.split(".")
    parts = wanted.split(".")
    if parts[-1] == REST:
        parts.pop()
        if len(tokens) <= len(parts):
            return False
        del tokens[len(parts) :]
    return len(parts) == len(tokens) and all(part in {ANY, token} for part, token in zip(parts, tokens, strict=True))
