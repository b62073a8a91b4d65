"""Many bytes, written once and read by several processes."""

from __future__ import annotations

import time

import ipcd_client

from benchmarks.named.stage import Cue, Missing, Stage, play

SIZE = 100_000_000
READERS = 4
PAGE = 4096


def _ipcd_reader(cue: Cue, node: str) -> float:
    with ipcd_client.value("bench", node=node) as value:
        cue.ready()
        seen = value.get()
        # Each page is looked at: what is mapped and not there yet would not count otherwise.
        assert sum(seen.data[::PAGE]) == 0
        assert len(seen.data) == SIZE
        return time.time()


def ipcd(stage: Stage) -> float:
    with ipcd_client.value("bench", node=stage.a) as value:
        data = bytes(SIZE)
        start = time.perf_counter()
        value.set(data)
        setting = time.perf_counter() - start
    return setting + _reading(play(*[(_timed, "_ipcd_reader", stage.a)] * READERS))


def _timed(cue: Cue, reader: str, argument: str | int) -> tuple[float, float]:
    begun: list[float] = []

    class Timed:
        def ready(self) -> None:
            cue.ready()
            begun.append(time.time())

    return begun[0] if (end := globals()[reader](Timed(), argument)) and begun else 0.0, end


def _reading(results: list[tuple[float, float]]) -> float:
    return max(end for _, end in results) - min(begin for begin, _ in results)


def _redis_reader(cue: Cue, port: int) -> float:
    import redis

    with redis.Redis("127.0.0.1", port) as client:
        cue.ready()
        data = client.get("bench")
        assert sum(data[::PAGE]) == 0
        assert len(data) == SIZE
        return time.time()


def redis(stage: Stage) -> float:
    port = stage.needs("redis")
    try:
        import redis as library
    except ImportError as error:
        raise Missing(str(error)) from error
    with library.Redis("127.0.0.1", port) as client:
        data = bytes(SIZE)
        start = time.perf_counter()
        client.set("bench", data)
        setting = time.perf_counter() - start
        try:
            return setting + _reading(play(*[(_timed, "_redis_reader", port)] * READERS))
        finally:
            client.delete("bench")
