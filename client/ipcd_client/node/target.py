"""Channel targets: `ipcd:[//NODE]/[SERVER]`."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from ipcd_client.errors import ConfigError

# The node's own API, instead of a server's services.
NODE_API = "ipcd-node:"


class Target(NamedTuple):
    """Which servers a channel may use. Empty means any."""

    node: str
    server: str


def parse(target: str) -> Target:
    """Takes `ipcd:`, `ipcd://b`, `ipcd:///canary`, `ipcd://b/canary`.

    Raises:
        ConfigError: it is none of these.
    """
    scheme, colon, rest = target.partition(":")
    if scheme != "ipcd" or not colon:
        raise ConfigError(f"target {target!r}: not of the form ipcd:[//NODE]/[SERVER]")
    node = server = ""
    if rest.startswith("//"):
        node, _, server = rest[2:].partition("/")
    elif rest.startswith("/"):
        server = rest[1:]
    elif rest:
        raise ConfigError(f"target {target!r}: after 'ipcd:' comes //NODE or /SERVER")
    if "/" in server:
        raise ConfigError(f"target {target!r}: a server's name has no '/'")
    return Target(unquote(node), unquote(server))
