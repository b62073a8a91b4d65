"""Limits of running processes, changed from outside."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def limited(pid: int, what: int, most: int) -> Iterator[None]:
    """A soft limit, for a while. Also below what the process has: it keeps that, and gets no more."""
    before = resource.prlimit(pid, what)
    hard = before[1]
    resource.prlimit(pid, what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


@contextlib.contextmanager
def no_descriptors(pids: Iterable[int], spare: int = 0) -> Iterator[None]:
    """None of these can open anything any more, but for so many spare ones: all other free numbers are at the limit or
    beyond it."""
    with contextlib.ExitStack() as stack:
        for pid in pids:
            listed = list(Path(f"/proc/{pid}/fd").iterdir())
            # Of this process, the listing itself was one.
            taken = {int(path.name) for path in listed if path.is_symlink()}
            free = [number for number in range(len(taken) + spare + 1) if number not in taken][spare]
            stack.enter_context(limited(pid, resource.RLIMIT_NOFILE, free))
        yield


@contextlib.contextmanager
def no_memory(pids: Iterable[int], more: int) -> Iterator[None]:
    """These get no more address space than `more` bytes beside what they have."""
    with contextlib.ExitStack() as stack:
        for pid in pids:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
            stack.enter_context(limited(pid, resource.RLIMIT_AS, pages * resource.getpagesize() + more))
        yield


@contextlib.contextmanager
def no_room(pids: Iterable[int]) -> Iterator[None]:
    """No file of these grows beyond nothing, as on a disk that is full."""
    with contextlib.ExitStack() as stack:
        for pid in pids:
            stack.enter_context(limited(pid, resource.RLIMIT_FSIZE, 0))
        yield
