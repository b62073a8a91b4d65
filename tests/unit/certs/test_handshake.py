"""What OpenSSL makes of these certificates, and what has to be checked besides."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from ipcd_client.certs import files, making, reading
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Credentials, Identity
from ipcd_client.errors import ConfigError, NotAllowed
from ipcd_client.wire.identity import checked, proven
from unit.certs.tls import accepts, meet, shake

VICTIM = "spiffe://lab/node/n/uid/0"


def test_two_processes_of_two_nodes(identity: Callable[..., Identity]) -> None:
    now = time.time()
    server, client = identity("a").issue(7, now), identity("b").issue(8, now)
    of_server, of_client = meet(server, client)
    assert checked(of_server, "spiffe://lab/node/a/uid/7") == "spiffe://lab/node/a/uid/7"
    assert checked(of_client, "spiffe://lab/node/b/uid/8") == "spiffe://lab/node/b/uid/8"
    for wrong in (
        "spiffe://lab/node/a/uid/8",
        "spiffe://lab/node/b/uid/7",
        "spiffe://lab/node/a",
        "spiffe://x/node/a/uid/7",
    ):
        with pytest.raises(
            NotAllowed, match=f"^{wrong} was expected, and the other end is 'spiffe://lab/node/a/uid/7'$"
        ):
            checked(of_server, wrong)


def test_two_daemons_and_two_processes_of_one_node(identity: Callable[..., Identity]) -> None:
    a, b, now = identity("a"), identity("b"), time.time()
    of_server, of_client = meet(a.issue(None, now), b.issue(None, now))
    assert checked(of_server, a.uri) == "spiffe://lab/node/a"
    assert checked(of_client, b.uri) == "spiffe://lab/node/b"
    of_server, of_client = meet(a.issue(7, now), a.issue(7, now))
    assert of_server["serialNumber"] != of_client["serialNumber"]


def test_clocks_that_differ(identity: Callable[..., Identity]) -> None:
    loaded, now = identity("a"), time.time()
    good = loaded.issue(7, now)
    assert accepts(loaded.issue(7, now + 290), good)
    assert accepts(loaded.issue(7, now - 3500), good)
    for wrong in (now + 500, now - 3700):
        assert not accepts(loaded.issue(7, wrong), good)
        assert not accepts(good, loaded.issue(7, wrong))


def test_a_strangers_certificate(identity: Callable[..., Identity], tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "stranger", "lab")
    files.write(tmp_path / "x.pem", stranger.issue("a").content, files.PRIVATE, force=False)
    theirs, ours = Identity.load(str(tmp_path / "x.pem")).issue(7, time.time()), identity("a").issue(7, time.time())
    # Each checks the other, so whom the stranger trusts makes no difference.
    for one in (theirs, replace(theirs, authorities=ours.authorities)):
        assert not accepts(one, ours)
        assert not accepts(ours, one)


# ---------------------------------------------------------------------------------------------------------- rotation


@pytest.fixture
def stages(authority: Authority, tmp_path: Path) -> dict[str, Credentials]:
    """What processes have whose nodes' files are of before a rotation, during it, and after the old one has retired."""
    made = {}
    for stage, step in (("old", None), ("new", authority.rotate), ("retired", authority.retire)):
        if step is not None:
            step()
        path = tmp_path / f"{stage}.pem"
        files.write(path, authority.issue(stage).content, files.PRIVATE, force=False)
        made[stage] = Identity.load(str(path)).issue(7, time.time())
    return made


@pytest.mark.parametrize(
    ("server", "client", "accepted"),
    [
        ("old", "old", True),
        ("old", "new", True),
        ("new", "old", True),
        ("new", "new", True),
        ("new", "retired", True),
        ("retired", "new", True),
        ("retired", "retired", True),
        ("old", "retired", False),
        ("retired", "old", False),
    ],
)
def test_a_rotation(server: str, client: str, accepted: bool, stages: dict[str, Credentials]) -> None:
    assert accepts(stages[server], stages[client]) == accepted
    if accepted:
        of_server, of_client = meet(stages[server], stages[client])
        for name, seen in ((server, of_server), (client, of_client)):
            assert checked(seen, f"spiffe://lab/node/{name}/uid/7") == f"spiffe://lab/node/{name}/uid/7"


def test_each_has_in_its_chain_what_the_others_need(stages: dict[str, Credentials]) -> None:
    assert {name: made.chain.count(b"BEGIN CERTIFICATE") for name, made in stages.items()} == {
        "old": 2,
        "new": 3,
        "retired": 2,
    }
    assert {name: made.authorities.count(b"BEGIN CERTIFICATE") for name, made in stages.items()} == {
        "old": 1,
        "new": 2,
        "retired": 1,
    }


# ----------------------------------------------------------------------------------------------------------- forgery


class Forger:
    """A node that is none the better for having a key: `m`."""

    def __init__(self, authority: Authority, name: str = "m") -> None:
        self.key = making.new_key()
        self.certificate = making.node(
            "lab", name, self.key.public_key(), authority.own.certificate, authority._key, time.time(), 1
        )
        self.authorities = making.pem(authority.own.certificate)

    def credentials(self, certificate: x509.Certificate, key: making.Key, *above: x509.Certificate) -> Credentials:
        chain = b"".join(making.pem(each) for each in (certificate, *above, self.certificate))
        return Credentials(chain, making.key_pem(key), self.authorities, 0)

    def leaf(self, *uris: str, issuer: str = "") -> Credentials:
        """Whatever it likes to write into a leaf."""
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        return self.leaf_of(x509.SubjectAlternativeName(names) if names else None, issuer)

    def leaf_of(self, alternatives: x509.ExtensionType | None, issuer: str = "") -> Credentials:
        key = making.new_key()
        made = (
            x509.CertificateBuilder()
            .subject_name(making._name("uid 0"))
            .issuer_name(making._name(issuer) if issuer else self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(making._time(time.time() - 60))
            .not_valid_after(making._time(time.time() + 60))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(making._PROVES, critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(making._key_id(self.certificate)),
                critical=False,
            )
        )
        if alternatives is not None:
            made = made.add_extension(alternatives, critical=False)
        return self.credentials(made.sign(self.key, hashes.SHA256()), key)


@pytest.fixture
def good(identity: Callable[..., Identity]) -> Credentials:
    return identity("good").issue(7, time.time())


def test_a_node_that_speaks_for_another(authority: Authority, good: Credentials) -> None:
    forged = Forger(authority).leaf(VICTIM)
    for seen in (meet(forged, good)[0], meet(good, forged)[1]):
        assert seen["subjectAltName"] == (("URI", VICTIM),)
        with pytest.raises(NotAllowed, match=f"^{VICTIM} was expected, .*which that node did not make.*'node m'$"):
            checked(seen, VICTIM)
    # For itself it may.
    own = Forger(authority).leaf("spiffe://lab/node/m/uid/0")
    assert checked(meet(own, good)[0], "spiffe://lab/node/m/uid/0")


@pytest.mark.parametrize("issuer", ["node n", "Node m", "node  m", " node m", "node m "])
def test_an_issuer_that_did_not_sign(issuer: str, authority: Authority, good: Credentials) -> None:
    forged = Forger(authority).leaf(VICTIM, issuer=issuer)
    if issuer == "node n":
        assert not accepts(forged, good)
        return
    # OpenSSL compares names without regard to case and spaces.
    with pytest.raises(NotAllowed):
        checked(meet(forged, good)[0], VICTIM)
    with pytest.raises(NotAllowed, match=f"'{issuer}'"):
        checked(meet(Forger(authority).leaf("spiffe://lab/node/m", issuer=issuer), good)[0], "spiffe://lab/node/m")


def test_why_names_have_small_letters_only(authority: Authority, good: Credentials, tmp_path: Path) -> None:
    """A node N, if there could be one, would be taken for a node n: neither OpenSSL nor `checked` could tell."""
    forged = Forger(authority, "N").leaf(VICTIM, issuer="node n")
    assert checked(meet(forged, good)[0], VICTIM) == VICTIM
    with pytest.raises(ConfigError, match="small letter"):
        authority.issue("N")
    forger = Forger(authority, "N")
    content = making.pem(forger.certificate) + making.key_pem(forger.key) + forger.authorities
    files.write(tmp_path / "N.pem", content, files.PRIVATE, force=False)
    with pytest.raises(ConfigError, match="no identity of a node"):
        Identity.load(str(tmp_path / "N.pem"))


@pytest.mark.parametrize(
    ("uris", "words"),
    [
        ((), "no identity in it"),
        ((VICTIM, VICTIM), "2 identities in it"),
        ((VICTIM, "spiffe://lab/node/m/uid/0"), "2 identities in it"),
        (("spiffe://lab/node/n/uid/00",), "the other end is"),
        ((f"{VICTIM}\0",), r"the other end is 'spiffe://lab/node/n/uid/0\\x00'"),
        ((f"{VICTIM}\n",), r"the other end is 'spiffe://lab/node/n/uid/0\\n'"),
        ((VICTIM.upper(),), "the other end is"),
        (("x" * 500,), r"the other end is 'x{119}\.\.\.$"),
    ],
)
def test_names_that_a_node_made_up(uris: tuple[str, ...], words: str, authority: Authority, good: Credentials) -> None:
    seen = meet(Forger(authority, "n").leaf(*uris), good)[0]
    with pytest.raises(NotAllowed, match=rf"^{VICTIM} was expected, and .*{words}"):
        checked(seen, VICTIM)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (b"\x86\x02\xff\xfe", "certificate cannot be read: 'utf-8' codec"),
        (b"\x86\x00", "the other end is ''"),
        (b"\x87\x03abc", "no identity in it"),
        (b"\x88\x02\x2a\x03", "no identity in it"),
        (b"\x82\x13" + b"spiffe://lab/node/n", "no identity in it"),
    ],
)
def test_names_that_are_bytes(names: bytes, words: str, authority: Authority, good: Credentials) -> None:
    """Which OpenSSL lets through, and Python's ssl may not be able to tell."""
    alternatives = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes([0x30, len(names)]) + names)
    client, _ = shake(Forger(authority, "n").leaf_of(alternatives), good)
    with pytest.raises(NotAllowed, match=f"^spiffe://lab/node/n was expected, .*{words}"):
        proven(client, "spiffe://lab/node/n")


@pytest.mark.parametrize("names", [b"", b"\x86", b"\x86\x7fx"])
def test_names_that_are_not_even_asn1(names: bytes, authority: Authority, good: Credentials) -> None:
    alternatives = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes([0x30, len(names)]) + names)
    with pytest.raises((ssl.SSLError, NotAllowed)):
        proven(shake(Forger(authority, "n").leaf_of(alternatives), good)[0], "spiffe://lab/node/n")


def test_what_is_proven(identity: Callable[..., Identity]) -> None:
    client, server = shake(identity("a").issue(7, time.time()), identity("b").issue(None, time.time()))
    assert proven(client, "spiffe://lab/node/a/uid/7") == "spiffe://lab/node/a/uid/7"
    assert proven(server, "spiffe://lab/node/b") == "spiffe://lab/node/b"
    with pytest.raises(NotAllowed, match="the other end is 'spiffe://lab/node/b'"):
        proven(server, "spiffe://lab/node/a")


def test_a_nodes_own_certificate_proves_nothing(authority: Authority, good: Credentials) -> None:
    """Its key is in a file, where those of leaves are not: it is for signing."""
    forger = Forger(authority)
    shown = Credentials(making.pem(forger.certificate), making.key_pem(forger.key), forger.authorities, 0)
    for one, other in ((shown, good), (good, shown)):
        with pytest.raises(ssl.SSLError):
            meet(one, other)
    # OpenSSL looks at the use of its key; its issuer would give it away too.
    peercert = {
        "subjectAltName": (("URI", "spiffe://lab/node/m"),),
        "issuer": ((("commonName", authority.own.subject),),),
    }
    with pytest.raises(NotAllowed, match="its issuer is 'authority lab "):
        checked(peercert, "spiffe://lab/node/m")


def test_what_may_not_sign(authority: Authority, good: Credentials) -> None:
    forger = Forger(authority)
    # A process that signs.
    process_key, key = making.new_key(), making.new_key()
    leaves = making.Leaves(forger.certificate, forger.key)
    process = leaves.make("spiffe://lab/node/m/uid/7", "uid 7", process_key.public_key(), time.time())
    below = making.Leaves(process, process_key).make(VICTIM, "uid 0", key.public_key(), time.time())
    assert not accepts(forger.credentials(below, key, process), good)
    # A node that makes a node.
    node_key = making.new_key()
    node = making.node("lab", "n", node_key.public_key(), forger.certificate, forger.key, time.time(), 1)
    assert reading.look(making.pem(node), "").kind == "node"
    leaf = making.Leaves(node, node_key).make(VICTIM, "uid 0", key.public_key(), time.time())
    assert not accepts(forger.credentials(leaf, key, node), good)
