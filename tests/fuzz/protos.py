"""Draws messages of a type: most fields set, with values out of few, so that they refer to each other now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_TEXTS = ("", "a", "b", "x.X", "b.0123456789abcdef", "b:7", "[::1]:7", "c", "a/b", "\n", "n" * 255, "n" * 256, "1.0")
_INTEGERS = (0, 1, 2, 3, 7, 256, (1 << 31) - 1)


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], texts: Sequence[str] = _TEXTS, deep: int = 4) -> Message:
    """One."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if not draw(st.integers(0, 3)):
            continue
        # Not `label`, which is gone in protobuf 7, nor `is_repeated`, which is younger than 6.30.
        present = getattr(message, field.name)
        repeated = isinstance(present, Sequence) and not isinstance(present, (str, bytes, Message))
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        count = draw(st.integers(0, 3)) if repeated else 1
        values = (
            [_value(draw, message, field, texts, deep, repeated) for _ in range(count)]
            if deep or not field.message_type
            else []
        )
        if repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            for value in values:
                getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, values[0])
    return message


def _value(draw: st.DrawFn, message: Message, field: Any, texts: Sequence[str], deep: int, repeated: bool) -> Any:
    if field.message_type is not None:
        inner = getattr(message, field.name)
        kind = type(inner.add() if repeated else inner)
        if repeated:
            del inner[-1]
        return draw(messages(kind, texts, deep - 1))
    if field.enum_type is not None:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = draw(st.sampled_from(texts))
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw(st.booleans())
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return draw(st.floats(width=32))
        case _:
            return draw(st.sampled_from(_INTEGERS))


def serialized(kind: type[Message], texts: Sequence[str] = _TEXTS) -> st.SearchStrategy[bytes]:
    """The same as bytes."""
    return messages(kind, texts).map(lambda message: message.SerializeToString())
