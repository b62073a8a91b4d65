"""Sealed memory: a memfd whose bytes can never change again, so that whoever has it may map it and trust it."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from typing import Final

from ipcd_client.primitives.errors import BadMemory
from ipcd_client.wire.fds import Fd

SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MFD_NOEXEC_SEAL: Final = 0x0008  # linux/memfd.h, Linux 6.3


def make(size: int) -> Fd:
    """Memory of so many bytes, to be written with `os.pwrite`, then sealed.

    Raises:
        OSError: there is none, or no descriptor.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memory = Fd(os.memfd_create("ipcd-sealed", flags | _MFD_NOEXEC_SEAL))
    except OSError:
        memory = Fd(os.memfd_create("ipcd-sealed", flags))
    try:
        os.ftruncate(memory.fileno(), size)
        # Whoever is to write it cannot make it more.
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        memory.close()
        raise
    return memory


def write(memory: Fd, data: bytes | memoryview, offset: int) -> int:
    """Writes all of it; where the next goes.

    Raises:
        OSError: there is no memory.
    """
    view = memoryview(data)
    while view:
        count = os.pwrite(memory.fileno(), view, offset)
        view, offset = view[count:], offset + count
    return offset


def seal(memory: Fd) -> None:
    """Nobody can write to it from now on.

    Raises:
        OSError: somebody has it mapped to write to it.
    """
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, SEALS)


def mapped(memory: Fd, size: int) -> memoryview:
    """Its bytes, read-only, without a copy. The descriptor may be closed; the mapping lasts as long as any view of it.

    Raises:
        BadMemory: it is not sealed, or of another size.
        OSError: it cannot be mapped.
    """
    _check(memory, size)
    # Private, as Linux before 6.7 refuses a shared mapping of what is sealed against writing. The pages are the same.
    mapping = mmap.mmap(memory.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    with suppress(OSError):
        mapping.madvise(mmap.MADV_WILLNEED)
    return memoryview(mapping)


def copied(memory: Fd, size: int) -> bytes:
    """A copy of its bytes.

    Raises:
        BadMemory, OSError: as `mapped`.
    """
    _check(memory, size)
    with mmap.mmap(memory.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapping:
        return mapping[:]


def _check(memory: Fd, size: int) -> None:
    try:
        seals = fcntl.fcntl(memory.fileno(), fcntl.F_GET_SEALS)
    except OSError:
        raise BadMemory("the memory is no memfd") from None
    if seals & SEALS != SEALS:
        raise BadMemory(f"the memory's seals are {seals:#x}, {SEALS:#x} are needed")
    # Only now, as it cannot change any more.
    found = os.fstat(memory.fileno()).st_size
    if found != size:
        raise BadMemory(f"the memory has {found} bytes, {size} were said")
    if not size:
        raise BadMemory("the memory has no bytes, and what is so small comes without any")
