"""Descriptions of services and messages in JSON, as ipcctl parses them."""

from __future__ import annotations

import json
from typing import Any, Final

from fuzz.protos import messages, serialized
from fuzz.registry import target
from fuzz.script import Script, blocks
from fuzz.texts import JSON_WORDS, json_values
from google.protobuf import any_pb2, descriptor_pb2, struct_pb2
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from ipcd_client.cli import jsontext
from ipcd_client.cli.jsoncall import BadDescriptors, BadMessage, NoSuchMethod, Schema
from ipcd_client.cli.jsontext import BadJson
from ipcd_client.pb.ipcd.v1 import wire_pb2

_LABELS: Final[list[Any]] = sorted(descriptor_pb2.FieldDescriptorProto.Label.values())


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A description of a service that is nearly one."""
    names = st.sampled_from(["s", "x", "S", "X", "M", "a", "", "s.S", ".s.M", "M.N", "1", "\u00e9"])
    file = descriptor_pb2.FileDescriptorProto(
        name=draw(st.sampled_from(["s.proto", "x.proto", ""])), package=draw(st.sampled_from(["s", "x", "", "s.x"]))
    )
    file.syntax = draw(st.sampled_from(["proto3", "proto3", "proto3", "proto2", "", "editions"]))
    file.dependency.extend(
        draw(st.lists(st.sampled_from(["s.proto", "x.proto", "google/protobuf/any.proto"]), max_size=2))
    )
    for _ in range(draw(st.integers(0, 2))):
        message = file.message_type.add(name=draw(names))
        for number in range(draw(st.integers(0, 3))):
            field = message.field.add(name=draw(names), number=draw(st.sampled_from([number + 1, 0, 1 << 29])))
            field.type = draw(st.sampled_from(sorted(descriptor_pb2.FieldDescriptorProto.Type.values())))
            field.label = draw(st.sampled_from(_LABELS))
            if draw(st.booleans()):
                field.type_name = draw(st.sampled_from([".s.M", ".x.M", ".google.protobuf.Any", "M", ""]))
    for _ in range(draw(st.integers(0, 2))):
        service = file.service.add(name=draw(st.sampled_from(["S", "X", "M"])))
        for _ in range(draw(st.integers(0, 2))):
            service.method.add(
                name=draw(names), input_type=draw(st.sampled_from([".s.M", ".x.M", "M"])), output_type=".s.M"
            )
    return file.SerializeToString()


def good() -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name="s.proto", package="s", syntax="proto3")
    file.message_type.add(name="M").field.add(name="a", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    file.message_type[0].field.add(name="m", number=2, type="TYPE_MESSAGE", type_name=".s.M", label="LABEL_REPEATED")
    file.service.add(name="S").method.add(name="a", input_type=".s.M", output_type=".s.M")
    return file.SerializeToString()


_described = st.lists(st.one_of(files(), st.just(good())), max_size=3).map(lambda files: blocks(*files))
FILE_WORDS = (
    blocks(good()),
    b"\n\x07s.proto",
    b"\x12\x01s",
    b"\x1a\x07x.proto",
    b"b\x06proto3",
    b"\n\x01\xff",
    b".s.M",
    b"2\x05\n\x01S\x12\x00",
    b"\x1a\x19google/protobuf/any.proto",
    b"\x1a\x07s.proto",
    b"\x12\x02\xff\xff",
)


def _taken(script: Script) -> list[bytes]:
    files = []
    while script:
        files.append(script.block())
    return files


@target("schema", _described, raises=(BadDescriptors, NoSuchMethod, BadMessage), words=FILE_WORDS, largest=2048)
def _schema(data: bytes) -> object:
    """ipcctl asks a server for its description (ipcd.v1.Introspection), and calls its methods."""
    schema = Schema(wire_pb2.DescribeReply(files=_taken(Script(data))).files)
    said: list[object] = []
    for service in ("s.S", "x.X"):
        try:
            methods = schema.methods(service)
        except BadDescriptors:
            continue
        for method in methods:
            said.append((method.signature, method.path))
            message = schema.message(method, {})
            said.append(schema.value(method.reply.FromString(message.SerializeToString())))
    if not said:
        schema.method("s.S", "b")
    return said


def _known() -> Schema:
    """One method whose messages have everything whose JSON is special."""
    file = descriptor_pb2.FileDescriptorProto(name="all.proto", package="all", syntax="proto3")
    types = ("any", "struct", "timestamp", "duration", "wrappers", "field_mask", "empty")
    file.dependency.extend(f"google/protobuf/{name}.proto" for name in types)
    message = file.message_type.add(name="M")
    kinds = (
        "Any",
        "Struct",
        "Value",
        "ListValue",
        "Timestamp",
        "Duration",
        "Int64Value",
        "BytesValue",
        "FieldMask",
        "Empty",
    )
    for number, kind in enumerate(kinds, 1):
        message.field.add(
            name=kind.lower(),
            number=number,
            type="TYPE_MESSAGE",
            type_name=f".google.protobuf.{kind}",
            label=1 + 2 * (number % 2),
        )
    scalars = descriptor_pb2.FieldDescriptorProto.Type.items()
    for name, value in scalars:
        if value not in {10, 11, 14}:
            message.field.add(name=name.lower(), number=20 + value, type=value, label=1 + 2 * (value % 2))
    message.field.add(name="m", number=50, type="TYPE_MESSAGE", type_name=".all.M", label="LABEL_OPTIONAL")
    file.service.add(name="S").method.add(name="a", input_type=".all.M", output_type=".all.M")
    found: list[bytes] = []
    for name in types:
        module = __import__(f"google.protobuf.{name}_pb2", fromlist=["DESCRIPTOR"])
        found.append(module.DESCRIPTOR.serialized_pb)
    return Schema([*found, file.SerializeToString()])


_ALL: Final = _known()
_METHOD: Final = _ALL.method("all.S", "a")
_FIELDS: Final = tuple(field.name for field in _METHOD.request.DESCRIPTOR.fields)
_TYPES: Final = ("type.googleapis.com/all.M", "type.googleapis.com/google.protobuf.Struct", "x/y", "")


@target(
    "json-call",
    st.dictionaries(
        st.one_of(st.sampled_from((*_FIELDS, "@type", "[x]")), st.text(max_size=4)),
        st.one_of(json_values, st.dictionaries(st.sampled_from((*_FIELDS, "@type", "value")), json_values, max_size=3)),
        max_size=4,
    ).map(lambda one: json.dumps(one).encode()),
    raises=(BadMessage, BadDescriptors),
    words=(
        *JSON_WORDS,
        *(f'"{name}":'.encode() for name in (*_FIELDS, "@type", "value")),
        *(f'"{one}"'.encode() for one in _TYPES),
        b'"1s"',
        b'"1970-01-01T00:00:00Z"',
    ),
    largest=4096,
)
def _json_call(data: bytes) -> object:
    """Whatever JSON is a message, or is told what is wrong with it; and comes back as JSON that is the same message."""
    try:
        (value,) = jsontext.loads(data.decode("utf-8", "replace"), "test")[:1] or [None]
    except BadJson:
        return "no JSON"
    message = _ALL.message(_METHOD, value)
    shown = _ALL.value(message)
    return json.dumps(shown)


_replies = messages(any_pb2.Any, (*_TYPES, "a")).map(
    lambda one: b"\n" + len(one.SerializeToString()).to_bytes(1, "little") + one.SerializeToString()
)


@target(
    "reply",
    st.one_of(
        _replies,
        serialized(struct_pb2.Value).map(lambda one: b"\x1a" + bytes((len(one) & 127,)) + one),
        st.binary(max_size=40),
    ),
    raises=(BadDescriptors,),
    words=(
        b"\n",
        b"\x12",
        b"\x1a",
        b"\x22",
        b"\x92\x03",
        *(one.encode() for one in _TYPES),
        b"\xff" * 9 + b"\x01",
        b"\x08" + b"\xff" * 9 + b"\x01",
    ),
)
def _reply(data: bytes) -> object:
    """A server's reply, shown as JSON."""
    try:
        message = _METHOD.reply.FromString(data)
    except DecodeError:
        return "does not parse"
    return json.dumps(_ALL.value(message))
