from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.cli.jsoncall import BadDescriptors, BadMessage, NoSuchMethod, Schema, did_you_mean, split_path
from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd.demo.pb.lab.v1 import lab_pb2

LAB = Schema.of(lab_pb2.DESCRIPTOR)


def kinds() -> Schema:
    """A service whose request has a field of every shape."""
    field, file = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FileDescriptorProto()
    file.name, file.package, file.syntax = "kinds.proto", "kinds.v1", "proto3"
    wkt = [any_pb2, struct_pb2, timestamp_pb2, wrappers_pb2]
    file.dependency.extend(each.DESCRIPTOR.name for each in wkt)
    request = file.message_type.add(name="Request")

    def add(name: str, number: int, kind: str, type_name: str | None = None, repeated: bool = False) -> None:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        one = request.field.add(name=name, number=number, label=label, type_name=type_name)
        one.type = field.Type.Value(f"TYPE_{kind}")

    add("small_number", 1, "INT32")
    add("big_number", 2, "INT64")
    add("raw", 3, "BYTES")
    add("choice", 4, "ENUM", ".kinds.v1.Choice")
    add("inner", 5, "MESSAGE", ".kinds.v1.Request")
    add("many", 6, "MESSAGE", ".kinds.v1.Request", repeated=True)
    add("by_name", 7, "MESSAGE", ".kinds.v1.Request.ByNameEntry", repeated=True)
    add("when", 8, "MESSAGE", ".google.protobuf.Timestamp")
    add("whatever", 9, "MESSAGE", ".google.protobuf.Struct")
    add("packed", 10, "MESSAGE", ".google.protobuf.Any")
    add("maybe", 11, "MESSAGE", ".google.protobuf.StringValue")
    add("counts", 12, "MESSAGE", ".kinds.v1.Request.CountsEntry", repeated=True)
    for entry, value in (("ByNameEntry", None), ("CountsEntry", field.TYPE_INT32)):
        map_entry = request.nested_type.add(name=entry)
        map_entry.options.map_entry = True
        map_entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
        one = map_entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL)
        if value is None:
            one.type, one.type_name = field.TYPE_MESSAGE, ".kinds.v1.Request"
        else:
            one.type = value
    choice = file.enum_type.add(name="Choice")
    choice.value.add(name="CHOICE_UNSPECIFIED", number=0)
    choice.value.add(name="CHOICE_YES", number=1)
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Kinds")
    service.method.add(name="Do", input_type=".kinds.v1.Request", output_type=".kinds.v1.Request")
    service.method.add(name="Nap", input_type=".kinds.v1.Nothing", output_type=".kinds.v1.Nothing")
    service.method.add(name="Text", input_type=".google.protobuf.StringValue", output_type=".kinds.v1.Nothing")
    return Schema([*(each.DESCRIPTOR.serialized_pb for each in wkt), file.SerializeToString()])


KINDS = kinds()
DO = KINDS.method("kinds.v1.Kinds", "Do")


def wrong(value: Any) -> str:
    with pytest.raises(BadMessage) as caught:
        KINDS.message(DO, value)
    return str(caught.value)


def test_all_four_kinds_of_method_are_told_apart() -> None:
    assert {each.name: (each.client_streaming, each.server_streaming) for each in LAB.methods("lab.v1.Lab")} == {
        "Digest": (False, False),
        "DigestStream": (True, False),
        "Search": (False, True),
        "Session": (True, True),
        "Echo": (False, False),
        "Identity": (False, False),
    }


def test_a_message_is_what_generated_code_makes() -> None:
    method = LAB.method("lab.v1.Lab", "Digest")
    assert method.path == "/lab.v1.Lab/Digest"
    message = LAB.message(method, {"data": "aGVsbG8=", "algorithm": "sha1"})
    expected = lab_pb2.DigestRequest(data=b"hello", algorithm="sha1")
    assert message.SerializeToString() == expected.SerializeToString()


def test_replies_have_all_their_fields_under_the_names_of_the_proto() -> None:
    reply = LAB.method("lab.v1.Lab", "Search").reply(file="a.py")
    assert LAB.value(reply) == {"file": "a.py", "line": 0, "text": ""}


@pytest.mark.parametrize(
    "value",
    [
        {"small_number": 1, "big_number": "9223372036854775807", "raw": "AAE=", "choice": "CHOICE_YES"},
        {"inner": {"inner": {"small_number": 2}}, "many": [{}, {"raw": "AA=="}]},
        {"by_name": {"a": {"small_number": 1}, "b": {}}, "counts": {"c": 3}},
        {"when": "2026-01-02T03:04:05Z", "whatever": {"any": ["json", 1.0, None]}, "maybe": "said"},
        {"packed": {"@type": "type.googleapis.com/kinds.v1.Request", "small_number": 3}},
    ],
)
def test_every_kind_of_field_goes_there_and_back(value: Any) -> None:
    back = KINDS.value(KINDS.message(DO, value))
    # What was not set has its default; of what was set, nothing changed.
    assert _without_defaults(back) == _without_defaults(value)


def _without_defaults(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {key: _without_defaults(item) for key, item in value.items()}
    return {key: item for key, item in items.items() if item not in (0, "", "0", [], {}, "CHOICE_UNSPECIFIED")}


def test_lower_camel_case_is_understood_too() -> None:
    assert KINDS.message(DO, {"smallNumber": 4}) == KINDS.message(DO, {"small_number": 4})


def test_a_well_known_type_may_be_the_whole_message() -> None:
    method = KINDS.method("kinds.v1.Kinds", "Text")
    assert KINDS.message(method, "hello").SerializeToString() == b"\n\x05hello"


def test_every_unknown_field_is_named_with_its_place() -> None:
    text = wrong({"smal_number": 1, "inner": {"nope": 1}, "many": [{}, {"zzz": 1}], "by_name": {"k": {"qqq": 1}}})
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "kinds.v1.Request has no field 'smal_number' (did you mean 'small_number'?); it has: small_number, "
    )
    assert lines[1].startswith("kinds.v1.Request (in inner) has no field 'nope'")
    assert lines[2].startswith("kinds.v1.Request (in many[1]) has no field 'zzz'")
    assert lines[3].startswith("kinds.v1.Request (in by_name['k']) has no field 'qqq'")


def test_text_where_base64_belongs_is_refused_and_its_base64_shown() -> None:
    assert wrong({"inner": {"raw": "hello!"}}) == (
        "inner.raw is bytes, which JSON writes in base64, and 'hello!' is not; the bytes of that text are 'aGVsbG8h'"
    )


@given(st.binary())
def test_base64_of_any_kind_is_understood(data: bytes) -> None:
    padded = b64encode(data).decode()
    for text in (padded, padded.rstrip("="), urlsafe_b64encode(data).decode()):
        assert KINDS.message(DO, {"raw": text}).raw == data  # type: ignore[attr-defined]


def test_a_type_without_fields_says_so() -> None:
    with pytest.raises(BadMessage, match=r"^kinds.v1.Nothing has no field 'a'; it has no fields$"):
        KINDS.message(KINDS.method("kinds.v1.Kinds", "Nap"), {"a": 1})


@pytest.mark.parametrize(
    ("value", "kind"), [([], "a list"), ("x", "a string"), (1, "a number"), (None, "null"), (True, "a boolean")]
)
def test_a_message_is_an_object(value: Any, kind: str) -> None:
    assert wrong(value) == f"the message: kinds.v1.Request is written as a JSON object, not as {kind}"


def test_a_message_within_is_an_object_too() -> None:
    assert wrong({"inner": []}) == "inner: kinds.v1.Request is written as a JSON object, not as a list"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"small_number": "x"}, "small_number"),
        ({"small_number": 1 << 40}, "small_number"),
        ({"small_number": 1.5}, "small_number"),
        ({"choice": "CHOICE_NO"}, "choice"),
        ({"many": {}}, "many"),
        ({"when": "yesterday"}, "when"),
        ({"packed": {"@type": "type.googleapis.com/kinds.v1.Unknown"}}, "kinds.v1.Unknown"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_field(value: Any, field: str) -> None:
    text = wrong(value)
    assert text.startswith("not a kinds.v1.Request: ")
    assert field in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*DO.request.DESCRIPTOR.fields_by_name, "@type", "value", "x"]) | st.text(),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    )
)
def test_any_json_gives_a_message_or_a_reason(value: Any) -> None:
    try:
        message = KINDS.message(DO, value)
    except BadMessage:
        return
    KINDS.value(message)


@pytest.mark.parametrize(
    "value", [{"[\ud800": 1}, {"packed": {"@type": "type.googleapis.com/kinds.v1.Request", "\udfff": 1}}, {"\ud800": 1}]
)
def test_half_a_character_is_refused(value: Any) -> None:
    """For which protobuf has a SystemError."""
    assert "half of a character" in wrong(value)


def test_an_any_that_does_not_hold_what_it_says_has_no_json() -> None:
    packed = any_pb2.Any(type_url="type.googleapis.com/kinds.v1.Request", value=b"\xff")
    reply = DO.reply.FromString(b"\x52" + bytes((len(packed.SerializeToString()),)) + packed.SerializeToString())
    with pytest.raises(BadDescriptors, match="no JSON form"):
        KINDS.value(reply)


def test_an_unknown_method_lists_the_methods() -> None:
    with pytest.raises(NoSuchMethod) as caught:
        LAB.method("lab.v1.Lab", "digest")
    first, *others = str(caught.value).splitlines()
    assert first == "lab.v1.Lab has no method 'digest' (did you mean 'Digest'?); it has:"
    assert "  DigestStream(stream lab.v1.Chunk) returns (lab.v1.DigestReply)" in others
    assert "  Session(stream lab.v1.SessionRequest) returns (stream lab.v1.SessionReply)" in others
    assert len(others) == len(caught.value.methods) == 6


def test_no_method_lists_them_too() -> None:
    with pytest.raises(NoSuchMethod, match=r"^which method of lab.v1.Lab\?; it has:\n  Digest"):
        LAB.method("lab.v1.Lab", "")


def test_files_with_dependencies_come_along() -> None:
    schema = Schema.of(node_pb2.DESCRIPTOR)
    assert schema.method("ipcd.v1.Node", "Resolve").reply.DESCRIPTOR.full_name == "ipcd.v1.ResolveReply"


def test_the_types_are_apart_from_those_of_this_process() -> None:
    assert LAB.method("lab.v1.Lab", "Echo").request is not lab_pb2.Payload


def file_of(**fields: Any) -> bytes:
    return descriptor_pb2.FileDescriptorProto(syntax="proto3", **fields).SerializeToString()


@pytest.mark.parametrize(
    "files",
    [
        [b"\xff\xff\xff"],
        [file_of(name="a.proto", dependency=["missing.proto"])],
        [file_of(name="a.proto", package="x"), file_of(name="a.proto", package="y")],
        [file_of(name="a.proto", message_type=[descriptor_pb2.DescriptorProto(name="not a name")])],
    ],
)
def test_descriptors_that_do_not_hold_together_are_refused(files: list[bytes]) -> None:
    with pytest.raises(BadDescriptors, match=r"^the server's description of its service does not load: "):
        Schema(files)


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_for_descriptors_give_a_schema_or_a_reason(files: list[bytes]) -> None:
    try:
        schema = Schema(files)
    except BadDescriptors:
        return
    with pytest.raises(BadDescriptors, match="does not contain"):
        schema.methods("lab.v1.Lab")


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("lab.v1.Lab/Digest", ("lab.v1.Lab", "Digest")),
        ("/lab.v1.Lab/Digest", ("lab.v1.Lab", "Digest")),
        ("lab.v1.Lab", ("lab.v1.Lab", "")),
        ("lab.v1.Lab/", ("lab.v1.Lab", "")),
    ],
)
def test_paths(given_: str, expected: tuple[str, str]) -> None:
    assert split_path(given_) == expected


def test_guesses_are_only_made_when_close() -> None:
    assert did_you_mean("lab.v1.lab", ["lab.v1.Lab"]) == " (did you mean 'lab.v1.Lab'?)"
    assert did_you_mean("something", ["lab.v1.Lab"]) == ""
    assert did_you_mean("", ["a"]) == ""
