"""What servers tell of themselves, and the daemon of them, as those parse it who asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import grpc
from fuzz.daemon import NODE_WORDS
from fuzz.descriptions import FILE_WORDS, files, good
from fuzz.protos import serialized
from fuzz.registry import target
from fuzz.script import Script, blocks
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError
from ipcd_client.expose.reflection import Reflection as Asked
from ipcd_client.node import introduction
from ipcd_client.pb.ipcd.grpc import reflection_pb2
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd

from ipcd.gateway.reflection import Files, NotFound, Reflection


class _Channel:
    """To a gRPC server that answers what the script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked = 0

    def stream_stream(self, method: str, serialize: Any, deserialize: Any) -> Any:
        def call(requests: Iterator[Message], timeout: float) -> Iterator[object]:
            for request in requests:
                serialize(request)
                self.asked += 1
                if not self.script or self.asked > 50:
                    return
                try:
                    answer = deserialize(self.script.block())
                except DecodeError:
                    raise _Failed from None
                yield answer

        return call


class _Failed(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "Exception deserializing response!"


def _answer(*files: bytes) -> bytes:
    told = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=files)
    return reflection_pb2.ServerReflectionResponse(file_descriptor_response=told).SerializeToString()


@target(
    "expose-reflection",
    st.lists(
        st.one_of(files().map(_answer), serialized(reflection_pb2.ServerReflectionResponse), st.just(_answer(good()))),
        max_size=4,
    ).map(lambda told: blocks(*told)),
    raises=(CallFailed,),
    words=(*FILE_WORDS, blocks(_answer(good())), b"\x22", b":\x02\x08\x0c"),
    largest=2048,
)
def _expose_reflection(data: bytes) -> object:
    """`ipcctl expose` asks a gRPC server for its services and descriptors."""
    channel = _Channel(Script(data))
    reflection = Asked(cast("grpc.Channel", channel))
    if len(data) & 1:
        return reflection.services(1.0)
    return reflection.files("s.S", 1.0)


_loop = asyncio.new_event_loop()


@target(
    "gateway-reflection",
    st.builds(
        lambda files, asked: blocks(*files, *asked),
        st.tuples(files(), st.one_of(files(), st.just(good()))),
        st.lists(
            serialized(
                reflection_pb2.ServerReflectionRequest,
                ("s.S", "s.M", "s.proto", "s.S.a", "s", "", "x.M", "ipcd.v1.Node", "."),
            ),
            max_size=3,
        ),
    ),
    words=(*FILE_WORDS, b"\x1a\x03s.S", b"\x22\x03s.M", b":\x01*", b"*\x05\n\x03s.M"),
    largest=2048,
)
def _gateway_reflection(data: bytes) -> object:
    """Clients ask the gateway, which asks servers: neither may do harm."""
    script = Script(data)
    told = [script.block(), script.block()]
    requests = []
    while script:
        try:
            requests.append(reflection_pb2.ServerReflectionRequest.FromString(script.block()))
        except DecodeError:
            continue

    async def describe(service: str) -> Sequence[bytes]:
        return told if service == "s.S" else told[:1]

    async def all_of_them() -> list[bytes]:
        async def ask() -> Any:
            for request in requests[:8]:
                yield request

        reflection = Reflection(lambda: {"s.S": "1", "x.X": "2", "grpc.health.v1.Health": ""}, describe)
        answers = reflection.answer(ask(), cast("ServicerContext", None))
        return [answer.SerializeToString() async for answer in answers]

    try:
        files = Files(told)
    except NotFound as error:
        failed: object = str(error)
    else:
        failed = [name for name in ("s.proto", "x.proto", "") if _has(files, name)]
    return failed, _loop.run_until_complete(all_of_them())


def _has(files: Files, name: str) -> bool:
    try:
        return bool(files.named(name))
    except KeyError:
        return False


@target(
    "introduction",
    st.builds(
        lambda fds, attempts: bytes((fds,)) + blocks(*attempts),
        st.integers(0, 3),
        st.lists(serialized(node_pb2.OpenReply, ("a", "b", "b:7", "", "0123456789abcdef")), min_size=1, max_size=3),
    ),
    raises=(IpcdError,),
    words=(*NODE_WORDS, b"\x1a\x100123456789abcdef", b"\n\x02\x10\x03"),
)
def _introduction(data: bytes) -> object:
    """What a program makes of the daemon's answer, with any number of descriptors."""
    script = Script(data)
    count = script.number() % 4
    request = node_pb2.OpenRequest()
    dials = introduction.Dials(request)
    said: list[object] = []
    while script:
        try:
            reply = node_pb2.OpenReply.FromString(script.block())
        except DecodeError:
            said.append("does not parse")
            continue
        name = introduction.name_of(reply.choice.server)
        if count:
            fds = [Fd(os.open("/dev/null", os.O_RDONLY)) for _ in range(count)]
            if count == 1:
                fds[0].close()
                said.append(name)
                continue
            said.append((name, len(fds)))
            for fd in fds:
                fd.close()
        else:
            said.append(dials.begin(reply))
            request.undialed.reason = "x"
    return said
