"""Who somebody is, as text: `spiffe://CLUSTER/node/NODE`, and behind it `/uid/UID` or `/grpc`. Pure.

A process's is its node's word, which has it from the kernel; a node's is its certificate's, or its own word where there
is none; `/grpc` stands for everybody who comes over a node's plain gRPC port, of whom nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipcd_client.errors import ConfigError

if TYPE_CHECKING:
    from ipcd_client.pb.ipcd.v1 import node_pb2

SCHEME: Final = "spiffe://"
# Bytes: SPIFFE-ID.md, 2.3, "Maximum SPIFFE ID Length".
MOST: Final = 2048
# Of a user of the node where it is said: in the shell, not in rules.
SHORT: Final = "uid:"
_NO_UID: Final = 0xFFFF_FFFF  # (uid_t) -1


class BadIdentity(ConfigError):
    """A text is no identity. The error's text says what one looks like."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The parts. A node itself has neither `uid` nor `grpc`."""

    cluster: str
    node: str
    uid: int | None = None
    grpc: bool = False

    def __str__(self) -> str:
        node = of_node(self.cluster, self.node)
        return f"{node}/grpc" if self.grpc else node if self.uid is None else f"{node}/uid/{self.uid}"


def of_node(cluster: str, node: str) -> str:
    """Of a daemon. The names have no slash (limits.check_name)."""
    return f"{SCHEME}{cluster}/node/{node}"


def of_uid(cluster: str, node: str, uid: int) -> str:
    """Of every process of a user on a node."""
    return f"{SCHEME}{cluster}/node/{node}/uid/{uid}"


def of_process(cluster: str, process: node_pb2.Process) -> str:
    """Of a process."""
    return of_uid(cluster, process.node, process.uid)


def of_grpc(cluster: str, node: str) -> str:
    """Of whoever comes over the plain gRPC port of a node."""
    return f"{SCHEME}{cluster}/node/{node}/grpc"


def node_of(identity: str) -> str:
    """The name of the node of an identity that was made here; it need not be one that can be parsed, since another node
    may say of its processes what cannot be."""
    return identity.removeprefix(SCHEME).split("/")[2]


def parsed(text: str) -> Identity:
    """The parts of an identity. `str()` of it is the same text again.

    Raises:
        BadIdentity: it is none.
    """
    if len(text.encode("utf-8", "replace")) > MOST:
        raise BadIdentity(f"an identity has at most {MOST} bytes, not {len(text)} characters")
    cluster, _, path = text.removeprefix(SCHEME).partition("/")
    match path.split("/"):
        case ["node", node, *rest] if text.startswith(SCHEME) and cluster and node and text.isprintable():
            match rest:
                case []:
                    return Identity(cluster, node)
                case ["grpc"]:
                    return Identity(cluster, node, grpc=True)
                case ["uid", uid] if is_uid(uid):
                    return Identity(cluster, node, int(uid))
    raise BadIdentity(
        f"{text!r} is no identity: one is {SCHEME}CLUSTER/node/NODE, alone or with /uid/UID or /grpc behind it"
    )


def asked(text: str, cluster: str, node: str) -> Identity:
    """The same for a person's question at a node, who may write uid:UID for a user of that node.

    Raises:
        BadIdentity: it is neither.
    """
    if not text.startswith(SHORT):
        try:
            return parsed(text)
        except BadIdentity as error:
            raise BadIdentity(f"{error}, or {SHORT}UID for a user of node {node}") from None
    uid = text.removeprefix(SHORT)
    if not is_uid(uid):
        raise BadIdentity(f"{text!r}: {uid!r} is no user's number")
    return Identity(cluster, node, int(uid))


def is_uid(text: str) -> bool:
    """Whether it is a user's number as the kernel would write it."""
    return text.isascii() and text.isdecimal() and len(text) <= 10 and str(int(text)) == text and int(text) < _NO_UID
