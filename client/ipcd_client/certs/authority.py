"""The operator's side: a directory with a cluster's authority, which makes the nodes' identity files.

::

    authority.pem    its certificate and its key; during a rotation, the certificate that its predecessor made for it
    trusted.pem      all authorities whose nodes are trusted: this one, and during a rotation its predecessor

To rotate is to replace the authority while nodes run. Its successor is trusted beside it, and is signed by it. A node
whose file is from before trusts the old one alone: it accepts the new files for the certificate that the old one made
for the new one, which they carry; and it is accepted, since they trust both. When every node has a new file, the old
one retires.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from ipcd_client.certs import files, making, reading
from ipcd_client.certs.reading import Seen
from ipcd_client.errors import ConfigError
from ipcd_client.wire import identity

AUTHORITY: Final = "authority.pem"
TRUSTED: Final = "trusted.pem"
_MAKE: Final = "make an authority with: ipcctl cert init"


def default_directory(environ: Mapping[str, str] | None = None) -> Path:
    """$XDG_CONFIG_HOME/ipcd/authority, else ~/.config/ipcd/authority. `environ`: os.environ if None.

    Raises:
        ConfigError: the user has no home.
    """
    environ = os.environ if environ is None else environ
    # The specification of XDG base directories: a path that is not absolute is to be ignored.
    config = environ.get("XDG_CONFIG_HOME", "")
    if config.startswith("/"):
        return Path(config) / "ipcd" / "authority"
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise ConfigError("HOME is not set, so there is no usual place for an authority; name one with --dir")
    return Path(home) / ".config" / "ipcd" / "authority"


def check_name(what: str, name: str, longest: int) -> str:
    """The name, if a certificate can have it. `what`: "node" or "cluster".

    Raises:
        ConfigError: it has other characters, or too many.
    """
    if not identity.NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r}: in a certificate a name begins with a small letter, a digit or _, and has no others but "
            "these, dots and hyphens"
        )
    if len(name) > longest:
        raise ConfigError(f"{what} {name!r}: in a certificate the name of a {what} has {longest} characters at most")
    return name


@dataclass(frozen=True, slots=True)
class Issued:
    """A node's identity file: what it is to have in it, and the certificate of the node."""

    content: bytes
    seen: Seen


class Authority:
    """A cluster's authority, with its key. Times are Unix times; None is now."""

    def __init__(self, directory: Path, own: Seen, key: making.Key, across: Seen | None, trusted: list[Seen]) -> None:
        self.directory = directory
        self.own = own
        self.trusted = trusted
        self._key = key
        self._across = across

    @property
    def path(self) -> Path:
        """The file with its key."""
        return self.directory / AUTHORITY

    @property
    def trusted_path(self) -> Path:
        """The file with all authorities that are trusted."""
        return self.directory / TRUSTED

    @property
    def rotating(self) -> bool:
        """Whether an older one has yet to retire."""
        return self._across is not None

    @classmethod
    def create(cls, directory: Path, cluster: str, *, force: bool = False, now: float | None = None) -> Self:
        """Makes an authority, and writes it into its directory, which is made too.

        Raises:
            ConfigError: there is one already, and it is not `force`; or it cannot be written.
        """
        check_name("cluster", cluster, identity.LONGEST_CLUSTER)
        key = making.new_key()
        own = _look(making.authority(cluster, key, _now(now)))
        try:
            # The parents are others' too, so their rights are the usual ones.
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:
            raise ConfigError(f"{error.filename}: this is not a directory") from error
        except OSError as error:
            raise ConfigError(f"{directory}: it cannot be made: {error.strerror or error}") from error
        if not force:
            for name in (AUTHORITY, TRUSTED):
                files.refuse_to_overwrite(directory / name)
        made = cls(directory, own, key, None, [own])
        made._save(force=force)
        return made

    @classmethod
    def load(cls, directory: Path, *, now: float | None = None) -> Self:
        """Reads an authority.

        Raises:
            ConfigError: naming the file, what is wrong with it, and what to do.
        """
        path = str(directory / AUTHORITY)
        read = files.read(path, _MAKE)
        key = reading.key(read.key(), path)
        seen = [reading.look(each, path) for each in read.certificates]
        if not seen or seen[0].kind != "authority":
            raise ConfigError(f"{path}: the first certificate in it is not that of an authority; {_MAKE}")
        own, *more = seen
        if not making.same_key(own.certificate.public_key(), key.public_key()):
            raise ConfigError(f"{path}: the key in it is not that of its certificate; bring back a copy, or {_MAKE}")
        if own.expires <= _now(now):
            raise ConfigError(
                f"{path}: it has expired on {reading.when(own.expires)}; make another one with: ipcctl cert init "
                "--force, and then issue all nodes' files"
            )
        across = next((each for each in more if each.kind == "cross-signed" and each.subject == own.subject), None)
        trusted = _authorities(directory / TRUSTED)
        for each in trusted:
            # It could make certificates with names of this cluster.
            if each.cluster != own.cluster:
                raise ConfigError(
                    f"{directory / TRUSTED}: {each.subject!r} in it is an authority of the cluster {each.cluster}, not "
                    f"of {own.cluster}; take it out"
                )
        if own.sha256 not in {each.sha256 for each in trusted}:
            raise ConfigError(
                f"{directory / TRUSTED}: the authority {own.subject} is not among those in it; copy its certificate "
                f"there from {AUTHORITY}"
            )
        return cls(directory, own, key, across, trusted)

    def issue(self, node: str, days: int = making.NODE_DAYS, *, now: float | None = None) -> Issued:
        """A new key and certificate for a node. Neither is kept here.

        Raises:
            ConfigError: no certificate can have this name.
        """
        check_name("node", node, identity.LONGEST_NODE)
        key = making.new_key()
        made = making.node(self.own.cluster, node, key.public_key(), self.own.certificate, self._key, _now(now), days)
        blocks = [making.pem(made), making.key_pem(key)]
        if self._across is not None:
            blocks.append(making.pem(self._across.certificate))
        blocks += [making.pem(each.certificate) for each in self.trusted]
        return Issued(b"".join(blocks), _look(made))

    def rotate(self, *, now: float | None = None) -> None:
        """Replaces it by a successor, which is written, and stays trusted. Its key is no longer kept.

        Raises:
            ConfigError: the last one has not retired yet, or it cannot be written.
        """
        if self.rotating:
            raise ConfigError(
                f"{self.directory}: the last rotation has not ended; when all nodes have a new file, end it with: "
                "ipcctl cert rotate --retire"
            )
        key = making.new_key()
        own = making.authority(self.own.cluster, key, _now(now))
        self._across = _look(making.across(own, self.own.certificate, self._key, _now(now)))
        self.own, self._key = _look(own), key
        self.trusted = [self.own, *self.trusted]
        self._save(force=True)

    def retire(self) -> list[Seen]:
        """Trusts this one alone; returns those that no longer are.

        Raises:
            ConfigError: it is so already, or it cannot be written.
        """
        retired = [each for each in self.trusted if each.sha256 != self.own.sha256]
        if not retired and not self.rotating:
            raise ConfigError(
                f"{self.directory}: there is no older authority to retire; to replace this one: ipcctl cert rotate"
            )
        self.trusted = [self.own]
        self._across = None
        self._save(force=True)
        return retired

    def _save(self, *, force: bool) -> None:
        # The trusted ones first: should this end between the two files, the authority is still one of them. Whether a
        # rotation is under way, authority.pem alone says.
        trusted = b"".join(making.pem(each.certificate) for each in self.trusted)
        files.write(self.trusted_path, trusted, files.PUBLIC, force=force)
        own = [making.pem(self.own.certificate), making.key_pem(self._key)]
        if self._across is not None:
            own.append(making.pem(self._across.certificate))
        files.write(self.path, b"".join(own), files.PRIVATE, force=force)


def _authorities(path: Path) -> list[Seen]:
    read = files.read(
        str(path), "bring back a copy: an identity file has the certificates of the trusted ones at its end"
    )
    return [seen for each in read.certificates if (seen := reading.look(each, str(path))).kind == "authority"]


def _look(certificate: x509.Certificate) -> Seen:
    return reading.look(making.pem(certificate), "the new certificate")


def _now(now: float | None) -> float:
    return time.time() if now is None else now
