"""A cluster under load, and under one fault after the other.

IPCD_FAULTS_SECONDS=600 goes on for so long, and puts the figures of all processes into the folder IPCD_FAULTS_OUT.
IPCD_FAULTS_SEED has the same faults in the same order, IPCD_FAULTS_ONLY only those whose name has that in it.
"""

from __future__ import annotations

import itertools
import os
import time

import pytest
from faults.engine import Engine, Found
from faults.injections import ALL
from faults.report import write
from faults.world import World

SECONDS = float(os.environ.get("IPCD_FAULTS_SECONDS") or 0)  # 0: once through all faults
OUT = os.environ.get("IPCD_FAULTS_OUT") or ""
ONLY = os.environ.get("IPCD_FAULTS_ONLY") or ""


@pytest.mark.timeout(SECONDS + 300)
def test_every_call_is_accounted_for(world: World, seed: str) -> None:
    engine = Engine(world, seed)
    engine.settle()
    faults = [fault for fault in ALL if ONLY in fault.name]
    end = time.monotonic() + SECONDS
    found: list[Found] = []
    for number, fault in enumerate(engine.schedule(faults), start=1):
        if number > len(faults) and time.monotonic() > end:
            break
        one = engine.round(fault)
        found.append(one)
        counts = ", ".join(f"{count} {status}" for status, count in one.outcomes.most_common())
        print(f"{number:4} {one.seconds:5.1f} s, back after {one.recovered:5.2f} s  {one.fault}: {counts}")
        print(*[f"     {what}\n" for what in one.wrong], sep="", end="", flush=True)
    outcomes = ", ".join(f"{count} {status}" for status, count in world.ledger.outcomes.most_common())
    print(f"{len(found)} faults, {world.ledger.total} calls: {outcomes}; {world.roads.flipped} bytes changed")
    if OUT:
        write(OUT, engine.watch, found)
    wrong = [f"{one.fault}: {what}" for one in found for what in one.wrong]
    wrong += engine.watch.growth()
    assert not wrong, "\n".join(itertools.islice(wrong, 40))
