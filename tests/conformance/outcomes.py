"""What became of a call, in a form to compare; and what several tests let a program do with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import grpc

LONG = 20.0  # seconds: far more than anything here takes
ENOUGH = 1.0  # seconds: of a deadline before which the call has to have begun, on a busy machine too
BEGUN = 2.0  # seconds in which a call reaches its handler on a busy machine, where a test waits for its deadline
# Ours does as the newer releases do, of which some between 1.72.1 and 1.85.1 was the first: nobody has looked which.
OLD_GRPCIO = tuple(int(part) for part in grpc.__version__.split(".")[:2]) < (1, 80)


def raises(text: str) -> Callable[..., Any]:
    """A function of the program's that fails."""

    def function(_: Any) -> Any:
        raise RuntimeError(text)

    return function


def unary(call: Callable[..., Any], request: Any = b"", **arguments: Any) -> tuple[Any, ...]:
    """Of a call with one answer: (answer,), or (code, details)."""
    try:
        return (call(request, timeout=LONG, **arguments),)
    except grpc.RpcError as error:
        return error.code(), error.details()


def stream(call: Callable[..., Any], request: Any = b"", **arguments: Any) -> tuple[Any, ...]:
    """Of a call with many answers: the answers, code, details."""
    got = []
    answers = call(request, timeout=LONG, **arguments)
    with contextlib.suppress(grpc.RpcError):
        got.extend(answers)
    return got, answers.code(), answers.details()


class Held:
    """A handler that holds its call until it is told of the call's end. `entered`: it runs; `ended`: it was told."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.ended = threading.Event()

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        assert context.add_callback(self.ended.set)
        self.entered.set()
        assert self.ended.wait(LONG)
        return b""
