"""The examples that are there twice: on grpcio, and on ipcd with the channel and the server made another way."""

from __future__ import annotations

import contextlib
import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ipcd

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"
LONG = 20.0  # seconds: far more than anything here takes


@dataclass(frozen=True)
class Example:
    """A directory of `client/examples`."""

    folder: str
    program: str
    service: str
    arguments: tuple[str, ...]
    output: str


HELLO = Example(
    "helloworld",
    "greeter",
    "helloworld.v1.Greeter",
    ("Ada",),
    "Hello, Ada!\nHello, Ada!\nGood morning, Ada!\nGood bye, Ada!\n",
)
GUIDE = Example(
    "routeguide",
    "guide",
    "routeguide.v1.RouteGuide",
    (),
    "at 469480000, 74474000: Zytglogge, Bern\n"
    "at 0, 0: nothing\n"
    "in the area: Grossmünster, Zürich\n"
    "in the area: Rhine Falls, Neuhausen\n"
    "in the area: Chapel Bridge, Luzern\n"
    "4 points, 4 places, 203 km\n"
    "left before: one\n"
    "left before: two\n",
)
both = pytest.mark.parametrize("example", [HELLO, GUIDE], ids=lambda example: example.folder)


def changed(example: Example, program: str) -> list[str]:
    """The lines in which the version on ipcd differs."""
    name = f"{example.program}_{program}"
    old, new = ((EXAMPLES / example.folder / f"{name}{end}.py").read_text().splitlines() for end in ("_grpcio", ""))
    return [line for line in difflib.ndiff(old, new) if line[0] in "+-"]


@both
def test_the_server_differs_in_one_line_and_the_import(example: Example) -> None:
    assert changed(example, "server") == [
        "+ import ipcd_client",
        "-     server = grpc.server(ThreadPoolExecutor(max_workers=10))",
        "+     server = ipcd_client.server(ThreadPoolExecutor(max_workers=10))",
    ]


@both
def test_the_client_differs_in_one_line_and_the_import(example: Example) -> None:
    assert changed(example, "client") == [
        "+ import ipcd_client",
        "-     with grpc.insecure_channel(ADDRESS) as channel:",
        "+     with ipcd_client.channel() as channel:",
    ]


@contextlib.contextmanager
def serving(example: Example, kind: str) -> Iterator[str]:
    """The server, as a process; its address for gRPC."""
    command = [sys.executable, f"{example.program}_server{kind}.py"]
    environment = {**os.environ, f"{example.program.upper()}_ADDRESS": "localhost:0"}
    folder = EXAMPLES / example.folder
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words, _, port = process.stdout.readline().rpartition(" ")
            assert words == f"serving {example.service}; gRPC's port is"
            yield f"localhost:{int(port)}"
        finally:
            process.kill()


@contextlib.contextmanager
def exposed(example: Example, address: str) -> Iterator[None]:
    """Meanwhile a grpcio server is found at the node too."""
    command = [sys.executable, "-m", "ipcd_client.cli", "expose", example.service, "--to", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "  serving  " in process.stdout.readline()
            yield
        finally:
            process.kill()


def call(example: Example, kind: str, address: str) -> subprocess.CompletedProcess[str]:
    """Runs the client. Where it is on ipcd, the address leads nowhere."""
    command = [sys.executable, f"{example.program}_client{kind}.py", *example.arguments]
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "utf-8",
        f"{example.program.upper()}_ADDRESS": address if kind else "localhost:1",
    }
    return subprocess.run(
        command, cwd=EXAMPLES / example.folder, env=environment, capture_output=True, encoding="utf-8", timeout=LONG
    )


@both
@pytest.mark.parametrize("server", ["", "_grpcio"], ids=["ipcd server", "grpcio server"])
@pytest.mark.parametrize("client", ["", "_grpcio"], ids=["ipcd client", "grpcio client"])
def test_every_client_calls_every_server(example: Example, client: str, server: str, ipcd_node: ipcd.Embedded) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(example, server))
        if server and not client:
            stack.enter_context(exposed(example, address))
        done = call(example, client, address)
    assert (done.returncode, done.stdout, done.stderr) == (0, example.output, "")


@both
@pytest.mark.parametrize("client", ["", "_grpcio"], ids=["ipcd client", "grpcio client"])
def test_without_a_server_the_client_says_so(example: Example, client: str, ipcd_node: ipcd.Embedded) -> None:
    done = call(example, client, "localhost:1")
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert (example.service in done.stderr) == (not client)


@both
@pytest.mark.parametrize("server", ["", "_grpcio"], ids=["ipcd server", "grpcio server"])
def test_ctrl_c_ends_the_server_without_a_traceback(example: Example, server: str, ipcd_node: ipcd.Embedded) -> None:
    command = [sys.executable, f"{example.program}_server{server}.py"]
    environment = {**os.environ, f"{example.program.upper()}_ADDRESS": "localhost:0"}
    with subprocess.Popen(
        command,
        cwd=EXAMPLES / example.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(2)
        _, errors = process.communicate(timeout=LONG)
    assert (process.returncode, errors) == (0, "")
