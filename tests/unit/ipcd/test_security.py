"""When certificates of processes are made, and for how long each is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Identity
from ipcd_client.errors import ConfigError

from ipcd.security import Security

HOUR = 3600.0


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "tests")


def identity(folder: Path, authority: Authority, days: int = 365) -> Identity:
    file = folder / "a.pem"
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
    file.write_bytes(authority.issue("a", days).content)
    return Identity.load(str(file))


def test_one_for_each_user_until_half_of_its_life(tmp_path: Path, authority: Authority) -> None:
    node = identity(tmp_path, authority)
    clock = Clock(node.expires - 100 * HOUR)
    security = Security(node, clock)
    first = security.for_process(1000, "spiffe://tests/node/b/uid/0")
    assert first.peer == "spiffe://tests/node/b/uid/0"
    assert security.for_process(1001, first.peer).chain != first.chain
    clock.now += 0.49 * HOUR
    assert security.for_process(1000, first.peer) == first
    clock.now += 0.02 * HOUR
    second = security.for_process(1000, first.peer)
    assert second.key != first.key
    # The clock was put back: what was made is of a time to come.
    clock.now -= 0.1 * HOUR
    assert security.for_process(1000, first.peer).key not in {first.key, second.key}


def test_another_identity_is_used_at_once(tmp_path: Path, authority: Authority) -> None:
    security = Security(identity(tmp_path, authority))
    first = security.for_process(0, "x")
    authority.rotate()
    security.replace(identity(tmp_path, authority))
    second = security.for_process(0, "x")
    assert second.chain != first.chain
    assert second.authorities != first.authorities


def test_the_nodes_own_end(tmp_path: Path, authority: Authority) -> None:
    """Near it they get shorter, and behind it there are none."""
    node = identity(tmp_path, authority)
    clock = Clock(node.expires - 60)
    security = Security(node, clock)
    first = security.for_process(0, "x")
    clock.now += 31
    assert security.for_process(0, "x") != first
    clock.now += 30
    with pytest.raises(ConfigError, match="has expired"):
        security.for_process(0, "x")


def test_users_whose_certificates_are_kept_are_bounded(tmp_path: Path, authority: Authority) -> None:
    security = Security(identity(tmp_path, authority))
    first = security.for_process(0, "x")
    for uid in range(1, 256):
        security.for_process(uid, "x")
    assert security.for_process(0, "x") == first
    security.for_process(256, "x")
    assert security.for_process(0, "x") == first
    assert len(security._made) == 256
