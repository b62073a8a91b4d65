"""Channel and server options: grpcio's names, as far as they mean something here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ipcd_client.frame.settings import Settings


@dataclass(frozen=True, slots=True)
class Options:
    """Limits in bytes; -1 for none. Unknown options are accepted, as grpcio accepts them."""

    max_receive: int = 4 << 20
    max_send: int = -1
    max_metadata: int = 16 << 10
    max_streams: int = 16384

    @classmethod
    def parse(cls, options: Iterable[tuple[str, Any]] | None) -> Options:
        """Takes a list of (name, value)."""
        given = dict(options or ())
        default = cls()
        return cls(
            max_receive=int(given.get("grpc.max_receive_message_length", default.max_receive)),
            max_send=int(given.get("grpc.max_send_message_length", default.max_send)),
            max_metadata=int(given.get("grpc.max_metadata_size", default.max_metadata)),
            max_streams=int(given.get("grpc.max_concurrent_streams", default.max_streams)),
        )

    def settings(self, *, accept_calls: bool) -> Settings:
        """The limits of a connection."""
        return Settings(
            max_message=self.max_receive,
            max_metadata=self.max_metadata,
            max_streams=self.max_streams,
            accept_calls=accept_calls,
            software="ipcd-sdk",
        )
