"""What a gRPC server tells of its services: a client of grpc.reflection.v1, or v1alpha where that is all there is."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from ipcd_client.pb.ipcd.grpc import reflection_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed

# What is about a server rather than of it: each has its own, and routed by name, calls would come to any of them.
_ABOUT_SERVERS: Final = ("grpc.reflection.", "grpc.health.", "grpc.channelz.", "ipcd.v1.")
_METHODS: Final = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)

# They come with protobuf, and some servers leave them out.
_WELL_KNOWN: Final = re.compile(
    "google/protobuf/(any|api|descriptor|duration|empty|field_mask|source_context|struct|timestamp|type|wrappers).proto"
)

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Of the server that `channel` leads to."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def services(self, timeout: float) -> list[str]:
        """The names of the services that may be exposed, sorted. Takes at most `timeout` seconds.

        Raises:
            CallFailed: why not; UNIMPLEMENTED if the server has no reflection.
        """
        (answer,) = self._ask([Request(list_services="*")], monotonic() + timeout)
        names = {each.name for each in answer.list_services_response.service}
        return sorted(name for name in names if not name.startswith(_ABOUT_SERVERS))

    def files(self, service: str, timeout: float) -> list[bytes]:
        """The serialized FileDescriptorProtos that describe a service, dependencies first.

        Raises:
            CallFailed: why not; UNIMPLEMENTED if the server has no reflection, NOT_FOUND if it has no such service.
        """
        deadline = monotonic() + timeout
        found: dict[str, FileDescriptorProto] = {}
        wanted = [Request(file_containing_symbol=service)]
        roots: list[str] = []
        while wanted:
            for answer in self._ask(wanted, deadline):
                files = [_parsed(data) for data in answer.file_descriptor_response.file_descriptor_proto]
                found.update({file.name: file for file in files})
                roots = roots or [file.name for file in files]
            missing = {name for file in found.values() for name in file.dependency} - found.keys()
            known = {name: file for name in missing if (file := _well_known(name)) is not None}
            found.update(known)
            wanted = [Request(file_by_filename=name) for name in sorted(missing - known.keys())]
        return [file.SerializeToString() for file in _ordered(roots, found)]

    def _ask(self, requests: list[reflection_pb2.ServerReflectionRequest], deadline: float) -> list[Response]:
        """One answer to each."""
        try:
            try:
                answers = self._exchange(_METHODS[0], requests, deadline)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                answers = self._exchange(_METHODS[1], requests, deadline)
        except grpc.RpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error
        for answer in answers:
            if answer.HasField("error_response"):
                failure = answer.error_response
                code = status.CODES.get(failure.error_code, grpc.StatusCode.UNKNOWN)
                raise CallFailed(code, failure.error_message)
        if len(answers) != len(requests):
            raise CallFailed(
                grpc.StatusCode.INTERNAL, f"reflection gave {len(answers)} answers to {len(requests)} questions"
            )
        return answers

    def _exchange(self, method: str, requests: Iterable[Request], deadline: float) -> list[Response]:
        ask = self._channel.stream_stream(method, Request.SerializeToString, Response.FromString)
        return list(ask(iter(requests), timeout=max(0.0, deadline - monotonic())))


def _parsed(data: bytes) -> FileDescriptorProto:
    try:
        file = FileDescriptorProto.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise _no_file(error) from error
    # What is no UTF-8 comes as bytes, which no name is.
    if not all(isinstance(name, str) for name in (file.name, *file.dependency)):
        raise _no_file("a file's name is not UTF-8")
    return file


def _no_file(why: object) -> CallFailed:
    return CallFailed(grpc.StatusCode.INTERNAL, f"reflection gave what is no FileDescriptorProto: {why}")


def _well_known(name: str) -> FileDescriptorProto | None:
    match = _WELL_KNOWN.fullmatch(name)
    if match is None:
        return None
    proto = FileDescriptorProto()
    importlib.import_module(f"google.protobuf.{match[1]}_pb2").DESCRIPTOR.CopyToProto(proto)
    return proto


def _ordered(roots: list[str], files: dict[str, FileDescriptorProto]) -> Iterator[FileDescriptorProto]:
    """Dependencies first. Not by recursion: how deep they are is the server's choice."""
    seen: set[str] = set()
    stack = [(name, False) for name in reversed(roots)]
    while stack:
        name, entered = stack.pop()
        if entered:
            yield files[name]
        elif name not in seen and name in files:
            seen.add(name)
            stack.append((name, True))
            stack += [(each, False) for each in files[name].dependency]
