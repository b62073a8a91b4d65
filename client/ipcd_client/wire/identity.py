"""Who somebody is, as certificates and rules write it: SPIFFE-shaped URIs. And whether a peer's certificate says so.

::

    spiffe://CLUSTER/node/NODE            a node's daemon, and the certificate by which a node vouches for its processes
    spiffe://CLUSTER/node/NODE/uid/UID    a process, by its node and its user there
    spiffe://CLUSTER/node/NODE/grpc       whoever came over the node's plain gRPC port

Names in certificates have small letters, digits, `.`, `-` and `_`. Small, because X.509 compares the names of issuers
without regard to case (RFC 5280, 7.1): a node A could make certificates that seem to be made by a node a.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ipcd_client.errors import NotAllowed

if TYPE_CHECKING:
    import ssl

# Characters. A common name has 64 at most (RFC 5280, A.1), with "node " before that of a node, and "authority " before,
# and the beginning of a digest behind, that of a cluster.
LONGEST_NODE: Final = 59
LONGEST_CLUSTER: Final = 45
NAME: Final = re.compile(r"[a-z0-9_][a-z0-9._-]*")
_IDENTITY: Final = re.compile(
    rf"spiffe://(?P<cluster>{NAME.pattern})/node/(?P<node>{NAME.pattern})"
    r"(?P<rest>|/grpc|/uid/(?:0|[1-9][0-9]{0,9}))"
)
# What a stranger's certificate may put into an error.
_LONGEST_SHOWN: Final = 120


def issuer_name(node: str) -> str:
    """The common name of a node's certificate, which its processes' certificates name as their issuer."""
    return f"node {node}"


def parts(identity: str) -> tuple[str, str, str] | None:
    """Cluster, node, and what follows the node ("" for the node itself, else "/uid/N" or "/grpc"); None if this is no
    identity that a certificate can have."""
    match = _IDENTITY.fullmatch(identity)
    if match is None or len(match["cluster"]) > LONGEST_CLUSTER or len(match["node"]) > LONGEST_NODE:
        return None
    return match["cluster"], match["node"], match["rest"]


def checked(peercert: Mapping[str, Any] | None, expected: str) -> str:
    """The identity that a verified certificate shows, which is `expected`.

    `peercert` is what `ssl.SSLSocket.getpeercert()` returns, of a context that demands certificates. OpenSSL has
    checked the chain up to an authority, the dates and the use. What it does not know is that a node speaks only for
    itself, so that has to be checked here: otherwise any node of the cluster could make a certificate with any name.

    Raises:
        NotAllowed: it shows another identity, none, several, or one that another node vouches for.
    """
    known = parts(expected)
    if known is None:
        raise NotAllowed(f"{_shown(expected)} was to be checked, which is no identity")
    if not peercert:
        raise NotAllowed(f"{expected} was expected, and the other end shows no certificate")
    found = [name[1] for name in peercert.get("subjectAltName", ()) if name[0] == "URI"]
    if len(found) != 1:
        several = f"{len(found)} identities" if found else "no identity"
        raise NotAllowed(f"{expected} was expected, and the other end's certificate has {several} in it")
    if found[0] != expected:
        raise NotAllowed(f"{expected} was expected, and the other end is {_shown(found[0])}")
    # A name is a sequence of sets of pairs. This one is to be nothing but one common name, so that there is no question
    # which of several counts.
    issuer = peercert.get("issuer")
    if issuer != ((("commonName", issuer_name(known[1])),),):
        raise NotAllowed(
            f"{expected} was expected, and the other end has that in a certificate which that node did not make; "
            f"its issuer is {_shown(issuer)}"
        )
    return expected


def proven(end: ssl.SSLObject | ssl.SSLSocket, expected: str = "") -> str:
    """The same, of the other end of a connection that has shaken hands. Without `expected` any identity will do that a
    node of the cluster vouches for.

    Raises:
        NotAllowed: as `checked`; or its certificate has bytes in it where names should be, which Python's ssl tells by
            errors of its own.
    """
    try:
        peercert = end.getpeercert()
    except (ValueError, OSError) as error:
        who = expected or "an identity"
        raise NotAllowed(f"{who} was expected, and the other end's certificate cannot be read: {error}") from error
    return checked(peercert, expected or _claimed(peercert))


def _claimed(peercert: Mapping[str, Any] | None) -> str:
    """The one identity in it."""
    found = [name[1] for name in (peercert or {}).get("subjectAltName", ()) if name[0] == "URI"]
    if len(found) != 1 or parts(found[0]) is None:
        what = ", ".join(map(_shown, found[:3])) or "nothing"
        raise NotAllowed(f"an identity was expected, and the other end's certificate has {what} in its place")
    return str(found[0])


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        # Common names only: what else there may be is of no use to a reader.
        value = ", ".join(str(pair[1]) for names in value for pair in names if pair[0] == "commonName")
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
