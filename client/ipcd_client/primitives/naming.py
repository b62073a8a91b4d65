"""Names of named things: `NAME`, or `NAME@NODE` for the one that this node keeps. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ipcd_client.primitives.errors import BadRequest

# Bytes of a name without its node.
MOST: Final = 128
_NODE_MOST: Final = 255
# How the names of things without a name begin: only who was told one can use it.
UNNAMED: Final = "unnamed."


# Each call of a handle has its thing's name, so most have been seen; they are short, and errors are not kept.
@lru_cache(maxsize=1024)
def parse(kind: str, text: str) -> tuple[str, str]:
    """The name and the node, which is empty where none is said.

    Raises:
        BadRequest: it is empty, too long, or has a space, a slash, an @ or what cannot be printed.
    """
    name, at, node = text.partition("@")
    # First of all: what is said of the others has the text in it.
    if len(name.encode("utf-8", "replace")) > MOST or len(node) > _NODE_MOST:
        raise BadRequest(f"the name of a {kind} has at most {MOST} bytes, and that of a node {_NODE_MOST} characters")
    if not name or (at and not node):
        raise BadRequest(f"{text!r} is no name of a {kind}: one is NAME, or NAME@NODE")
    for part in (name, node):
        if not part.isprintable() or any(c in part for c in " /@"):
            raise BadRequest(f"the name of a {kind} has a space, a slash or an unprintable character: {text!r}")
    return name, node


def is_unnamed(name: str) -> bool:
    """Whether a name, without its node, is that of a thing without a name: no list shows it, and no node claims it."""
    return name.startswith(UNNAMED)
