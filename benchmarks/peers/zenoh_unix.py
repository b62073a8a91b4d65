"""zenoh, peer to peer over a UNIX socket: querier and queryable; publisher and subscriber for streams.

Its shared memory is as its defaults have it: large payloads go through it by themselves.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import zenoh

from benchmarks.peers import pairs
from benchmarks.peers.base import PATIENCE, Place, Sustained, Taken
from benchmarks.peers.plain import PlainClient
from benchmarks.peers.sustaining import oldest_first

_ECHO, _UP, _DOWN = "bench/echo", "bench/up", "bench/down"
# Nothing dropped, nothing gathered into larger pieces: a caller waits for each.
_PROMPT: Any = {"express": True, "congestion_control": zenoh.CongestionControl.BLOCK}


class _Session:
    def __init__(self, endpoint: str, role: str) -> None:
        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", "false")
        for one in ("listen", "connect"):
            config.insert_json5(f"{one}/endpoints", json.dumps([endpoint] if one == role else []))
        self.session: Any = zenoh.open(config)

    def close(self) -> None:
        """Ends the session, and removes what zenoh leaves in /dev/shm at the end of a process."""
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        left = {line.split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line and ".zenoh" in line}
        self.session.close()
        for path in left:
            Path(path.removesuffix(" (deleted)")).unlink(missing_ok=True)


class _Streams:
    """Whole messages to the other side and from it."""

    def __init__(self, session: Any, out: str, back: str) -> None:
        # Subscribed to first: what is published before that is known over there is lost.
        self._subscriber: Any = session.declare_subscriber(back)
        # Streams may be gathered: nobody waits for a single message.
        self._publisher: Any = session.declare_publisher(out, congestion_control=zenoh.CongestionControl.BLOCK)
        self.send = self._publisher.put

    def receive(self) -> bytes:
        payload: bytes = self._subscriber.recv().payload.to_bytes()
        return payload

    def wait_for_reader(self) -> None:
        until = time.monotonic() + PATIENCE
        while not self._publisher.matching_status.matching:
            if time.monotonic() > until:
                raise TimeoutError("the server does not subscribe")
            time.sleep(0.01)


class _Server(_Session):
    def __init__(self, place: Place) -> None:
        self.address = f"unixsock-stream/{place.path('zenoh')}"
        super().__init__(self.address, "listen")
        self._queryable = self.session.declare_queryable(_ECHO, _echo)
        self._streams = _Streams(self.session, _DOWN, _UP)
        threading.Thread(target=self._serve_streams, daemon=True).start()

    def _serve_streams(self) -> None:
        while True:
            try:
                pairs.answer(self._streams.send, self._streams.receive)
            except zenoh.ZError:  # the session is closed
                return


def _echo(query: Any) -> None:
    query.reply(_ECHO, query.payload, express=True)


class _Client(_Session, PlainClient):
    def __init__(self, place: Place) -> None:
        super().__init__(place.address, "connect")
        self.taken = Taken(place.socket, "unixsock-stream")
        self._querier: Any = self.session.declare_querier(
            _ECHO, consolidation=zenoh.ConsolidationMode.NONE, timeout=PATIENCE, **_PROMPT
        )
        until = time.monotonic() + PATIENCE
        while not self._querier.matching_status.matching:
            if time.monotonic() > until:
                raise TimeoutError("the server's queryable is not seen")
            time.sleep(0.01)

    def call(self, request: bytes) -> Any:
        return self._querier.get(payload=request).recv().ok.payload.to_bytes()

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        get = self._querier.get
        return oldest_first(
            lambda: get(payload=request),
            lambda replies: len(replies.recv().ok.payload.to_bytes()),
            in_flight,
            seconds,
            size,
        )

    def _open_streams(self) -> tuple[pairs.Send, pairs.Receive]:
        streams = _Streams(self.session, _UP, _DOWN)
        streams.wait_for_reader()
        time.sleep(0.1)  # the other way is declared at the same time, but nothing here says when it has arrived
        return streams.send, streams.receive


def serve(place: Place) -> _Server:
    """See `benchmarks.peers.base`."""
    return _Server(place)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
