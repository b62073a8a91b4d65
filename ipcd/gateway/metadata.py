"""Metadata between gRPC and our wires: what is passed on, what is ours, and what belongs to a single hop. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ipcd_client.errors import ConfigError
from ipcd_client.frame.codec import Metadata
from ipcd_client.node.target import Target, parse
from ipcd_client.rpc.metadata import travels

from ipcd.state.primitives import ABOUT, FOR, WITHHELD

# Pins a call as a channel's target does. Not passed on.
TARGET: Final = "ipcd-target"

_ANY: Final = Target("", "")


def inbound(entries: Iterable[tuple[str, str | bytes]]) -> tuple[Metadata, Target]:
    """What a server gets of a caller's metadata, and where the call is to go. `user-agent` is passed on, as a server of
    grpcio's has it too.

    Raises:
        ConfigError: the target is none, or there are two.
    """
    kept: list[tuple[str, str | bytes]] = []
    target: Target | None = None
    for key, value in entries:
        if key == TARGET:
            if target is not None:
                raise ConfigError(f"{TARGET} is given more than once")
            target = parse(str(value))
        # What the gateway says itself, nobody else says through it.
        elif travels(key) and key not in {FOR, WITHHELD, ABOUT}:
            kept.append((key, value))
    return tuple(kept), target or _ANY


def outbound(entries: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """What a caller gets of a server's initial or trailing metadata."""
    return tuple((key, value) for key, value in entries if travels(key))
