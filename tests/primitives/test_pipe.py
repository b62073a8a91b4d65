"""Pipes over every road."""

from __future__ import annotations

import threading

import ipcd_client
from primitives.roads import Road


def test_bytes_in_order_then_the_end_of_the_file(road: Road) -> None:
    name = road.name("jobs")
    data = b"".join(b"%d\n" % number for number in range(200_000))

    def write() -> None:
        with ipcd_client.pipe(name, **road.keywords).open_write(wait=20) as writer:
            writer.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with ipcd_client.pipe(name, **road.keywords).open_read(wait=20) as reader:
        assert reader.read() == data
    thread.join()
