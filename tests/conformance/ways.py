"""The four kinds of methods, and the ways in which each is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import LONG

PATH = "/conformance.v1.Echo/Way"


class Way(NamedTuple):
    """`how`: by calling the multi-callable, its `with_call`, or its `future`."""

    kind: str
    how: str

    @property
    def sends_stream(self) -> bool:
        return self.kind.startswith("stream")

    @property
    def gets_stream(self) -> bool:
        return self.kind.endswith("stream")

    @property
    def blocks(self) -> bool:
        """The call has ended when it is given."""
        return not self.gets_stream and self.how != "future"

    def served(self, side: Side, behavior: Callable[[bytes, grpc.ServicerContext], bytes]) -> None:
        """Serves PATH: the one request, or the first of a stream, answered once."""

        def several(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield behavior(request, context)

        def one(argument: Any, context: grpc.ServicerContext) -> bytes:
            return behavior(next(argument) if self.sends_stream else argument, context)

        def many(argument: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from several(next(argument) if self.sends_stream else argument, context)

        side.serve(self.kind, many if self.gets_stream else one, PATH)

    def multicallable(self, channel: grpc.Channel, serialize: Any = None, deserialize: Any = None) -> Any:
        return getattr(channel, self.kind)(PATH, serialize, deserialize)

    def begin(self, multicallable: Any, request: Any = b"", **arguments: Any) -> Any:
        """What the way of calling gives: a response, a response and a call, or a call."""
        argument = iter([request]) if self.sends_stream else request
        method = multicallable if self.how == "call" else getattr(multicallable, self.how)
        return method(argument, **({"timeout": LONG} | arguments))

    def run(self, multicallable: Any, request: Any = b"", **arguments: Any) -> Any:
        """The one response. Raises what the call raises."""
        begun = self.begin(multicallable, request, **arguments)
        if self.gets_stream:
            (response,) = begun
        elif self.how == "future":
            response = begun.result()
        else:
            response = begun if self.how == "call" else begun[0]
        return response

    def failure(self, multicallable: Any, request: Any = b"", **arguments: Any) -> Any:
        """The error that the call raises, at the latest where its response is taken."""
        with pytest.raises(grpc.RpcError) as raised:
            self.run(multicallable, request, **arguments)
        return raised.value


WAYS = [
    Way("unary_unary", "call"),
    Way("unary_unary", "with_call"),
    Way("unary_unary", "future"),
    Way("unary_stream", "call"),
    Way("stream_unary", "call"),
    Way("stream_unary", "with_call"),
    Way("stream_unary", "future"),
    Way("stream_stream", "call"),
]

every_way = pytest.mark.parametrize("way", WAYS, ids=".".join)
# Those of which the program holds a call that runs.
every_running_way = pytest.mark.parametrize("way", [way for way in WAYS if not way.blocks], ids=".".join)
every_blocking_way = pytest.mark.parametrize("way", [way for way in WAYS if way.blocks], ids=".".join)
every_way_of_one_request = pytest.mark.parametrize("way", [way for way in WAYS if not way.sends_stream], ids=".".join)
every_way_of_a_stream = pytest.mark.parametrize("way", [way for way in WAYS if way.sends_stream], ids=".".join)
