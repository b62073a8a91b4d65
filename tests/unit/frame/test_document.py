"""proto/FRAME.md says what the code does: its examples, its tables, its names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ipcd_client
import pytest
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, connection, events, preamble, settings, stream, verbs, window
from ipcd_client.frame.codec import Decoder, Frame
from ipcd_client.frame.settings import Settings
from ipcd_client.frame.stream import Half
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.testing.pipe import End, frames, join, pair
from ipcd_client.wire import fds
from support import document

import ipcd


def decoded(raw: bytes) -> Frame:
    decoder = Decoder(1 << 20, codec.ALLOWED_ON_SHM)
    decoder.feed(raw)
    frame = decoder.next()
    assert frame is not None
    assert not decoder.partial
    return frame


EXAMPLES = [(title, raw) for title, raw in document.examples() if title != "preamble"]


def example(title: str, number: int = 0) -> bytes:
    return [raw for name, raw in EXAMPLES if name == title][number]


@pytest.mark.parametrize(("title", "raw"), EXAMPLES)
def test_each_example_is_one_frame_of_its_type(title: str, raw: bytes) -> None:
    frame = decoded(raw)
    assert (codec.NAMES | codec.SHM_NAMES)[frame.type] == title
    assert join(codec.encode(frame.type, frame.stream, frame.payload, frame.flags, frame.aux, frame.fds)) == raw


def test_every_type_has_an_example() -> None:
    assert {title for title, _ in EXAMPLES} == set(codec.NAMES.values()) | set(codec.SHM_NAMES.values())


def test_the_preamble_example() -> None:
    ((_, raw),) = [found for found in document.examples() if found[0] == "preamble"]
    token = bytes(range(16))
    assert preamble.pack(preamble.DATA, token) == raw
    assert preamble.unpack(raw) == (preamble.DATA, token)


def greeted() -> tuple[End, End]:
    caller, callee = pair(Settings(software="caller"), Settings(), greet=False)
    hello = caller.core.hello()
    assert join(hello) == example("HELLO")
    caller.send(hello)
    assert callee.deliver() == [events.HelloReceived(1, "caller")]
    callee.send(callee.core.hello())
    caller.deliver()
    return caller, callee


def test_the_examples_are_what_the_verbs_send_and_what_the_peer_understands() -> None:
    caller, callee = greeted()
    digest = "/lab.v1.Lab/Digest"

    metadata = (("k", "v"), ("t-bin", b"\x00\xff"))
    one, buffers = caller.core.open(digest, timeout=1.5, metadata=metadata, message=b"ABC", end=True)
    assert join(buffers) == example("OPEN", 0)
    caller.send(buffers)
    assert callee.deliver() == [events.CallOpened(1, digest, 1.5, metadata, b"ABC", 0, True)]
    buffers = callee.core.status(one, 0, headers=[("h", "1")], trailing=[("t", "2")], message=b"XYZ")
    assert join(buffers) == example("STATUS", 0)
    callee.send(buffers)
    assert caller.deliver() == [events.StatusReceived(1, 0, "", (("h", "1"),), (("t", "2"),), b"XYZ", 0)]

    three, buffers = caller.core.open(digest)
    assert join(buffers) == example("OPEN", 1)
    caller.send(buffers)
    assert callee.deliver() == [events.CallOpened(3, digest, None, (), None, 0, False)]
    buffers = caller.core.message(three, b"ABC")
    assert join(buffers) == example("MESSAGE", 0)
    caller.send(buffers)
    assert callee.deliver() == [events.MessageReceived(3, b"ABC", 0, False)]
    buffers = callee.core.headers(three, [("h", "1")])
    assert join(buffers) == example("HEADERS")
    callee.send(buffers)
    assert caller.deliver() == [events.HeadersReceived(3, (("h", "1"),))]

    caller.incoming += example("WINDOW")
    assert caller.deliver() == [events.CreditReceived(3)]


def test_the_pieces_end_the_request() -> None:
    caller, callee = greeted()
    three = [caller.core.open("/m")[0] for _ in range(2)][1]
    callee.incoming += join(codec.encode(codec.OPEN, three, codec.pack_name("/m"), codec.WITH_NAME))
    assert len(callee.deliver()) == 1
    callee.incoming += example("MESSAGE", 1) + example("MESSAGE", 2)
    assert callee.deliver() == [events.MessageReceived(3, b"abcdef", 0, True)]
    buffers = callee.core.status(three, 5, "no such file")
    assert join(buffers) == example("STATUS", 1)


def test_close_send_reset_ping_and_goaway() -> None:
    caller, callee = greeted()
    for _ in range(3):
        caller.send(caller.core.open("/m")[1])
    assert len(callee.deliver()) == 3
    assert join(caller.core.close_send(3)) == example("CLOSE_SEND")
    assert join(caller.core.reset(5, settings.RESET_CANCEL, "gone")) == example("RESET")
    assert join(caller.core.ping(b"12345678")) == example("PING", 0)
    callee.incoming += example("CLOSE_SEND") + example("RESET") + example("PING", 0)
    assert callee.deliver() == [events.SendClosed(3), events.ResetReceived(5, 1, "gone")]
    assert bytes(caller.incoming) == example("PING", 1)
    assert caller.deliver() == [events.PongReceived(b"12345678")]
    assert join(callee.core.drain("bye")) == example("GOAWAY")
    caller.incoming += example("GOAWAY")
    assert caller.deliver() == [events.GoAwayReceived(0, "bye", ())]


def test_types_and_the_flags_they_may_carry() -> None:
    flags = {row["flag"]: int(row["value"], 16) for row in document.table("flag", "value")}
    assert flags == {name: getattr(codec, name) for name in flags}
    listed = {}
    for row in document.table("type", "name"):
        assert codec.NAMES[int(row["type"])] == row["name"]
        names = row["flags it may carry"].replace("none", "").split()
        listed[int(row["type"])] = sum(flags[name] for name in names)
    assert listed == codec.ALLOWED_FLAGS
    every = 0
    for allowed in codec.ALLOWED_FLAGS.values():
        every |= allowed
    assert every == sum(flags.values())


def test_the_types_of_shared_memory() -> None:
    rows = {int(row["number"]): row["name"] for row in document.table("number", "name")}
    assert rows == codec.SHM_NAMES


def test_the_header() -> None:
    rows = document.table("offset", "size", "field", "meaning")
    sizes = {"length": "I", "stream": "I", "type": "B", "fds": "B", "flags": "H", "aux": "I"}
    assert "<" + "".join(sizes[row["field"]] for row in rows) == codec.HEADER.format
    at = 0
    for row in rows:
        assert int(row["offset"]) == at
        at += int(row["size"])
    assert at == codec.HEADER_SIZE


def test_the_transitions_of_both_halves() -> None:
    types = {name: number for number, name in codec.NAMES.items()}
    for column, code in (("request", stream.REQUEST), ("reply", stream.REPLY)):
        listed = {}
        for row in document.table(column, "frame", "becomes"):
            name, _, end = row["frame"].partition(" ")
            # What ends the request is one thing to the code, whether END says it or CLOSE_SEND.
            ends = end == "END" or name == "CLOSE_SEND"
            listed[Half[row[column]], types[name], ends] = Half[row["becomes"]]
        assert listed == code


@pytest.mark.parametrize("kind", ["RESET", "GOAWAY"])
def test_codes(kind: str) -> None:
    listed = {f"{kind}_{row['name']}": int(row[f"{kind} code (aux)"]) for row in document.table(f"{kind} code (aux)")}
    in_code = {name: value for name, value in vars(settings).items() if name.startswith(f"{kind}_")}
    assert listed == in_code


def test_the_hello() -> None:
    rows = document.table("field of ipcd.v1.Hello")
    listed = {tuple(row["field of ipcd.v1.Hello"].split()) for row in rows}
    assert listed == {(str(field.number), field.name) for field in wire_pb2.Hello.DESCRIPTOR.fields}


@pytest.mark.parametrize("row", document.table("this end speaks"), ids=lambda row: row["the peer speaks"])
def test_version_negotiation(row: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ipcd_client.frame import hello

    low, high = map(int, row["this end speaks"].split(" to "))
    monkeypatch.setattr(hello, "MIN_VERSION", low)
    monkeypatch.setattr(hello, "MAX_VERSION", high)
    peer_low, peer_high = map(int, row["the peer speaks"].split(" to "))
    said = wire_pb2.Hello(min_version=peer_low, max_version=peer_high, max_frame=4096, initial_window=16)
    if row["spoken"] == "none":
        with pytest.raises(ProtocolError) as caught:
            hello.agree(said.SerializeToString())
        assert caught.value.violation == "no-common-version"
    else:
        assert hello.agree(said.SerializeToString())[0] == int(row["spoken"])


def test_limits() -> None:
    modules = (settings, window, codec, fds, verbs)
    for row in document.table("constant", "value"):
        values = {getattr(module, row["constant"]) for module in modules if hasattr(module, row["constant"])}
        assert values == {int(row["value"])}, row["constant"]
    defaults = Settings()
    for row in document.table("setting", "value"):
        assert getattr(defaults, row["setting"]) == int(row["value"]), row["setting"]


def test_every_limit_of_the_settings_is_listed() -> None:
    listed = {row["constant"] for row in document.table("constant", "value")}
    limits = {name for name in vars(settings) if name.startswith("MAX_")} - {"MAX_U32", "MAX_VERSION"}
    assert limits <= listed


def raised(root: Path) -> dict[str, str]:
    """Each name that a ProtocolError is made with below the root, and where."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called != "ProtocolError":
                continue
            where = f"{path}:{node.lineno}"
            name = node.args[0] if node.args else None
            assert isinstance(name, ast.Constant), f"{where}: the violation's name is not a literal"
            assert isinstance(name.value, str), f"{where}: the violation's name is not text"
            found[name.value] = where
    return found


def test_violations_are_those_that_the_code_raises() -> None:
    found: dict[str, str] = {}
    for package in (ipcd_client, ipcd):
        assert package.__file__ is not None
        found |= raised(Path(package.__file__).parent)
    listed = document.violations()
    assert {name: where for name, where in found.items() if name not in listed} == {}
    assert listed - set(found) == set()


def test_violations_named_in_the_text_are_listed() -> None:
    before = document.text().partition("## 8. Violations")[0]
    named = set(re.findall(r"is `([a-z-]+)`|: `([a-z-]+)`", before))
    assert {one or other for one, other in named} <= document.violations()


def test_stream_numbers_end_where_the_document_says() -> None:
    assert connection.StreamsExhausted is verbs.StreamsExhausted
    assert f"{verbs.LAST_STREAM:x}" in document.text()


def test_frames_of_a_verb_are_whole() -> None:
    caller, _ = greeted()
    assert [frame.type for frame in frames(caller.core.open("/m", message=b"x" * 5000)[1])] == [codec.OPEN]
