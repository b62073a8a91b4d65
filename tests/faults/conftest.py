"""A cluster to put under faults."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.world import World, environment

SEED = os.environ.get("IPCD_FAULTS_SEED") or str(time.time_ns() % 1_000_000)


@pytest.fixture
def seed() -> str:
    """By which a run can be had again: IPCD_FAULTS_SEED sets it."""
    print(f"IPCD_FAULTS_SEED={SEED}")
    return SEED


@pytest.fixture
def world(seed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Started, and calling nothing yet. In a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ipcd-f-") as folder:
        clock = Path(folder, "clock")
        clock.write_text("0")
        for name, value in environment(clock).items():
            monkeypatch.setenv(name, value)
        one = World(Path(folder), clock, seed)
        wrong = []
        try:
            one.start()
            yield one
        finally:
            wrong = one.end()
            for node in one.daemons:
                for log in Path(folder).glob(f"{node}.*.log"):
                    text = log.read_text(errors="replace")
                    if "Traceback" in text or "traceback" in text:
                        at = text.lower().index("traceback")
                        wrong.append(f"the log of daemon {node} has a traceback: {text[max(0, at - 1000) : at + 3000]}")
        assert not wrong, "\n".join(wrong)
