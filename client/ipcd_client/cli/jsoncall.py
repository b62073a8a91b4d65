"""Calls in JSON: message classes out of descriptors, JSON to messages and back.

Pure: no connection, no file, no clock. Descriptors come from a stranger (the server), JSON from a person; both are
told what is wrong in words that name the field.
"""

from __future__ import annotations

import difflib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

# The JSON of these is not that of their fields: Timestamp is a string, Struct is any object.
_WELL_KNOWN: Final = "google.protobuf"
# Either alphabet, padded or not. json_format passes over what is not of it, so that text typed where base64 belongs
# would be sent as other bytes.
_BASE64: Final = re.compile(r"(?:[\w+/-]{4})*(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?", re.ASCII)


class BadDescriptors(ValueError):
    """What the server sent does not describe its service."""


class BadMessage(ValueError):
    """The JSON does not fit the message's type."""


class NoSuchMethod(LookupError):
    """The service has no such method. `methods` are those it has."""

    def __init__(self, service: str, method: str, methods: list[Method]) -> None:
        asked = f"{service} has no method {method!r}" if method else f"which method of {service}?"
        guess = did_you_mean(method, [each.name for each in methods])
        super().__init__("\n".join([f"{asked}{guess}; it has:", *(f"  {each.signature}" for each in methods)]))
        self.methods = methods


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A half sentence for an error text; empty where nothing is close."""
    choices = list(known)
    lowered = {each.lower(): each for each in choices}
    close = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[close[0]]!r}?)" if given and close else ""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service, and the classes of its messages."""

    service: str
    name: str
    request: type[Message]
    reply: type[Message]
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        """As it travels: /pkg.Service/Method."""
        return f"/{self.service}/{self.name}"

    @property
    def signature(self) -> str:
        """As in the .proto file."""
        takes = f"{'stream ' * self.client_streaming}{self.request.DESCRIPTOR.full_name}"
        gives = f"{'stream ' * self.server_streaming}{self.reply.DESCRIPTOR.full_name}"
        return f"{self.name}({takes}) returns ({gives})"


class Schema:
    """The types of one server, apart from the types of this process."""

    def __init__(self, files: Iterable[bytes]) -> None:
        """Takes serialized FileDescriptorProtos, dependencies first.

        Raises:
            BadDescriptors: they are none, or lack a dependency, or contradict each other.
        """
        self.pool = descriptor_pool.DescriptorPool()
        for number, data in enumerate(files):
            name = f"file {number}"
            try:
                proto = descriptor_pb2.FileDescriptorProto.FromString(data)
                name = proto.name
                self.pool.Add(proto)
                # Python's implementation builds only now, and finds only now what is missing.
                self.pool.FindFileByName(name)
            except (DecodeError, TypeError, ValueError, KeyError) as error:
                raise BadDescriptors(
                    f"the server's description of its service does not load: {name}: {error}"
                ) from None

    @classmethod
    def of(cls, file: FileDescriptor) -> Schema:
        """The types of a module that protoc generated, of this process."""
        return cls(_with_dependencies(file, set()))

    def methods(self, service: str) -> list[Method]:
        """All methods of a service.

        Raises:
            BadDescriptors: the service is not described.
        """
        return [_method(each) for each in self._service(service).methods]

    def method(self, service: str, name: str) -> Method:
        """One method.

        Raises:
            BadDescriptors: the service is not described.
            NoSuchMethod: the service is, but has no such method.
        """
        descriptor = self._service(service).methods_by_name.get(name)
        if descriptor is None:
            raise NoSuchMethod(service, name, self.methods(service))
        return _method(descriptor)

    def message(self, method: Method, value: Any) -> Message:
        """The request that a JSON value means. Fields go by their name in the .proto or in lowerCamelCase.

        Raises:
            BadMessage: it does not fit; every field that the type lacks is named.
        """
        descriptor = self.pool.FindMessageTypeByName(method.request.DESCRIPTOR.full_name)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            # json_format looks such a key up, of which protobuf then makes a SystemError.
            half = error.object[error.start]
            raise BadMessage(f"{ascii(half)[1:-1]} is half of a character, which text cannot have") from None
        problems = list(_problems(descriptor, value, ""))
        if problems:
            raise BadMessage("\n".join(problems))
        message = method.request()
        try:
            json_format.ParseDict(value, message, descriptor_pool=self.pool)
        # Not all of json_format's complaints are ParseErrors: Any and Struct let others through.
        except (json_format.ParseError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadMessage(f"not a {descriptor.full_name}: {error}") from None
        return message

    def value(self, message: Message) -> Any:
        """A reply as JSON, fields by their name in the .proto, in its order, and with their defaults: so the shape is
        always the same.

        Raises:
            BadDescriptors: it holds an Any of a type that the server did not describe.
        """
        try:
            value = json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
                descriptor_pool=self.pool,
            )
        except (TypeError, ValueError, KeyError, DecodeError, json_format.Error) as error:
            # DecodeError: of what an Any holds.
            raise BadDescriptors(f"the reply has no JSON form: {error}") from None
        return _ordered(self.pool.FindMessageTypeByName(message.DESCRIPTOR.full_name), value)

    def _service(self, name: str) -> ServiceDescriptor:
        try:
            return self.pool.FindServiceByName(name)
        except KeyError:
            raise BadDescriptors(f"the server's description does not contain {name}") from None


def split_path(path: str) -> tuple[str, str]:
    """Service and method of `pkg.Service/Method`, with or without a slash before; the method may be left out."""
    service, _, method = path.removeprefix("/").partition("/")
    return service, method


def _method(descriptor: MethodDescriptor) -> Method:
    return Method(
        service=descriptor.containing_service.full_name,
        name=descriptor.name,
        request=message_factory.GetMessageClass(descriptor.input_type),
        reply=message_factory.GetMessageClass(descriptor.output_type),
        client_streaming=descriptor.client_streaming,
        server_streaming=descriptor.server_streaming,
    )


def _with_dependencies(file: FileDescriptor, seen: set[str]) -> Iterator[bytes]:
    if file.name not in seen:
        seen.add(file.name)
        for dependency in file.dependencies:
            yield from _with_dependencies(dependency, seen)
        yield file.serialized_pb


def _problems(descriptor: Descriptor, value: Any, path: str) -> Iterator[str]:
    """What json_format would not say, or only for the first of several, or in words that differ by its version."""
    if descriptor.file.package == _WELL_KNOWN:
        return
    if not isinstance(value, dict):
        # json_format takes an empty list for an empty message.
        yield f"{path or 'the message'}: {descriptor.full_name} is written as a JSON object, not as {_kind(value)}"
        return
    fields = {field.name: field for field in descriptor.fields}
    known = dict(fields)
    known.update({field.json_name: field for field in descriptor.fields})
    for key, item in value.items():
        field = known.get(key)
        if field is not None:
            yield from _field_problems(field, item, f"{path}.{key}" if path else key)
        elif not key.startswith("["):  # an extension
            takes = f"it has: {', '.join(fields)}" if fields else "it has no fields"
            inside = f" (in {path})" if path else ""
            yield f"{descriptor.full_name}{inside} has no field {key!r}{did_you_mean(key, fields)}; {takes}"


def _ordered(descriptor: Descriptor, value: Any) -> Any:
    """Fields in the order of the .proto; json_format puts those that have their default last."""
    if descriptor.file.package == _WELL_KNOWN or not isinstance(value, dict):
        return value
    made = {}
    for field in descriptor.fields:
        if field.name not in value:
            continue
        item, kind = value[field.name], field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"].message_type
            if inner is not None:
                item = {key: _ordered(inner, each) for key, each in item.items()}
        elif kind is not None:
            item = [_ordered(kind, each) for each in item] if isinstance(item, list) else _ordered(kind, item)
        made[field.name] = item
    # Extensions, in brackets.
    return made | {key: item for key, item in value.items() if key not in made}


def _field_problems(field: FieldDescriptor, item: Any, path: str) -> Iterator[str]:
    kind = field.message_type
    if item is None:
        return
    if kind is None:
        if field.type == FieldDescriptor.TYPE_BYTES:
            for each in item if isinstance(item, list) else [item]:
                if isinstance(each, str) and not _BASE64.fullmatch(each):
                    yield (
                        f"{path} is bytes, which JSON writes in base64, and {_shortened(each)} is not; "
                        f"the bytes of that text are {_shortened(b64encode(each.encode(errors='replace')).decode())}"
                    )
        return
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"].message_type
        if inner is not None and isinstance(item, dict):
            for key, each in item.items():
                yield from _problems(inner, each, f"{path}[{key!r}]")
    elif not field.has_presence:  # repeated, as a message field is; `is_repeated` is younger than protobuf 6.30
        if isinstance(item, list):
            for index, each in enumerate(item):
                yield from _problems(kind, each, f"{path}[{index}]")
    else:
        yield from _problems(kind, item, path)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), type(value).__name__)
