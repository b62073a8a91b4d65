"""Handles without a node, whose thing is removed, and made on another node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ipcd_client
import pytest
from integration.daemons import Daemon, eventually
from ipcd_client.primitives.errors import NoSuchName
from primitives.faces import FACES, handles
from primitives.roads import Cluster, Road


class Kind(NamedTuple):
    """`look` fails where there is none. `keywords`: of a handle that is to make one."""

    make: Callable[[Any], Any]
    look: Callable[[Any], Any]
    remove: Callable[[Any], Any]
    keywords: dict[str, Any]


KINDS = {
    "queue": Kind(lambda queue: queue.create(), lambda queue: queue.stat(), lambda queue: queue.remove(), {}),
    # Its session may not have ended yet.
    "lock": Kind(
        lambda lock: lock.acquire().release(), lambda lock: lock.look(), lambda lock: lock.remove(force=True), {}
    ),
    "semaphore": Kind(
        lambda semaphore: semaphore.make(),
        lambda semaphore: semaphore.get_value(),
        lambda semaphore: semaphore.remove(),
        {"value": 2},
    ),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_follows_what_is_made_elsewhere_later(kind: str, face: str, cluster: Cluster) -> None:
    make, look, remove, keywords = KINDS[kind]
    name = f"moving.{face}"

    @contextmanager
    def made(node: Daemon) -> Iterator[None]:
        handle = getattr(ipcd_client, kind)(f"{name}@{node.node}", node=node.socket, **keywords)
        make(handle)
        yield
        remove(handle)
        handle.close()

    def seen(handle: Any) -> bool:
        with suppress(NoSuchName):
            look(handle)
            return True
        return False

    with handles(face, Road("here", cluster, ""), name, f"{name}@b", kind=kind) as (free, bound):
        assert not seen(free)
        with made(cluster.back):
            eventually(lambda: seen(free), "it is found on the other node")
        eventually(lambda: not seen(free), "it is gone")
        with made(cluster.front):
            eventually(lambda: seen(free), "it is found on the own node")
            # Whoever says which node means no other's.
            assert not seen(bound)
