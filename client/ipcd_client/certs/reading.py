"""What a certificate is, and what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ipcd_client.certs import files, making
from ipcd_client.errors import ConfigError
from ipcd_client.wire import identity

# "cross-signed": an authority that another one has signed. "other": none of ours.
Kind = Literal["authority", "cross-signed", "node", "daemon", "process", "other"]

_CLUSTER: Final = re.compile(rf"spiffe://({identity.NAME.pattern})")
# What the parser says to bytes that are no certificate. It parses each part when that is asked for, and its errors have
# no root; these are those that a search with spoilt certificates found.
_MALFORMED: Final = (
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A certificate. Times are Unix times."""

    kind: Kind
    identity: str  # empty: none, or several
    cluster: str  # these two for our own kinds only
    node: str
    subject: str
    issuer: str
    begins: float
    expires: float
    serial: int
    sha256: str
    certificate: x509.Certificate

    def signed_by(self, issuer: Seen) -> bool:
        """Whether it is the other one's key that signed this."""
        try:
            self.certificate.verify_directly_issued_by(issuer.certificate)
        except (*_MALFORMED, InvalidSignature):
            return False
        return True


def look(pem: bytes, path: str) -> Seen:
    """What a certificate says.

    Raises:
        ConfigError: it is none. `path` is where it comes from.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        # Its key is looked at later: here is where it may be malformed.
        certificate.public_key()
        uris, is_authority = _extensions(certificate)
        seen = Seen(
            "other",
            uris[0] if len(uris) == 1 else "",
            "",
            "",
            _common_name(certificate.subject),
            _common_name(certificate.issuer),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            certificate.serial_number,
            certificate.fingerprint(hashes.SHA256()).hex(),
            certificate,
        )
    except _MALFORMED as error:
        raise ConfigError(f"{path}: there is a certificate in it that cannot be read: {error}") from error
    return _classified(seen, is_authority=is_authority)


def look_into(path: str) -> list[Seen]:
    """The certificates in a file.

    Raises:
        ConfigError: there are none.
    """
    found = [look(each, path) for each in files.read(path).certificates]
    if not found:
        raise ConfigError(f"{path}: there is a key in it, and no certificate")
    return found


def key(pem: bytes, path: str) -> making.Key:
    """A private key of the one kind that is used here.

    Raises:
        ConfigError: it is none, it needs a password, or it is of another kind.
    """
    try:
        loaded = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise ConfigError(f"{path}: the private key needs a password, which nobody could type in") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: the private key cannot be read: {error}") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: the private key is not of the kind EC P-256")
    return loaded


def when(time: float) -> str:
    """A Unix time, for people."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"


def _classified(seen: Seen, *, is_authority: bool) -> Seen:
    kind: Kind = "other"
    cluster, node = "", ""
    known = identity.parts(seen.identity)
    if known is not None:
        cluster, node, rest = known
        if not is_authority:
            kind = "process" if rest else "daemon"
        elif not rest and seen.subject == identity.issuer_name(node):
            kind = "node"
    elif is_authority and (match := _CLUSTER.fullmatch(seen.identity)):
        cluster = match[1]
        kind = "authority" if seen.certificate.issuer == seen.certificate.subject else "cross-signed"
    return replace(seen, kind=kind, cluster=cluster, node=node)


def _extensions(certificate: x509.Certificate) -> tuple[list[str], bool]:
    """The URIs that it is for, and whether it may sign others, which have to be able to name its key."""
    uris: list[str] = []
    is_authority = has_key_id = False
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            uris = value.get_values_for_type(x509.UniformResourceIdentifier)
        elif isinstance(value, x509.BasicConstraints):
            is_authority = value.ca
        elif isinstance(value, x509.SubjectKeyIdentifier):
            has_key_id = True
    return uris, is_authority and has_key_id


def _common_name(name: x509.Name) -> str:
    values = [attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return ", ".join(value if isinstance(value, str) else value.hex() for value in values) or name.rfc4514_string()
