"""Metadata that the caller gives: what it may be, and what comes of what it may not be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from conformance.conftest import Side
from conformance.outcomes import LONG
from conformance.ways import Way, every_way
from grpc import StatusCode

Entry = tuple[str, str | bytes]


def seen(side: Side, way: Way) -> list[Entry]:
    """What the servicer has been sent, once called."""
    got: list[Entry] = []

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        got.extend((key, value) for key, value in context.invocation_metadata() if key.startswith("x-"))
        return request

    way.served(side, behavior)
    return got


GOOD: dict[str, tuple[Callable[[], Any], list[Entry]]] = {
    "none": (lambda: None, []),
    "empty": (list, []),
    "false": (lambda: False, []),
    "tuple": (lambda: (("x-a", "1"),), [("x-a", "1")]),
    "list of lists": (lambda: [["x-a", "1"]], [("x-a", "1")]),
    "generator": (lambda: (entry for entry in [("x-a", "1")]), [("x-a", "1")]),
    "items": ({"x-a": "1"}.items, [("x-a", "1")]),
    "aio's": (lambda: grpc.aio.Metadata(("x-a", "1")), [("x-a", "1")]),
    "order and duplicates": (
        lambda: [("x-b", "2"), ("x-a", "1"), ("x-b", "1")],
        [("x-b", "2"), ("x-a", "1"), ("x-b", "1")],
    ),
    "bytes key": (lambda: [(b"x-a", "1")], [("x-a", "1")]),
    "bytes value": (lambda: [("x-a", b"1")], [("x-a", "1")]),
    "no value": (lambda: [("x-a", None)], [("x-a", "")]),
    "empty value": (lambda: [("x-a", "")], [("x-a", "")]),
    "spaces": (lambda: [("x-a", "1 2")], [("x-a", "1 2")]),
    "binary": (lambda: [("x-a-bin", bytes(range(256)))], [("x-a-bin", bytes(range(256)))]),
    "empty binary": (lambda: [("x-a-bin", b"")], [("x-a-bin", b"")]),
    "all of a key": (lambda: [("x-a.b_c-9", "1")], [("x-a.b_c-9", "1")]),
}

INVALID: dict[str, Any] = {
    "upper case": ("X-a", "1"),
    "empty key": ("", "1"),
    "no key": (None, "1"),
    "space in the key": ("x a", "1"),
    "sign in the key": ("x~", "1"),
    "colon": (":path", "1"),
    "bytes key": (b"x-\xff", "1"),
    "newline": ("x-a", "a\nb"),
    "tab": ("x-a", "a\tb"),
    "nul": ("x-a", "\0"),
    "delete": ("x-a", "\x7f"),
    "umlaut": ("x-a", "ü"),
    "bytes value": ("x-a", b"\xff"),
}

WRONG: dict[str, tuple[Any, type[Exception]]] = {
    "a number": (5, TypeError),
    "a dict": ({"x-a": "1"}, ValueError),
    "a text": ("x-a", ValueError),
    "three": ([("x-a", "1", "2")], ValueError),
    "one": ([("x-a",)], ValueError),
    "number as key": ([(1, "1")], TypeError),
    "number as value": ([("x-a", 1)], TypeError),
    "text as binary": ([("x-a-bin", "1")], TypeError),
    "bytearray as binary": ([("x-a-bin", bytearray(b"1"))], TypeError),
    "nothing as binary": ([("x-a-bin", None)], TypeError),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_metadata_may_be(side: Side, name: str) -> None:
    make, expected = GOOD[name]
    way = Way("unary_unary", "call")
    got = seen(side, way)
    assert way.run(way.multicallable(side.channel), b"x", metadata=make()) == b"x"
    assert got == expected


@every_way
def test_every_way_sends_it(side: Side, way: Way) -> None:
    got = seen(side, way)
    metadata = [("x-a", "1"), ("x-b-bin", b"\0\xff")]
    assert way.run(way.multicallable(side.channel), b"x", metadata=metadata) == b"x"
    assert got == metadata


@pytest.mark.parametrize("name", INVALID)
def test_invalid_metadata_fails_the_call(side: Side, name: str) -> None:
    way = Way("unary_unary", "call")
    got = seen(side, way)
    error = way.failure(way.multicallable(side.channel), b"x", metadata=[INVALID[name]])
    assert error.code() is StatusCode.INTERNAL
    assert "metadata" in error.details().lower()
    assert got == []


@every_way
def test_invalid_metadata_fails_the_call_in_every_way(side: Side, way: Way) -> None:
    way.served(side, lambda request, _: request)
    multicallable = way.multicallable(side.channel)
    if not way.blocks:
        way.begin(multicallable, metadata=[("X", "1")])  # raises nothing yet
    error = way.failure(multicallable, metadata=[("X", "1")])
    assert (error.code(), error.cancelled()) == (StatusCode.INTERNAL, False)


@every_way
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_metadata_is_raised(side: Side, way: Way, name: str) -> None:
    if side.name == "grpcio":
        pytest.skip("it keeps such calls for ever, and is asked in a process of its own")
    way.served(side, lambda request, _: request)
    check_raised(side.channel, way, name)


def check_raised(channel: grpc.Channel, way: Way, name: str) -> None:
    metadata, error = WRONG[name]
    with pytest.raises(error):
        way.begin(way.multicallable(channel), metadata=metadata)


ASK_GRPCIO = """
import sys
sys.path[:0] = [sys.argv[1]]
import grpc
from conformance.test_client_metadata import WRONG, check_raised
from conformance.ways import WAYS
with grpc.insecure_channel("127.0.0.1:1") as channel:
    for way in WAYS:
        for name in WRONG:
            check_raised(channel, way, name)
"""


def test_grpcio_raises_that_too() -> None:
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", ASK_GRPCIO, tests], check=True, timeout=LONG)


@pytest.mark.parametrize("size", [17 << 10, 200 << 10])
@every_way
def test_more_than_the_limit(side: Side, way: Way, size: int) -> None:
    way.served(side, lambda request, _: request)
    multicallable = way.multicallable(side.channel)
    error = way.failure(multicallable, metadata=[("x-a", "1" * size)])
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert way.run(multicallable, b"x") == b"x"


@pytest.mark.parametrize("where", ["initial", "trailing"])
@every_way
def test_more_than_the_limit_from_the_servicer(side: Side, way: Way, where: str) -> None:
    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"large":
            send = context.send_initial_metadata if where == "initial" else context.set_trailing_metadata
            send([("x-a", "1" * (17 << 10))])
        return request

    way.served(side, behavior)
    multicallable = way.multicallable(side.channel)
    assert way.failure(multicallable, b"large").code() is StatusCode.RESOURCE_EXHAUSTED
    assert way.run(multicallable, b"x") == b"x"


@pytest.mark.parametrize("name", ["initial_metadata", "trailing_metadata"])
def test_it_comes_as_a_tuple_of_pairs_with_names(side: Side, name: str) -> None:
    _, call = side.unary("UnaryMetadata").with_call(b"x", metadata=[("x-a", "1"), ("x-b-bin", b"\0")], timeout=LONG)
    metadata = getattr(call, name)()
    assert isinstance(metadata, tuple)
    for entry in metadata:
        key, value = entry
        assert (entry.key, entry.value) == (key, value) == (entry[0], entry[1])
        assert isinstance(key, str)
        assert isinstance(value, bytes if key.endswith("-bin") else str)
    assert dict(metadata)
