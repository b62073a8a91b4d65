"""What the system tells of a process, and what a process of the benchmarks sets up for itself."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """In bytes. `pss` counts what several processes map by equal parts; `private` is this process's alone."""

    rss: int
    pss: int
    private: int


def cpu_ns(pid: int) -> int:
    """CPU time of all threads a process has and had. Raises OSError where it has ended.

    Its CPU clock has nanoseconds, where /proc/PID/stat counts ticks of 10 ms. The clock's number is made as
    clock_getcpuclockid(3) makes it, which Python does not have.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def faults(pid: int) -> int:
    """Pages that had to be mapped when a process touched them. Raises OSError where it has ended."""
    # The command's name stands in parentheses and may hold any character; after it come the plain fields.
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[7])


def memory(pid: int) -> Memory:
    """Of a running process. Raises OSError where it has ended."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def shared_memory() -> int:
    """Bytes of all shared memory of the system. What a memfd has allocated counts here even where nobody has touched
    it, when it is in no process's resident memory."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def allow_descriptors() -> None:
    """As many as this process may have: a thousand connections take more than the usual limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
