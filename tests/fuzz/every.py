"""All targets: importing a module registers those that are in it."""

from __future__ import annotations

from fuzz import announcements, clients, connections, daemon, descriptions, frames, memory, queues, texts, wires
from fuzz.registry import TARGETS

MODULES = (announcements, clients, connections, daemon, descriptions, frames, memory, queues, texts, wires)

__all__ = ["MODULES", "TARGETS"]
