"""gRPC's server reflection over everything in the catalog: the descriptors come from the servers themselves."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeVar

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.grpc import health_pb2, reflection_pb2
from ipcd_client.pb.ipcd.grpc.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from ipcd_client.pb.ipcd.v1 import (
    lock_pb2,
    names_pb2,
    node_pb2,
    pipe_pb2,
    queue_pb2,
    semaphore_pb2,
    signal_pb2,
    topic_pb2,
    value_pb2,
)

# The same messages under two names: many tools still ask for the older one.
SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# Services whose descriptors are kept, and how many are asked for one that none of those has.
_KEPT: Final = 256
_ASKED: Final = 32

T = TypeVar("T")

# The names of services, each with the id of a server that provides it, empty for the gateway's own.
Services = Callable[[], Mapping[str, str]]
# A service's descriptors, as such a server tells them.
Describe = Callable[[str], Awaitable[Iterable[bytes]]]


class NotFound(IpcdError):
    """There is no such descriptor here."""

    code = grpc.StatusCode.NOT_FOUND


class Files:
    """Descriptors of files, with all that they import.

    Raises:
        NotFound: they are not that.
    """

    def __init__(self, serialized: Iterable[bytes]) -> None:
        self._bytes: dict[str, bytes] = {}
        self._pool = DescriptorPool()
        try:
            for data in serialized:
                self._bytes[descriptor_pb2.FileDescriptorProto.FromString(data).name] = data
                self._pool.AddSerializedFile(data)
        except (TypeError, DecodeError) as error:
            raise NotFound(f"the server's descriptors are none: {error}") from error

    def named(self, name: str) -> list[bytes]:
        """A file by its name, and what it imports; KeyError if it is not among these."""
        return self._with_imports(self._pool.FindFileByName(name))

    def containing(self, symbol: str) -> list[bytes]:
        """Likewise the file of a service, method, message, field, enum or extension."""
        try:
            found = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # The pool knows methods by their services alone.
            service, _, method = symbol.rpartition(".")
            described = self._pool.FindServiceByName(service)
            if method not in described.methods_by_name:
                raise
            found = described.file
        return self._with_imports(found)

    def extending(self, message: str, number: int) -> list[bytes]:
        """Likewise the file of an extension of a message."""
        found = self._pool.FindExtensionByNumber(self._pool.FindMessageTypeByName(message), number)
        return self.containing(found.full_name)

    def extensions(self, message: str) -> list[int]:
        """Numbers of all extensions of a message; KeyError if it is not among these."""
        return [found.number for found in self._pool.FindAllExtensions(self._pool.FindMessageTypeByName(message))]

    def _with_imports(self, file: FileDescriptor) -> list[bytes]:
        found: dict[str, bytes] = {}
        ahead = [file]
        while ahead:
            each = ahead.pop()
            if each.name not in found:
                found[each.name] = self._bytes[each.name]
                ahead += each.dependencies
        return list(found.values())


class Reflection:
    """`services`: those that are provided at present."""

    def __init__(self, services: Services, describe: Describe) -> None:
        self._services = services
        self._describe = describe
        self._own = Files(_own_files())
        self._kept: OrderedDict[str, tuple[str, Files]] = OrderedDict()

    async def answer(
        self, requests: AsyncIterator[ServerReflectionRequest], _context: ServicerContext
    ) -> AsyncIterator[ServerReflectionResponse]:
        """ServerReflectionInfo."""
        async for request in requests:
            response = ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                await self._fill(request, response)
            except IpcdError as error:
                response.error_response.error_code = error.code.value[0]
                response.error_response.error_message = str(error)
            yield response

    async def _fill(self, request: ServerReflectionRequest, response: ServerReflectionResponse) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                names = sorted(self._services())
                response.list_services_response.service.extend(reflection_pb2.ServiceResponse(name=n) for n in names)
            case "file_by_filename":
                name = request.file_by_filename
                found = await self._find(name.replace("/", "."), lambda files: files.named(name), f"file {name}")
                response.file_descriptor_response.file_descriptor_proto.extend(found)
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                found = await self._find(symbol, lambda files: files.containing(symbol), f"symbol {symbol}")
                response.file_descriptor_response.file_descriptor_proto.extend(found)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                what = f"extension {wanted.extension_number} of {wanted.containing_type}"
                found = await self._find(
                    wanted.containing_type,
                    lambda files: files.extending(wanted.containing_type, wanted.extension_number),
                    what,
                )
                response.file_descriptor_response.file_descriptor_proto.extend(found)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = await self._find(name, lambda files: files.extensions(name), f"message {name}")
                response.all_extension_numbers_response.base_type_name = name
                response.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                raise NotFound("the request asks for nothing")

    async def _find(self, near: str, look: Callable[[Files], list[T]], what: str) -> list[T]:
        """What `look` finds first: in our own files, in those of the service that `near` is or is part of, in those
        that are kept, and then in those of a number of others, the most similar names first.

        Raises:
            NotFound: it is in none of them.
        """
        with contextlib.suppress(KeyError):
            return look(self._own)
        services = {service: provider for service, provider in self._services().items() if provider}
        holder = [service for service in services if f"{near}.".startswith(f"{service}.")]
        others = sorted(services.keys() - set(holder), key=lambda service: _alike(service, near), reverse=True)
        kept = [service for service in others if service in self._kept]
        new = [service for service in others if service not in self._kept]
        for service in (*holder, *kept, *new[:_ASKED]):
            try:
                return look(await self._files(service, services[service]))
            except (KeyError, IpcdError):
                continue  # it is not there, or that server has no descriptors: another may
        raise NotFound(f"no server describes {what}")

    async def _files(self, service: str, provider: str) -> Files:
        kept = self._kept.get(service)
        if kept is not None and kept[0] == provider:
            self._kept.move_to_end(service)
            return kept[1]
        files = Files(await self._describe(service))
        self._kept[service] = (provider, files)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return files

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[ServerReflectionRequest, ServerReflectionResponse]]:
        """By the methods' names."""
        return {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self.answer,
                request_deserializer=ServerReflectionRequest.FromString,
                response_serializer=ServerReflectionResponse.SerializeToString,
            )
        }


def _alike(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _own_files() -> list[bytes]:
    """Of what the gateway answers itself. The messages of gRPC's own services have names of ours in this process; the
    callers' are gRPC's."""
    check, watch = (("Check", False, False), ("Watch", False, True))
    info = ("ServerReflectionInfo", True, True)
    return [
        *(
            each.DESCRIPTOR.serialized_pb
            for each in (
                *(node_pb2, names_pb2, lock_pb2, pipe_pb2, queue_pb2),
                *(semaphore_pb2, signal_pb2, topic_pb2, value_pb2),
            )
        ),
        _renamed(health_pb2.DESCRIPTOR, "grpc/health/v1/health.proto", "Health", "HealthCheck", check, watch),
        *(
            _renamed(
                reflection_pb2.DESCRIPTOR,
                f"grpc/reflection/{version}/reflection.proto",
                "ServerReflection",
                "ServerReflection",
                info,
            )
            for version in ("v1", "v1alpha")
        ),
    ]


def _renamed(file: FileDescriptor, name: str, service: str, prefix: str, *methods: tuple[str, bool, bool]) -> bytes:
    """The file under another name, in the package that this tells, with a service of methods that take PREFIXRequest
    and return PREFIXResponse. A method: its name, whether its requests are a stream, whether its responses are."""
    result = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(result)
    result.name = name
    result.package = name.rpartition("/")[0].replace("/", ".")
    for message in result.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{file.package}.", f".{result.package}.")
    added = result.service.add(name=service)
    for method, requests, responses in methods:
        added.method.add(
            name=method,
            input_type=f".{result.package}.{prefix}Request",
            output_type=f".{result.package}.{prefix}Response",
            client_streaming=requests,
            server_streaming=responses,
        )
    return result.SerializeToString()
