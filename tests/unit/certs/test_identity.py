"""A node's identity file: what the daemon makes with it, and every way in which it may be wrong."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.certs import files, making, reading
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Credentials, Identity
from ipcd_client.errors import ConfigError

HOUR = 3600
DAY = 24 * HOUR
NONE = serialization.NoEncryption()


def blocks(content: bytes) -> list[bytes]:
    """The PEM blocks of a file."""
    return [
        match[0] + b"\n" for match in re.finditer(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", content, re.DOTALL)
    ]


def pkcs8(key: making.Key | rsa.RSAPrivateKey, encryption: serialization.KeySerializationEncryption = NONE) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def leaf(credentials: Credentials) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credentials.chain)


# ------------------------------------------------------------------------------------------------------ what is made


def test_it_says_who_the_node_is(identity: Callable[..., Identity], authority: Authority) -> None:
    loaded = identity("a")
    assert (loaded.cluster, loaded.node, loaded.uri) == ("lab", "a", "spiffe://lab/node/a")
    assert abs(loaded.expires - time.time() - 365 * DAY) < HOUR
    assert loaded.authorities == making.pem(authority.own.certificate)
    assert loaded.path in repr(loaded)
    assert "spiffe://lab/node/a" in repr(loaded)


@pytest.mark.parametrize(
    ("uid", "uri"),
    [(None, "spiffe://lab/node/a"), (0, "spiffe://lab/node/a/uid/0"), (1000, "spiffe://lab/node/a/uid/1000")],
)
def test_a_leaf(uid: int | None, uri: str, identity: Callable[..., Identity]) -> None:
    now = time.time()
    made = identity("a").issue(uid, now)
    first, second = blocks(made.chain)
    seen = reading.look(first, "")
    assert (seen.kind, seen.identity) == ("daemon" if uid is None else "process", uri)
    assert (seen.cluster, seen.node, seen.issuer) == ("lab", "a", "node a")
    assert seen.expires == made.expires == int(now) + HOUR
    assert seen.begins == int(now - 300)
    node = reading.look(second, "")
    assert (node.kind, node.identity) == ("node", "spiffe://lab/node/a")
    assert seen.signed_by(node)
    certificate = leaf(made)
    assert making.same_key(reading.key(made.key, "").public_key(), seen.certificate.public_key())  # type: ignore[arg-type]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha256"


def test_what_each_certificate_may_be_used_for(identity: Callable[..., Identity], authority: Authority) -> None:
    made = identity("a").issue(7, time.time())
    chain = [x509.load_pem_x509_certificate(block) for block in blocks(made.chain)] + [authority.own.certificate]
    expected = [(False, None), (True, 0), (True, 2)]
    for certificate, (ca, length) in zip(chain, expected, strict=True):
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (ca, length)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (ca, not ca)
        if certificate is not authority.own.certificate:
            assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
                ExtendedKeyUsageOID.SERVER_AUTH,
                ExtendedKeyUsageOID.CLIENT_AUTH,
            }
    for below, above in zip(chain, [*chain[1:], chain[-1]], strict=True):
        own = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        named = below.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == own.digest
    assert len({certificate.serial_number for certificate in chain}) == 3


def test_each_leaf_has_a_key_and_a_number_of_its_own(identity: Callable[..., Identity]) -> None:
    loaded = identity("a")
    made = [loaded.issue(7, time.time()) for _ in range(5)]
    assert len({each.key for each in made}) == len({leaf(each).serial_number for each in made}) == 5


def test_a_leaf_does_not_outlive_its_node(identity: Callable[..., Identity]) -> None:
    loaded = identity("a", 1)
    last = loaded.issue(7, loaded.expires - 60)
    assert last.expires == loaded.expires
    for late in (loaded.expires, loaded.expires + DAY):
        with pytest.raises(ConfigError, match=r"/a\.pem: .*node a has expired on .*ipcctl cert issue a --force"):
            loaded.issue(7, late)


def test_keys_are_not_shown_by_mistake(identity: Callable[..., Identity]) -> None:
    loaded = identity("a")
    made = loaded.issue(7, time.time())
    assert "PRIVATE" not in repr(made) + repr(loaded) + repr(files.read(loaded.path))
    secret = made.key.splitlines()[1].decode()
    assert secret not in repr(made)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def good(authority: Authority) -> list[bytes]:
    """The node's certificate, its key, the authority."""
    made = blocks(authority.issue("a").content)
    assert len(made) == 3
    return made


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Identity]:
    def write_and_load(*content: bytes, mode: int = 0o600, now: float | None = None) -> Identity:
        path = tmp_path / "id.pem"
        path.write_bytes(b"".join(content))
        path.chmod(mode)
        return Identity.load(str(path), now)

    return write_and_load


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(ConfigError, match=rf"/id\.pem: .*{words}"):
        yield


def test_a_good_one(good: list[bytes], load: Callable[..., Identity]) -> None:
    certificate, key, authority = good
    for content in (good, [key, certificate, authority], [b"words\r\n", authority.join([certificate, key]), b"words"]):
        assert load(*content).node == "a"
    for mode in (0o400, 0o500, 0o700):
        assert load(*good, mode=mode).node == "a"


def test_a_link_to_one(good: list[bytes], load: Callable[..., Identity], tmp_path: Path) -> None:
    load(*good)
    (tmp_path / "link.pem").symlink_to("id.pem")
    assert Identity.load(str(tmp_path / "link.pem")).node == "a"


def test_no_file(tmp_path: Path) -> None:
    with refused("no such file; make the file with: ipcctl cert issue NODE"):
        Identity.load(str(tmp_path / "id.pem"))


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "id.pem").mkdir()
    with refused("not a regular file"):
        Identity.load(str(tmp_path / "id.pem"))


def test_another_users(good: list[bytes], load: Callable[..., Identity], tmp_path: Path) -> None:
    load(*good)
    (tmp_path / "id.pem").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with refused(f"uid {os.geteuid()} may not read it"):
            Identity.load(str(tmp_path / "id.pem"))
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
def test_open_to_others(mode: int, good: list[bytes], load: Callable[..., Identity], tmp_path: Path) -> None:
    with refused(rf"others than its owner have rights to it \(mode {mode:04o}\); say: chmod 600 {tmp_path}/id\.pem"):
        load(*good, mode=mode)


AS_NOBODY = """
import os, sys
import cryptography.hazmat.backends.openssl.backend
from ipcd_client.certs.identity import Identity
os.chdir(sys.argv[1])
os.setgid(65534)
os.setuid(65534)
Identity.load("id.pem")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make files that belong to another user than the reader")
@pytest.mark.parametrize(
    ("mode", "owner", "well"), [(0o440, 0, True), (0o444, 0, False), (0o460, 0, False), (0o440, 1, False)]
)
def test_for_a_group(
    mode: int, owner: int, well: bool, good: list[bytes], load: Callable[..., Identity], tmp_path: Path
) -> None:
    """A file of root's may be readable for the group that the daemon runs in, as mounted secrets are."""
    load(*good)
    (tmp_path / "id.pem").chmod(mode)
    os.chown(tmp_path / "id.pem", owner, 65534)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", AS_NOBODY, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) is well, ended.stderr
    assert well or "others than its owner" in ended.stderr


def test_no_pem(load: Callable[..., Identity]) -> None:
    for content in (b"", b"hello", b"-----BEGIN CERTIFICATE-----", bytes(range(256))):
        with refused("neither a certificate nor a key in it, in PEM; make the file with"):
            load(content)


def test_parts_that_are_missing(good: list[bytes], load: Callable[..., Identity]) -> None:
    certificate, key, authority = good
    with refused("no private key in it"):
        load(certificate, authority)
    with refused("no certificate in it; make the file with"):
        load(key)
    with refused("no authority in it that could be trusted; make the file anew with: ipcctl cert issue a --force"):
        load(certificate, key)
    with refused("2 private keys"):
        load(*good, pkcs8(making.new_key()))


def test_keys_that_do_not_fit(good: list[bytes], load: Callable[..., Identity]) -> None:
    certificate, _, authority = good
    with refused("the key in it is not that of its certificate; .*ipcctl cert issue a --force"):
        load(certificate, pkcs8(making.new_key()), authority)
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with refused("not of the kind EC P-256"):
            load(certificate, pkcs8(key), authority)
    with refused("needs a password"):
        load(certificate, pkcs8(making.new_key(), serialization.BestAvailableEncryption(b"x")), authority)
    with refused("private key cannot be read"):
        load(certificate, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", authority)


def test_bytes_that_are_no_certificate(good: list[bytes], load: Callable[..., Identity]) -> None:
    certificate, key, authority = good
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for content in ([broken, key, authority], [certificate, key, broken]):
        with refused("a certificate in it that cannot be read"):
            load(*content)


def test_out_of_its_time(good: list[bytes], load: Callable[..., Identity]) -> None:
    begins = reading.look(good[0], "").begins
    assert load(*good, now=begins).node == "a"
    with refused("node a is valid from .* UTC on, and the clock says .* UTC; set the clock right"):
        load(*good, now=begins - 1)
    expires = load(*good).expires
    assert load(*good, now=expires - 1).node == "a"
    with refused("node a has expired on .* UTC; make the file anew with: ipcctl cert issue a --force"):
        load(*good, now=expires)


def test_the_wrong_kind(
    good: list[bytes], load: Callable[..., Identity], authority: Authority, identity: Callable[..., Identity]
) -> None:
    _, key, trusted = good
    with refused("is that of an authority: .* does not belong on a node"):
        load(authority.path.read_bytes())
    with refused("is that of an authority"):
        load(trusted, key)
    for uid, words in ((None, "cannot sign others"), (7, "is that of a process")):
        made = identity("a").issue(uid, time.time())
        with refused(words):
            load(made.chain, made.key, trusted)


@pytest.mark.parametrize(
    ("common", "uri"),
    [
        ("node a", "spiffe://lab"),
        ("node a", "https://lab/node/a"),
        ("node a", "spiffe://lab/node/a/uid/1"),
        ("node a", "spiffe://lab/node/b"),
        ("node A", "spiffe://lab/node/A"),
        ("a", "spiffe://lab/node/a"),
        ("node a", "spiffe://lab/node/a/"),
    ],
)
def test_names_that_are_no_nodes(
    common: str, uri: str, load: Callable[..., Identity], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipcd_client.wire.identity.issuer_name", lambda _: common)
    monkeypatch.setattr("ipcd_client.access.identity.of_node", lambda *_: uri)
    content = authority.issue("a").content
    monkeypatch.undo()
    with refused("(has no identity of a node in it|is that of an authority)"):
        load(content)


def test_a_node_whose_leaves_could_not_name_its_key(load: Callable[..., Identity], authority: Authority) -> None:
    key = making.new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(making._name("node a"))
        .issuer_name(authority.own.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(making._time(time.time()))
        .not_valid_after(making._time(time.time() + DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://lab/node/a")]), critical=False
        )
    )
    certificate = making.pem(builder.sign(authority._key, hashes.SHA256()))
    with refused("cannot sign others"):
        load(certificate, making.key_pem(key), making.pem(authority.own.certificate))


def test_an_authority_that_did_not_sign_it(good: list[bytes], load: Callable[..., Identity], tmp_path: Path) -> None:
    certificate, key, _ = good
    other = Authority.create(tmp_path / "other", "lab")
    with refused(r"signed by 'authority lab [0-9a-f]{8}', which is none of the authorities in it"):
        load(certificate, key, making.pem(other.own.certificate))
    # Nor does the name alone make it one: here both have the same.
    name, own = x509.load_pem_x509_certificate(certificate).issuer, making.new_key()
    signer = (name, own, x509.SubjectKeyIdentifier.from_public_key(own.public_key()))
    valid = (time.time(), time.time() + DAY)
    imposter = making._signed(name, "spiffe://lab", own.public_key(), signer, valid, path=2)
    with refused("which is none of the authorities in it"):
        load(certificate, key, making.pem(imposter))


def test_an_authority_of_another_cluster(good: list[bytes], load: Callable[..., Identity], tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "office")
    with refused(
        "the node is of the cluster lab, and 'authority office .*' in it is an authority of the cluster office"
    ):
        load(*good, making.pem(other.own.certificate))


def test_a_file_from_a_rotation_leads_to_the_old_authority_too(
    load: Callable[..., Identity], authority: Authority
) -> None:
    old = making.pem(authority.own.certificate)
    authority.rotate()
    certificate, key, across, new, also_old = blocks(authority.issue("a").content)
    assert also_old == old
    assert load(certificate, key, across, old).authorities == old
    assert load(certificate, key, across, new).authorities == new
    with refused("which is none of the authorities in it"):
        load(certificate, key, old)


# Of numbers below zero the parser says that it will refuse them one day.
spoilt_certificates = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@spoilt_certificates
@given(data=st.data())
def test_whatever_the_certificates_are_it_loads_or_is_refused(spoilt: tuple[Path, bytes], data: st.DataObject) -> None:
    """Below base64, where most changes leave something that can be read."""
    path, content = spoilt
    spoiled = blocks(content)
    index = data.draw(st.sampled_from([0, 2, 3]))
    der = bytearray(ssl.PEM_cert_to_DER_cert(spoiled[index].decode()))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    spoiled[index] = ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    path.write_bytes(b"".join(spoiled))
    try:
        outcome = Identity.load(str(path)).uri
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome or outcome == "spiffe://lab/node/a"


@spoilt_certificates
@given(data=st.data())
def test_whatever_is_in_the_file_it_loads_or_is_refused(data: st.DataObject, spoilt: tuple[Path, bytes]) -> None:
    path, content = spoilt
    spoiled = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(spoiled) - 1))
        action = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if action == "change":
            spoiled[position] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del spoiled[position : position + data.draw(st.integers(1, 64))]
        else:
            spoiled[position:position] = data.draw(st.binary(min_size=1, max_size=16))
    path.write_bytes(spoiled)
    try:
        outcome = Identity.load(str(path)).uri
    except ConfigError as error:
        outcome = str(error)
    assert str(path) in outcome or outcome == "spiffe://lab/node/a"


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("spoiled")
    authority = Authority.create(folder / "authority", "lab")
    authority.rotate()
    path = folder / "a.pem"
    path.touch(0o600)
    return path, authority.issue("a").content
