"""Bytes from one process to another."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import ipcd_client

from benchmarks.named.stage import Cue, Missing, Stage, free_port, play

TOTAL = 256 << 20
PIECE = 64 << 10


def _rate(seconds: float) -> float:
    return TOTAL / seconds / 1e6


def _fifo_writer(cue: Cue, path: str) -> None:
    piece = bytes(PIECE)
    cue.ready()
    with Path(path).open("wb", buffering=0) as file:
        for _ in range(TOTAL // PIECE):
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]


def _fifo_reader(cue: Cue, path: str) -> float:
    cue.ready()
    start, total = time.perf_counter(), 0
    with Path(path).open("rb", buffering=0) as file:
        while data := file.read(PIECE):
            total += len(data)
    assert total == TOTAL
    return time.perf_counter() - start


def fifo(stage: Stage) -> float:
    path = stage.folder / "fifo"
    os.mkfifo(path)
    try:
        return _rate(play((_fifo_reader, str(path)), (_fifo_writer, str(path)))[0])
    finally:
        path.unlink()


def _used(node: str) -> None:
    """What a process loads with its first pipe is no part of the rate."""
    ipcd_client.pipe(f"used.{os.getpid()}", node=node).open_read(nonblock=True).close()


def _pipe_writer(cue: Cue, node: str, name: str) -> None:
    piece = bytes(PIECE)
    _used(node)
    cue.ready()
    with ipcd_client.pipe(name, node=node).open_write() as file:
        for _ in range(TOTAL // PIECE):
            file.write(piece)


def _pipe_reader(cue: Cue, node: str, name: str) -> float:
    _used(node)
    cue.ready()
    start, total = time.perf_counter(), 0
    with ipcd_client.pipe(name, node=node).open_read() as file:
        while data := file.read(PIECE):
            total += len(data)
    assert total == TOTAL
    return time.perf_counter() - start


def ipcd_here(stage: Stage) -> float:
    return _rate(play((_pipe_reader, stage.a, "here"), (_pipe_writer, stage.a, "here"))[0])


def ipcd_there(stage: Stage) -> float:
    return _rate(play((_pipe_reader, stage.b, "there"), (_pipe_writer, stage.a, "there"))[0])


def _tcp_reader(cue: Cue, port: int) -> float:
    with socket.create_server(("127.0.0.1", port)) as listener:
        cue.ready()
        start, total = time.perf_counter(), 0
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(PIECE):
                total += len(data)
    assert total == TOTAL
    return time.perf_counter() - start


def _tcp_writer(cue: Cue, port: int) -> None:
    piece = bytes(PIECE)
    cue.ready()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(TOTAL // PIECE):
            sock.sendall(piece)


def tcp(stage: Stage) -> float:  # noqa: ARG001
    port = free_port()
    return _rate(play((_tcp_reader, port), (_tcp_writer, port))[0])


def socat(stage: Stage) -> float:  # noqa: ARG001
    program = shutil.which("socat")
    if program is None:
        raise Missing("socat is not installed")
    port = free_port()
    block = ["-b", str(PIECE)]
    with subprocess.Popen(
        [program, *block, "-u", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr", "OPEN:/dev/null,wronly"]
    ) as listener:
        start = time.perf_counter()
        command = [program, *block, "-u", "-", f"TCP:127.0.0.1:{port},retry=50,interval=0.02"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            piece = bytes(PIECE)
            for _ in range(TOTAL // PIECE):
                sender.stdin.write(piece)
            sender.stdin.close()
            sender.wait()
        listener.wait()
        return _rate(time.perf_counter() - start)
