"""Nobody else ever sees a key, and nothing is overwritten by mistake."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ipcd_client.certs import files
from ipcd_client.errors import ConfigError


@pytest.fixture(params=[0, 0o022, 0o777])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [files.PRIVATE, files.PUBLIC])
def test_a_file_has_its_mode_from_the_start(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real: Any = os.fdopen

    def fdopen(fd: int, *arguments: str) -> object:
        # As it is when the first byte is written.
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return real(fd, *arguments)

    monkeypatch.setattr(os, "fdopen", fdopen)
    for force in (False, True):
        files.write(tmp_path / "x", b"content", mode, force=force)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert len(seen) == 2
    assert not any(each & 0o077 for each in seen)
    assert names(tmp_path) == ["x"]


def test_what_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"/x: this is there already; --force overwrites it"):
        files.write(path, b"new", files.PRIVATE, force=False)
    assert path.read_bytes() == b"old"
    files.write(path, b"new", files.PRIVATE, force=True)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == files.PRIVATE
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--force"):
        files.write(dangling, b"new", files.PRIVATE, force=False)
    assert names(tmp_path) == ["dangling", "x"]


def test_a_file_that_comes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"other"))
    with pytest.raises(ConfigError, match="--force"):
        files.write(path, b"new", files.PRIVATE, force=False)
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["x"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hardlink_to(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    files.write(tmp_path / "x", b"new", files.PRIVATE, force=False)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_what_was(force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    if force:
        path.write_bytes(b"old")

    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ConfigError, match=r"/x: it cannot be written: No space left on device"):
        files.write(path, b"new", files.PRIVATE, force=force)
    assert names(tmp_path) == (["x"] if force else [])
    if force:
        assert path.read_bytes() == b"old"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none/x: it cannot be written: No such file or directory"):
        files.write(tmp_path / "none" / "x", b"", files.PRIVATE, force=False)


def test_what_is_no_file_with_certificates(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("-----BEGIN CERTIFICATE-----\nno end")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "request").write_text("-----BEGIN X-----\n-----END X-----\n")
    for name, words in {
        "": "not a regular file",
        "fifo": "not a regular file",
        "text": "neither a certificate nor a key",
        "large": "more than 1048576 bytes",
        "request": "neither a certificate nor a key",
        "none": "no such file",
        "text/x": "Not a directory",
        "a\0b": "null (byte|character)",
    }.items():
        with pytest.raises(ConfigError, match=rf"^{tmp_path}.*: .*{words}.*; do this") as raised:
            files.read(f"{tmp_path}/{name}", "do this")
        assert name in str(raised.value)
