"""Channel and server options: grpcio's names, as far as they mean something here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ipcd_client.errors import ConfigError
from ipcd_client.frame.settings import Settings

MAX_WEIGHT: Final = 1000
MAX_SPILLOVER: Final = 1_000_000
MAX_SPREAD: Final = 256


@dataclass(frozen=True, slots=True)
class Options:
    """Limits in bytes; -1 for none. Unknown options are accepted, as grpcio accepts them.

    `service_config`: its text. `retry_buffer`: how much of a call is kept for another attempt, in bytes.
    """

    max_receive: int = 4 << 20
    max_send: int = -1
    max_metadata: int = 16 << 10
    max_streams: int = 16384
    service_config: str | bytes | None = None
    retries: bool = True
    retry_buffer: int = 256 << 10
    # Of a server: its share of the calls, and the calls in flight from which on a channel uses other nodes too.
    weight: int = 1
    spillover: int = 0
    # Of a channel: servers of one service that share its calls.
    spread: int = 8

    @classmethod
    def parse(cls, options: Iterable[tuple[str, Any]] | None) -> Options:
        """Takes a list of (name, value).

        Raises:
            ConfigError: one of ipcd's own is not in its range.
        """
        given = dict(options or ())
        default = cls()
        return cls(
            max_receive=int(given.get("grpc.max_receive_message_length", default.max_receive)),
            max_send=int(given.get("grpc.max_send_message_length", default.max_send)),
            max_metadata=int(given.get("grpc.max_metadata_size", default.max_metadata)),
            max_streams=int(given.get("grpc.max_concurrent_streams", default.max_streams)),
            service_config=given.get("grpc.service_config"),
            retries=bool(given.get("grpc.enable_retries", default.retries)),
            retry_buffer=int(given.get("grpc.per_rpc_retry_buffer_size", default.retry_buffer)),
            weight=_within("ipcd.weight", given, default.weight, 0, MAX_WEIGHT),
            spillover=_within("ipcd.spillover", given, default.spillover, 0, MAX_SPILLOVER),
            spread=_within("ipcd.spread", given, default.spread, 1, MAX_SPREAD),
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


def _within(name: str, given: Mapping[str, Any], default: int, least: int, most: int) -> int:
    value = given.get(name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"option {name}={value!r}: must be an integer from {least} to {most}")
    return value
