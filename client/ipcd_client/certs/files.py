"""Files with certificates and keys: read with suspicion, written so that nobody else ever sees a key."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ipcd_client.errors import ConfigError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
# Bytes. A certificate has one or two KiB, and nobody trusts a thousand authorities.
_LARGEST: Final = 1 << 20
# What link() says on file systems that have none, such as FAT and some that containers share with their host.
_NO_LINKS: Final = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV}
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pem:
    """What is in a file: certificates and keys, each as PEM, in their order."""

    path: str
    mode: int
    for_group: bool  # it belongs to root, not to who reads it: then it may be for a group, as secrets in containers are
    certificates: list[bytes]
    keys: list[bytes] = field(repr=False)

    def key(self) -> bytes:
        """The one key.

        Raises:
            ConfigError: others may read it, it is not there, or there are several.
        """
        if not self.keys:
            raise ConfigError(f"{self.path}: there is no private key in it")
        if self.mode & (0o037 if self.for_group else 0o077):
            raise ConfigError(
                f"{self.path}: there is a private key in it, and others than its owner have rights to it "
                f"(mode {self.mode:04o}); say: chmod 600 {self.path}"
            )
        if len(self.keys) > 1:
            raise ConfigError(f"{self.path}: there are {len(self.keys)} private keys in it, where one is expected")
        return self.keys[0]


def read(path: str, advice: str = "") -> Pem:
    """The PEM blocks of a file. `advice` is what to do where there is no such file, or nothing in it.

    Raises:
        ConfigError: naming the file.
    """
    then = f"; {advice}" if advice else ""
    try:
        # Not to wait for ever for somebody to write, if this is a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: this is not a regular file{then}")
            with os.fdopen(fd, "rb", closefd=False) as file:
                content = file.read(_LARGEST + 1)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file{then}") from error
    except PermissionError as error:
        raise ConfigError(
            f"{path}: uid {os.geteuid()} may not read it; it has to belong to the user who needs it, with mode 0600"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}{then}") from error
    if len(content) > _LARGEST:
        raise ConfigError(f"{path}: it has more than {_LARGEST} bytes, so it is no file with certificates{then}")
    certificates, keys = [], []
    for block in _BLOCK.finditer(content):
        if block[1] == b"CERTIFICATE":
            certificates.append(block[0] + b"\n")
        elif block[1].endswith(b"PRIVATE KEY"):
            keys.append(block[0] + b"\n")
    if not certificates and not keys:
        raise ConfigError(f"{path}: there is neither a certificate nor a key in it, in PEM{then}")
    for_group = status.st_uid == 0 and os.geteuid() != 0
    return Pem(path, stat.S_IMODE(status.st_mode), for_group, certificates, keys)


def refuse_to_overwrite(path: Path) -> None:
    """Raises `ConfigError` where something is at `path`."""
    if os.path.lexists(path):
        raise ConfigError(f"{path}: this is there already; --force overwrites it")


def write(path: Path, content: bytes, mode: int, *, force: bool) -> None:
    """Writes a file whole or not at all. It has its mode from the start. Without `force`, nothing is overwritten.

    Raises:
        ConfigError: naming the file.
    """
    if not force:
        refuse_to_overwrite(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            # The mode has to be right before there is anything to read; a umask could only have made it narrower.
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(content)
                file.flush()
                os.fsync(fd)
            if force:
                partial.replace(path)
            else:
                _place(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        _sync(path.parent)
    except FileExistsError:
        raise ConfigError(f"{path}: this is there already; --force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be written: {error.strerror or error}") from error


def _place(partial: Path, path: Path) -> None:
    """A link, unlike a rename, does not take the place of a file that has come meanwhile."""
    try:
        path.hardlink_to(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        refuse_to_overwrite(path)
        partial.replace(path)


def _sync(directory: Path) -> None:
    """Makes a new name in a directory last, where the file system can."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
