"""All targets: importing a module registers those that are in it."""

from __future__ import annotations

from fuzz import (
    announcements,
    clients,
    commands,
    connections,
    daemon,
    descriptions,
    frames,
    holding,
    memory,
    pipes,
    queues,
    texts,
    topics,
    values,
    wires,
)
from fuzz.registry import TARGETS

MODULES = (
    announcements,
    clients,
    commands,
    connections,
    daemon,
    descriptions,
    frames,
    holding,
    memory,
    pipes,
    queues,
    texts,
    topics,
    values,
    wires,
)

__all__ = ["MODULES", "TARGETS"]
