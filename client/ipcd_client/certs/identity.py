"""The daemon's side: a node's identity file, and what the node makes with it for those who run there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

from ipcd_client.access import identity as identities
from ipcd_client.certs import files, making, reading
from ipcd_client.certs.reading import Seen
from ipcd_client.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one process needs to prove who it is. It stays in memory."""

    chain: bytes  # PEM: its certificate, its node's, and if there is one the authority's from an older authority
    key: bytes = field(repr=False)  # PEM, PKCS #8
    authorities: bytes  # PEM: whom to trust
    expires: float  # Unix time


class Identity:
    """Who this node is, and what lets it vouch for its processes."""

    def __init__(self, path: str, own: Seen, key: making.Key, above: list[Seen], trusted: list[Seen]) -> None:
        """See `load`."""
        self.path = path
        self.cluster = own.cluster
        self.node = own.node
        self.uri = own.identity
        self.expires = own.expires  # Unix time
        self.sha256 = own.sha256  # in hexadecimal digits, of the certificate
        self.authorities = _pem(trusted)
        self._above = _pem([own, *above])
        self._leaves = making.Leaves(own.certificate, key)

    def __repr__(self) -> str:
        return f"<Identity {self.uri} of {self.path}, until {reading.when(self.expires)}>"

    @classmethod
    def load(cls, path: str, now: float | None = None) -> Self:
        """Reads the file that `ipcctl cert issue` has made. `now`: a Unix time, by default the clock's.

        Raises:
            ConfigError: naming the file, what is wrong with it, and what to do.
        """
        now = time.time() if now is None else now
        make = "make the file with: ipcctl cert issue NODE"
        read = files.read(path, make)
        key = reading.key(read.key(), path)
        if not read.certificates:
            raise ConfigError(f"{path}: there is no certificate in it; {make}")
        own, *others = [reading.look(each, path) for each in read.certificates]
        if own.kind != "node":
            raise ConfigError(f"{path}: the first certificate in it {_WRONG[own.kind]}; {make}")
        again = f"make the file anew with: ipcctl cert issue {own.node} --force"
        if not making.same_key(own.certificate.public_key(), key.public_key()):
            raise ConfigError(f"{path}: the key in it is not that of its certificate; {again}")
        if own.expires <= now:
            raise ConfigError(
                f"{path}: the certificate of node {own.node} has expired on {reading.when(own.expires)}; {again}"
            )
        if now < own.begins:
            raise ConfigError(
                f"{path}: the certificate of node {own.node} is valid from {reading.when(own.begins)} on, and the "
                f"clock says {reading.when(now)}; set the clock right"
            )
        trusted = [each for each in others if each.kind == "authority"]
        if not trusted:
            raise ConfigError(f"{path}: there is no authority in it that could be trusted; {again}")
        above = [each for each in others if each.kind == "cross-signed"]
        for each in trusted:
            # It could make certificates with names of this cluster.
            if each.cluster != own.cluster:
                raise ConfigError(
                    f"{path}: the node is of the cluster {own.cluster}, and {each.subject!r} in it is an authority of "
                    f"the cluster {each.cluster}; {again}"
                )
        if not _leads(own, above, trusted):
            raise ConfigError(
                f"{path}: the certificate of node {own.node} is signed by {own.issuer!r}, which is none of the "
                f"authorities in it; {again}"
            )
        return cls(path, own, key, above, trusted)

    def issue(self, uid: int | None, now: float) -> Credentials:
        """A new key and certificate: for processes of a user of this node, or for the daemon itself (None). `now` is a
        Unix time. It is valid for an hour, and no longer than the node's own.

        Raises:
            ConfigError: the node's own has expired.
        """
        if now >= self.expires:
            raise ConfigError(
                f"{self.path}: the certificate of node {self.node} has expired on {reading.when(self.expires)}; make "
                f"the file anew with: ipcctl cert issue {self.node} --force"
            )
        uri = self.uri if uid is None else identities.of_uid(self.cluster, self.node, uid)
        title = "daemon" if uid is None else f"uid {uid}"
        key = making.new_key()
        made = self._leaves.make(uri, title, key.public_key(), now)
        return Credentials(
            making.pem(made) + self._above,
            making.key_pem(key),
            self.authorities,
            made.not_valid_after_utc.timestamp(),
        )


_WRONG = {
    "authority": "is that of an authority: this is not a node's file, and does not belong on a node",
    "cross-signed": "is that of an authority: this is not a node's file, and does not belong on a node",
    "daemon": "cannot sign others, as a node's has to",
    "process": "is that of a process, not that of a node",
    "other": "has no identity of a node in it",
}


def _leads(own: Seen, above: list[Seen], trusted: list[Seen]) -> bool:
    """Whether a node's certificate comes from one of the trusted, directly or through one that they have signed."""
    if any(own.signed_by(each) for each in trusted):
        return True
    return any(own.signed_by(each) and any(each.signed_by(one) for one in trusted) for each in above)


def _pem(certificates: list[Seen]) -> bytes:
    return b"".join(making.pem(each.certificate) for each in certificates)
