"""`ipcd demo`: two nodes on this machine, one service over the files of Python's own standard library, the
same calls over every transport: what was picked, why, how fast, beside grpcio.

    command      the run itself
    show         what is shown of it: text or JSON
    stage        what it is played on: servers, clients, the interleaved turns
    nodes        the two daemons
    processes    child processes
    roads        the ways that are measured, as data
    worker       the client process
    server       the server process
    work         the real work, each answer checked
    timing       samples and percentiles
    service      the servicer of lab.v1.Lab
    library      what it does, apart from any RPC
"""

from __future__ import annotations

from typing import Literal


def run(*, quick: bool = False, output: Literal["text", "json"] = "text") -> int:
    """Play the demo; the exit code of the command: 0; 1, a wrong result or a failure; 130, interrupted.

    `quick` measures for 2 seconds instead of 16. With "json", standard output is one JSON object.
    """
    from ipcd.demo import command  # here: rich and grpcio take a while to load, and `ipcd run` needs no demo

    return command.run(quick=quick, output=output)
