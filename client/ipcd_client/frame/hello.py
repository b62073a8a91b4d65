"""The HELLO's payload: our limits, and what both ends agree on. proto/FRAME.md section 4."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from ipcd_client.errors import ConfigError, ProtocolError
from ipcd_client.frame.settings import MAX_HELLO, MAX_SOFTWARE, MAX_U32, MAX_VERSION, MIN_VERSION, Settings
from ipcd_client.frame.window import COST, MAX_WINDOW
from ipcd_client.pb.ipcd.v1 import wire_pb2


def compose(settings: Settings) -> bytes:
    """What we tell the peer.

    Raises:
        ConfigError: a limit that no peer would accept.
    """
    if not MAX_HELLO <= settings.max_frame <= MAX_U32:
        raise ConfigError(f"max_frame is {settings.max_frame}, not from {MAX_HELLO} to {MAX_U32} bytes")
    if not COST <= settings.initial_window <= MAX_WINDOW:
        raise ConfigError(f"initial_window is {settings.initial_window}, not from {COST} to {MAX_WINDOW} bytes")
    if not 0 <= settings.max_streams <= MAX_U32:
        raise ConfigError(f"max_streams is {settings.max_streams}, not from 0 to {MAX_U32}")
    message = wire_pb2.Hello(
        min_version=MIN_VERSION,
        max_version=MAX_VERSION,
        max_frame=settings.max_frame,
        initial_window=settings.initial_window,
        max_streams=settings.max_streams if settings.accept_calls else 0,
        software=settings.software[:MAX_SOFTWARE],
    )
    return message.SerializeToString()


def agree(payload: bytes) -> tuple[int, Settings]:
    """The version to speak, and the peer's limits.

    Raises:
        ProtocolError: `bad-hello`, `no-common-version`.
    """
    if len(payload) > MAX_HELLO:
        raise ProtocolError("bad-hello", f"HELLO of {len(payload)} bytes, the limit is {MAX_HELLO}")
    try:
        hello = wire_pb2.Hello.FromString(payload)
    except DecodeError as error:
        raise ProtocolError("bad-hello", f"HELLO does not parse: {error}") from None
    version = min(hello.max_version, MAX_VERSION)
    if version < max(hello.min_version, MIN_VERSION):
        raise ProtocolError(
            "no-common-version",
            f"the peer speaks {hello.min_version} to {hello.max_version}, this side {MIN_VERSION} to {MAX_VERSION}",
        )
    if hello.max_frame < MAX_HELLO or not COST <= hello.initial_window <= MAX_WINDOW:
        raise ProtocolError("bad-hello", f"max_frame {hello.max_frame}, initial_window {hello.initial_window}")
    limits = Settings(
        max_frame=hello.max_frame,
        initial_window=hello.initial_window,
        max_streams=hello.max_streams,
        software=hello.software[:MAX_SOFTWARE],
    )
    return version, limits
