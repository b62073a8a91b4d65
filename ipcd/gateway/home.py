"""Calls of primitives through the gateway: to the node that keeps the thing that their first request names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import names_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Home:
    """`target` gives where a call goes, for its first request, in bytes, and for what the caller has said itself.
    `identity`: for whom the gateway calls. `withheld` gives what this node's rules do not let that do with the thing
    that the request names: another node, which keeps it, has rules of its own, and is told. `about` gives its name,
    where this node's rules do not treat all names the same; empty where they do."""

    target: Callable[[bytes, Target], Target]
    identity: str
    withheld: Callable[[bytes], Sequence[str]] = lambda _request: ()
    about: Callable[[bytes], str] = lambda _request: ""


def offered(request: bytes, said: Target) -> Target:
    """Of a command, which no node keeps: the server of its name.

    Raises:
        BadRequest: the request names none.
    """
    name, node = naming.parse("command", named(request))
    return Target(said.node or node, said.server or name)


def named(request: bytes) -> str:
    """The name in a request. In each request of a primitive it is the field 1, as it is the field 1 of NameOnly.

    Raises:
        BadRequest: there is none.
    """
    try:
        name = names_pb2.NameOnly.FromString(request).name
    except DecodeError as error:
        raise BadRequest(f"the request does not parse: {error}") from error
    if not name:
        raise BadRequest("the request has no name")
    return name
