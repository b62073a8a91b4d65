"""Where a command is offered: both faces of the handle agree on this. And what its standard streams may be."""

from __future__ import annotations

import codecs
import fcntl
import os
import subprocess
from typing import Any, Final
from urllib.parse import quote

from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.offer import KIND

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Command"].full_name
# Seconds for a run to be started, beyond what the caller would wait for its turn; and for Describe.
START: Final = 20.0


def target_of(text: str) -> str:
    """The channel's target for NAME or NAME@NODE: a server of this name, there or anywhere.

    Raises:
        BadRequest: it is no name.
    """
    name, node = naming.parse(KIND, text)
    return f"ipcd:{'//' if node else ''}{quote(node, safe='')}/{quote(name, safe='')}"


def to_of(value: Any, which: str) -> int:
    """What is asked of the offerer for an output that the caller wants to have there.

    Raises:
        BadRequest: this output cannot go there.
    """
    if value == subprocess.DEVNULL and isinstance(value, int):
        return pb.RunStart.TO_NOTHING
    if value == subprocess.STDOUT and isinstance(value, int):
        if which != "stderr":
            raise BadRequest(f"{which} cannot be STDOUT")
        return pb.RunStart.TO_STDOUT
    return pb.RunStart.TO_CALLER


def piped(stdin: Any) -> bool:
    """Whether the caller gives some standard input."""
    return stdin is not None and not (isinstance(stdin, int) and stdin == subprocess.DEVNULL)


def descriptor_of(value: Any, default: int | None) -> int | None:
    """The descriptor that a stream is to be copied from or to; None where it is none: PIPE, DEVNULL, STDOUT."""
    if value is None:
        return default
    if isinstance(value, int):
        return value if value >= 0 else None
    if hasattr(value, "flush") and getattr(value, "writable", bool)():
        value.flush()
    try:
        return int(value.fileno())
    except (AttributeError, OSError) as error:
        raise BadRequest(f"{value!r} has no descriptor: streams are PIPE, DEVNULL, files or descriptors") from error


def check_streams(stdin: Any, stdout: Any, stderr: Any, encoding: str | None = None) -> None:
    """Whether a run can be connected with these, before anything is started.

    Raises:
        BadRequest: with one of them it cannot.
    """
    for name, value, default in (("stdin", stdin, None), ("stdout", stdout, 1), ("stderr", stderr, 2)):
        try:
            fd = descriptor_of(value, default)
            if fd is None:
                continue
            access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        except (OSError, ValueError) as error:
            if isinstance(error, BadRequest):
                raise
            raise BadRequest(f"{name}: {value!r} is not open: {error}") from error
        if access == (os.O_WRONLY if name == "stdin" else os.O_RDONLY):
            raise BadRequest(f"{name}: {value!r} is not open for {'reading' if name == 'stdin' else 'writing'}")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise BadRequest(str(error)) from error


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it.

    Raises:
        OSError: it cannot be.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
