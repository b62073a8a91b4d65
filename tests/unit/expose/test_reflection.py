"""Reflection, of servers that do no more than they must."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from ipcd_client.expose.reflection import Reflection
from ipcd_client.pb.ipcd.grpc.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from ipcd_client.rpc.failure import CallFailed

LONG = 20.0  # seconds: far more than anything here takes

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"

Answer = Callable[[ServerReflectionRequest], ServerReflectionResponse]


def file(name: str, *dependencies: str, service: str = "") -> FileDescriptorProto:
    """A file of the package p."""
    made = FileDescriptorProto(name=name, package="p", syntax="proto3", dependency=dependencies)
    if service:
        made.service.add(name=service)
    return made


FILES = {
    each.name: each
    for each in (
        file("top.proto", "left.proto", "right.proto", service="Top"),
        file("left.proto", "base.proto"),
        file("right.proto", "base.proto", "google/protobuf/any.proto"),
        file("base.proto"),
        file("lost.proto", "nowhere.proto", service="Lost"),
        file("round.proto", "about.proto", service="Round"),
        file("about.proto", "round.proto"),
    )
}


def answer(request: ServerReflectionRequest) -> ServerReflectionResponse:
    """One file at a time, without what it imports."""
    response = ServerReflectionResponse(original_request=request)
    if request.HasField("list_services"):
        for name in ("p.Top", V1, "grpc.health.v1.Health", "p.Lost"):
            response.list_services_response.service.add(name=name)
        return response
    found = [
        each
        for each in FILES.values()
        if each.name == request.file_by_filename
        or any(f"p.{service.name}" == request.file_containing_symbol for service in each.service)
    ]
    if found:
        response.file_descriptor_response.file_descriptor_proto.append(found[0].SerializeToString())
    else:
        response.error_response.error_code = 5
        response.error_response.error_message = "not here"
    return response


def handler(answer: Answer, most: int = 1000) -> dict[str, Any]:
    """Of a service that answers at most so many questions of a call."""

    def talk(
        requests: Iterator[ServerReflectionRequest], _: grpc.ServicerContext
    ) -> Iterator[ServerReflectionResponse]:
        for _number, request in zip(range(most), requests, strict=False):
            yield answer(request)

    made = grpc.stream_stream_rpc_method_handler(
        talk, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
    )
    return {"ServerReflectionInfo": made}


def names(files: list[bytes]) -> list[str]:
    """Of serialized descriptors."""
    return [FileDescriptorProto.FromString(each).name for each in files]


@pytest.mark.parametrize("version", [V1, V1ALPHA])
def test_services_but_those_about_the_server(serve: Any, version: str) -> None:
    assert Reflection(serve({version: handler(answer)})).services(LONG) == ["p.Lost", "p.Top"]


@pytest.mark.parametrize("version", [V1, V1ALPHA])
def test_files_come_with_what_they_import_before_them(serve: Any, version: str) -> None:
    found = names(Reflection(serve({version: handler(answer)})).files("p.Top", LONG))
    assert sorted(found) == ["base.proto", "google/protobuf/any.proto", "left.proto", "right.proto", "top.proto"]
    for name in found:
        for dependency in FILES[name].dependency if name in FILES else ():
            assert found.index(dependency) < found.index(name)


def test_files_that_import_each_other_do_not_go_on_for_ever(serve: Any) -> None:
    found = names(Reflection(serve({V1: handler(answer)})).files("p.Round", LONG))
    assert sorted(found) == ["about.proto", "round.proto"]


@pytest.mark.parametrize("service", ["p.None", "p.Lost"])
def test_what_the_server_does_not_have(serve: Any, service: str) -> None:
    with pytest.raises(CallFailed, match="not here") as caught:
        Reflection(serve({V1: handler(answer)})).files(service, LONG)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_server_without_reflection(serve: Any) -> None:
    with pytest.raises(CallFailed) as caught:
        Reflection(serve({})).services(LONG)
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("data", [b"\xff", b"\n\x01\xff", b"\n\x01a\x1a\x01\xff"])
def test_what_is_no_descriptor(serve: Any, data: bytes) -> None:
    """Of the second and the third a name is not UTF-8."""

    def nonsense(request: ServerReflectionRequest) -> ServerReflectionResponse:
        response = ServerReflectionResponse()
        response.file_descriptor_response.file_descriptor_proto.append(data)
        return response

    with pytest.raises(CallFailed, match="no FileDescriptorProto") as caught:
        Reflection(serve({V1: handler(nonsense)})).files("p.Top", LONG)
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_a_question_that_is_not_answered(serve: Any) -> None:
    with pytest.raises(CallFailed, match="0 answers to 1 questions"):
        Reflection(serve({V1: handler(answer, most=0)})).services(LONG)


def test_a_server_that_does_not_answer(serve: Any) -> None:
    def silent(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(LONG)
        yield from ()

    made: Any = grpc.stream_stream_rpc_method_handler(silent)
    with pytest.raises(CallFailed) as caught:
        Reflection(serve({V1: {"ServerReflectionInfo": made}})).services(0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
