"""Units taken and given back."""

from __future__ import annotations

import ipcd_client

from benchmarks.named.queued import pairs_a_second
from benchmarks.named.stage import Cue, Missing, Stage, play


def _ipcd(cue: Cue, node: str) -> float:
    with ipcd_client.semaphore("bench", 1, node=node) as semaphore:

        def once() -> None:
            semaphore.acquire(undo=False)
            semaphore.release()

        cue.ready()
        return pairs_a_second(once)


def ipcd(stage: Stage) -> float:
    return float(play((_ipcd, stage.a))[0])


def _posix(cue: Cue) -> float:
    try:
        import posix_ipc
    except ImportError as error:
        raise Missing(str(error)) from error
    semaphore = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=1)
    try:

        def once() -> None:
            semaphore.acquire()
            semaphore.release()

        cue.ready()
        return pairs_a_second(once)
    finally:
        semaphore.close()
        semaphore.unlink()


def posix(stage: Stage) -> float:  # noqa: ARG001
    return float(play((_posix,))[0])


def _redis(cue: Cue, port: int) -> float:
    try:
        import redis
    except ImportError as error:
        raise Missing(str(error)) from error
    with redis.Redis("127.0.0.1", port) as client:
        client.delete("units")
        client.rpush("units", b"1")

        def once() -> None:
            client.blpop(["units"], timeout=10)
            client.rpush("units", b"1")

        cue.ready()
        return pairs_a_second(once)


def redis(stage: Stage) -> float:
    return float(play((_redis, stage.needs("redis")))[0])
