"""What it was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

# The distributions that are measured, and those that the figures depend on.
DISTRIBUTIONS = ("ipcd", "grpcio", "protobuf", "pyzmq", "pynng", "eclipse-zenoh", "iceoryx2")


def cpu_model() -> str:
    """As the kernel calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor()) or "unknown"


def load() -> float:
    """How many processes want a CPU, on average over the last minute."""
    return os.getloadavg()[0]


def facts() -> dict[str, str]:
    """Of the machine and the software, by name."""
    told = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPUs usable": str(len(os.sched_getaffinity(0))),
        "CPU": cpu_model(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for name in DISTRIBUTIONS:
        try:
            told[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            told[name] = "not installed"
    return told
