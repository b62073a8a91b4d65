#!/usr/bin/env python3
"""Latency of a sync unary call: ipcd's transports, each beside grpcio on the same kind of socket, in one run.

    python benchmarks/unary_latency.py [--size BYTES]... [--rounds N] [--seconds S] [--json FILE] [--require T=N]...

Two `ipcd run` nodes, a server behind ipcd and one behind grpcio, and a client for each way of calling, each a process
of its own, as in `ipcd demo`. The clients take turns, so that whatever drifts hits all alike. A Markdown table goes to
standard output, what happens meanwhile to standard error.

Exit code: 0; 1 where a `--require` is not met or the run failed; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
import ipcd_client

from ipcd.demo.processes import StageError, ended_as_interrupted
from ipcd.demo.roads import BESIDE, Asked
from ipcd.demo.stage import Client, interleave, ratio, set_up
from ipcd.demo.timing import Summary, ratio_text

# The caller's node (the server is on a) and the transport asked for. To measure another, add a line.
ROADS = (
    Asked(caller="a", transport="unix"),
    Asked(caller="b", transport="tcp"),
)


@dataclass(frozen=True, slots=True)
class Row:
    size: int  # bytes of payload, each way
    transport: str
    figures: Summary
    beside: str | None  # the transport compared with
    p50_ratio: float | None  # to the p50 of that


def tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def measure(sizes: list[int], rounds: int, seconds: float) -> list[Row]:
    """`seconds` is what each way of calling is given for each size, over all rounds."""

    def after(client: Client, median: float) -> None:
        tell(f"  {client.taken.transport}: {median:.1f} us")

    rows = []
    with ended_as_interrupted(), set_up(ROADS, tell) as stage:
        for size in sizes:
            tell(f"{size} B")
            figures = interleave(stage.clients, rounds, seconds / rounds, size, after)
            rows += [
                Row(size, transport, summary, BESIDE.get(transport), ratio(figures, transport))
                for transport, summary in figures.items()
            ]
    return rows


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor()) or "unknown"


def facts() -> dict[str, str]:
    return {
        "CPUs usable": str(len(os.sched_getaffinity(0))),
        "CPU": cpu_model(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "ipcd": ipcd_client.__version__,
        "grpcio": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        "zeroconf": importlib.metadata.version("zeroconf"),
    }


def markdown(rows: list[Row], machine: dict[str, str]) -> str:
    lines = [
        "| payload | transport | p50 | p99 | calls/s | calls | p50 beside grpcio |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        figures = row.figures
        beside = "" if row.p50_ratio is None else f"{ratio_text(row.p50_ratio)} of {row.beside}"
        lines.append(
            f"| {row.size} B | {row.transport} | {figures.p50_us:.1f} us | {figures.p99_us:.1f} us"
            f" | {figures.per_second:,.0f} | {figures.calls:,} | {beside} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in machine.items())]
    return "\n".join(lines)


def unmet(rows: list[Row], required: dict[str, float]) -> list[str]:
    """What falls short of the p50 being at most 1/N of grpcio's, for each transport of `required`, for any size."""
    short = []
    for transport, wanted in required.items():
        ratios = [row.p50_ratio for row in rows if row.transport == transport and row.p50_ratio is not None]
        if not ratios:
            short.append(f"{transport}: not measured")
        elif max(ratios) > 1 / wanted:
            short.append(f"{transport}: {ratio_text(max(ratios))}, at most 1/{wanted:g} is required")
    return short


def requirement(text: str) -> tuple[str, float]:
    transport, _, number = text.partition("=")
    if transport not in BESIDE or not float(number) > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give one of {', '.join(BESIDE)}, '=' and a number over 0")
    return transport, float(number)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, action="append", help="bytes of payload each way (default: 64)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each way of calling (default: 20)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of them, in all (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--require",
        type=requirement,
        action="append",
        default=[],
        metavar="TRANSPORT=N",
        help="exit with 1 unless its p50 is at most 1/N of grpcio's",
    )
    options = parser.parse_args()
    if options.rounds < 1 or not options.seconds > 0 or any(size < 0 for size in options.size or ()):
        parser.error("--rounds and --seconds are over 0, --size is not below")
    try:
        rows = measure(options.size or [64], options.rounds, options.seconds)
    except StageError as error:
        tell(f"{parser.prog}: {error}")
        return 1
    except KeyboardInterrupt:
        tell(f"{parser.prog}: interrupted")
        return 130
    machine = facts()
    print(markdown(rows, machine))
    if options.json is not None:
        document: dict[str, Any] = {"machine": machine, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    short = unmet(rows, dict(options.require))
    for line in short:
        tell(f"{parser.prog}: {line}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
