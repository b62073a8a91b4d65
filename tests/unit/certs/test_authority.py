"""The operator's directory."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from ipcd_client.certs import files, making, reading
from ipcd_client.certs.authority import Authority, check_name, default_directory
from ipcd_client.certs.identity import Identity
from ipcd_client.errors import ConfigError
from ipcd_client.wire.identity import LONGEST_CLUSTER, LONGEST_NODE

DAY = 86400


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_where_it_is() -> None:
    assert default_directory({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/ipcd/authority")
    for environ in (
        {"HOME": "/h"},
        {"XDG_CONFIG_HOME": "relative", "HOME": "/h"},
        {"XDG_CONFIG_HOME": "", "HOME": "/h"},
    ):
        assert default_directory(environ) == Path("/h/.config/ipcd/authority")
    with pytest.raises(ConfigError, match="--dir"):
        default_directory({})


def test_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Authority.create(tmp_path / "new" / "authority", "lab")
    finally:
        os.umask(before)
    assert mode(made.directory) == 0o700
    assert mode(made.path) == 0o600
    assert sorted(path.name for path in made.directory.iterdir()) == ["authority.pem", "trusted.pem"]
    assert b"PRIVATE KEY" in made.path.read_bytes()
    assert made.trusted_path.read_bytes() == making.pem(made.own.certificate)
    assert (made.own.kind, made.own.identity, made.own.cluster) == ("authority", "spiffe://lab", "lab")
    assert made.own.signed_by(made.own)
    loaded = Authority.load(made.directory)
    assert loaded.own == made.own
    assert loaded.trusted == made.trusted == [made.own]
    assert not loaded.rotating


def test_two_of_one_cluster_have_different_names(tmp_path: Path) -> None:
    one, other = (Authority.create(tmp_path / name, "lab").own for name in ("one", "other"))
    assert one.subject.startswith("authority lab ")
    assert one.subject != other.subject


def test_an_authority_is_not_overwritten(authority: Authority) -> None:
    before = authority.path.read_bytes()
    with pytest.raises(ConfigError, match=r"authority\.pem: this is there already; --force overwrites it"):
        Authority.create(authority.directory, "lab")
    assert authority.path.read_bytes() == before
    made = Authority.create(authority.directory, "lab", force=True)
    assert Authority.load(authority.directory).own == made.own != authority.own
    made.path.unlink()
    with pytest.raises(ConfigError, match=r"trusted\.pem: this is there already"):
        Authority.create(authority.directory, "lab")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "authority"):
        with pytest.raises(ConfigError, match=r"/file: this is not a directory"):
            Authority.create(place, "lab")
    with pytest.raises(ConfigError, match=r"^/proc/self/none: it cannot be made: No such file or directory"):
        Authority.create(Path("/proc/self/none"), "lab")


def test_a_node_does_not_outlive_the_authority(tmp_path: Path) -> None:
    now = time.time()
    made = Authority.create(tmp_path / "authority", "lab", now=now - 3640 * DAY)
    assert made.issue("a", 365, now=now).seen.expires == made.own.expires
    assert made.issue("a", 5, now=now).seen.expires == int(now) + 5 * DAY
    made.rotate()
    across = next(each for each in map(_look, files.read(str(made.path)).certificates) if each.kind == "cross-signed")
    assert across.expires == made.trusted[1].expires
    assert made.own.expires > now + 3649 * DAY


def _look(pem: bytes) -> reading.Seen:
    return reading.look(pem, "")


def test_an_expired_authority(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "authority", "lab", now=time.time() - 3651 * DAY)
    with pytest.raises(ConfigError, match=r"authority\.pem: it has expired on .*; make .* ipcctl cert init --force"):
        Authority.load(made.directory)


@pytest.mark.parametrize("name", ["a", "host1", "a.b-c_d", "0", "_x", "a" * LONGEST_NODE])
def test_names_of_nodes(name: str, authority: Authority) -> None:
    assert authority.issue(name).seen.node == name


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", ".", "..", "-a", ".a", "\xe4", "a%41", "a\n", "a:1", "\u0131"])
def test_names_that_no_certificate_can_have(name: str, authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node .*: in a certificate a name begins with"):
        authority.issue(name)
    with pytest.raises(ConfigError, match=r"cluster .*: in a certificate a name begins with"):
        Authority.create(tmp_path / "other", name)
    assert not (tmp_path / "other").exists()


def test_names_that_are_too_long(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"has {LONGEST_NODE} characters at most"):
        authority.issue("a" * (LONGEST_NODE + 1))
    with pytest.raises(ConfigError, match=f"has {LONGEST_CLUSTER} characters at most"):
        Authority.create(tmp_path / "other", "a" * (LONGEST_CLUSTER + 1))
    longest = Authority.create(tmp_path / "other", "a" * LONGEST_CLUSTER)
    assert longest.issue("a" * LONGEST_NODE).seen.kind == "node"
    assert check_name("node", "a", 1) == "a"


# ---------------------------------------------------------------------------------------------------------- refusals


def spoil(authority: Authority, name: str, change: Callable[[bytes], bytes]) -> None:
    path = authority.directory / name
    path.write_bytes(change(path.read_bytes()))


def test_a_directory_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"authority\.pem: there is no such file; make an authority with: ipcctl cert"
    ):
        Authority.load(tmp_path)


def test_files_that_do_not_fit(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "lab")
    key = files.read(str(other.path)).keys[0]
    own = making.pem(authority.own.certificate)
    for content, words in {
        own: r"there is no private key in it",
        key: "not that of an authority",
        own + key: "the key in it is not that of its certificate",
        authority.issue("a").content: "not that of an authority",
    }.items():
        authority.path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"authority\.pem: .*{words}"):
            Authority.load(authority.directory)


def test_an_authority_that_others_may_read(authority: Authority) -> None:
    authority.path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"authority\.pem: .*mode 0640.*chmod 600"):
        Authority.load(authority.directory)


def test_trusted_authorities_without_it(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "lab")
    shutil.copy(other.trusted_path, authority.trusted_path)
    with pytest.raises(ConfigError, match=rf"trusted\.pem: the authority {authority.own.subject} is not among"):
        Authority.load(authority.directory)
    authority.trusted_path.unlink()
    with pytest.raises(ConfigError, match=r"trusted\.pem: there is no such file; bring back a copy"):
        Authority.load(authority.directory)


def test_an_authority_of_another_cluster(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "office")
    spoil(authority, "trusted.pem", lambda content: content + making.pem(other.own.certificate))
    with pytest.raises(
        ConfigError, match=r"trusted\.pem: 'authority office .*' .* of the cluster office, not of lab; take"
    ):
        Authority.load(authority.directory)


# ---------------------------------------------------------------------------------------------------------- rotation


def test_a_rotation(authority: Authority, tmp_path: Path) -> None:
    old = authority.own
    old_key = files.read(str(authority.path)).keys
    authority.rotate()
    rotated = Authority.load(authority.directory)
    assert rotated.rotating
    assert rotated.own == authority.own != old
    assert rotated.trusted == [rotated.own, old]
    assert mode(authority.path) == 0o600
    assert files.read(str(authority.path)).keys != old_key
    content = rotated.issue("a").content
    path = tmp_path / "a.pem"
    files.write(path, content, files.PRIVATE, force=False)
    assert [_look(block).kind for block in files.read(str(path)).certificates] == [
        "node",
        "cross-signed",
        "authority",
        "authority",
    ]
    chain = [_look(block) for block in files.read(str(path)).certificates]
    assert chain[0].signed_by(chain[2])
    assert chain[1].signed_by(old)
    assert chain[1].subject == chain[2].subject
    assert making.same_key(chain[1].certificate.public_key(), chain[2].certificate.public_key())  # type: ignore[arg-type]
    across = chain[1].certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (across.ca, across.path_length) == (True, 1)

    assert rotated.retire() == [old]
    retired = Authority.load(authority.directory)
    assert not retired.rotating
    assert retired.trusted == [retired.own] == [authority.own]
    assert Identity.load(str(path)).authorities != making.pem(authority.own.certificate)
    files.write(path, retired.issue("a").content, files.PRIVATE, force=True)
    assert Identity.load(str(path)).authorities == making.pem(authority.own.certificate)


def test_one_rotation_at_a_time(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="no older authority to retire; to replace this one: ipcctl cert rotate"):
        authority.retire()
    authority.rotate()
    with pytest.raises(ConfigError, match=r"the last rotation has not ended; .*ipcctl cert rotate --retire"):
        Authority.load(authority.directory).rotate()
    authority.retire()
    authority.rotate()
    assert len(Authority.load(authority.directory).trusted) == 2


@pytest.mark.parametrize("step", ["rotate", "retire"])
@pytest.mark.parametrize("written", [0, 1])
def test_an_end_in_the_middle_can_be_made_good(
    step: str, written: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine goes down after so many of the two files."""
    if step == "retire":
        authority.rotate()
    current = authority.own
    real, count = files.write, 0

    def write(path: Path, content: bytes, mode: int, *, force: bool) -> None:
        nonlocal count
        if count == written:
            raise KeyboardInterrupt
        count += 1
        real(path, content, mode, force=force)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", write)
        with pytest.raises(KeyboardInterrupt):
            getattr(authority, step)()
    loaded = Authority.load(authority.directory)
    assert loaded.own == current
    assert loaded.issue("a").seen.node == "a"
    getattr(loaded, step)()
    again = Authority.load(authority.directory)
    assert again.rotating == (step == "rotate")
    if step == "retire":
        assert again.trusted == [current]
    else:
        assert current in again.trusted
        again.retire()
        assert Authority.load(authority.directory).trusted == [again.own]


def test_others_that_the_operator_trusts_stay_through_a_rotation(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "lab")
    spoil(authority, "trusted.pem", lambda content: content + making.pem(other.own.certificate))
    loaded = Authority.load(authority.directory)
    old = loaded.own
    loaded.rotate()
    assert Authority.load(authority.directory).trusted == [loaded.own, old, other.own]
