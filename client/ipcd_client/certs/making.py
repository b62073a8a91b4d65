"""Certificates as they are made here: EC P-256 keys, SHA-256, X.509 version 3 (RFC 5280)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipcd_client.access import identity as identities
from ipcd_client.wire import identity

Key = ec.EllipticCurvePrivateKey

DAY: Final = 86400.0
AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 365
LEAF_SECONDS: Final = 3600.0
# How far clocks may be apart: what is made here is valid there at once.
SKEW_SECONDS: Final = 300.0
# Below an authority there may be one that it has signed across, and below that nodes; below a node no more authorities.
_AUTHORITY_PATH: Final = 2
_CROSS_PATH: Final = 1
_NODE_PATH: Final = 0
# Of a key, in the name of an authority: OpenSSL looks for issuers by name, so two of one cluster must not share theirs.
_DIGEST: Final = 8

_SIGNS: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_PROVES: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
# Whoever connects and whoever is connected to: each is both.
_TLS: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def new_key() -> Key:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """A key in PKCS #8, in the clear."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def same_key(one: object, other: ec.EllipticCurvePublicKey) -> bool:
    """Whether two public keys are the same."""
    return isinstance(one, ec.EllipticCurvePublicKey) and one.public_numbers() == other.public_numbers()


def authority(cluster: str, key: Key, now: float) -> x509.Certificate:
    """A cluster's authority, signed by itself. Times here are Unix times."""
    name = _authority_name(cluster, key.public_key())
    return _signed(
        name,
        f"spiffe://{cluster}",
        key.public_key(),
        (name, key, x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
        (now, now + AUTHORITY_DAYS * DAY),
        path=_AUTHORITY_PATH,
    )


def across(new: x509.Certificate, old: x509.Certificate, old_key: Key, now: float) -> x509.Certificate:
    """The new authority's name and key, in a certificate that the old one signed: who trusts the old one alone comes
    from it to what the new one signs."""
    public = new.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError(f"an authority has an EC key, not {public!r}")
    (uri,) = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )
    return _signed(
        new.subject,
        uri,
        public,
        (old.subject, old_key, _key_id(old)),
        (now, min(_end(new), _end(old))),
        path=_CROSS_PATH,
    )


def node(
    cluster: str,
    name: str,
    public: ec.EllipticCurvePublicKey,
    signer: x509.Certificate,
    key: Key,
    now: float,
    days: int,
) -> x509.Certificate:
    """A node's certificate, which ends with the authority's at the latest."""
    return _signed(
        _name(identity.issuer_name(name)),
        identities.of_node(cluster, name),
        public,
        (signer.subject, key, _key_id(signer)),
        (now, min(now + days * DAY, _end(signer))),
        path=_NODE_PATH,
        uses=_TLS,
    )


class Leaves:
    """Makes certificates for what runs on a node, from the node's."""

    def __init__(self, signer: x509.Certificate, key: Key) -> None:
        self._signer = (signer.subject, key, _key_id(signer))
        self._end = _end(signer)

    def make(self, uri: str, title: str, public: ec.EllipticCurvePublicKey, now: float) -> x509.Certificate:
        """One for the identity `uri`. `title`: what it is, for who looks at it; nothing depends on that."""
        return _signed(_name(title), uri, public, self._signer, (now, min(now + LEAF_SECONDS, self._end)), uses=_TLS)


Signer = tuple[x509.Name, Key, x509.SubjectKeyIdentifier]


def _signed(
    subject: x509.Name,
    uri: str,
    public: ec.EllipticCurvePublicKey,
    signer: Signer,
    valid: tuple[float, float],
    *,
    path: int | None = None,
    uses: x509.ExtendedKeyUsage | None = None,
) -> x509.Certificate:
    """`path`: how many more authorities there may be below this one; None if it is none."""
    name, key, key_id = signer
    begin, end = valid
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(begin - SKEW_SECONDS))
        .not_valid_after(_time(end))
        .add_extension(x509.BasicConstraints(ca=path is not None, path_length=path), critical=True)
        .add_extension(_PROVES if path is None else _SIGNS, critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    if uses is not None:
        builder = builder.add_extension(uses, critical=False)
    return builder.sign(key, hashes.SHA256())


def _authority_name(cluster: str, public: ec.EllipticCurvePublicKey) -> x509.Name:
    return _name(f"authority {cluster} {x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:_DIGEST]}")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_id(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """By which those that it signs name its key."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _time(when: float) -> datetime:
    return datetime.fromtimestamp(int(when), UTC)
