"""The gateway's pure parts; the rest is tested with real clients, in tests/integration."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc.aio import EOF
from ipcd_client.errors import ConfigError
from ipcd_client.node.target import Target
from ipcd_client.primitives import waiting
from ipcd_client.primitives.errors import BadRequest

from ipcd import limits
from ipcd.gateway import metadata
from ipcd.gateway.budget import Budget, owner_of
from ipcd.gateway.reflection import Files, NotFound
from ipcd.gateway.relay import service_of
from ipcd.gateway.requests import Requests
from ipcd.state.quota import Shares

OF_A_HOP: list[tuple[str, str | bytes]] = [
    (key, "x") for key in (":authority", "te", "content-type", "host", "grpc-timeout", "grpc-encoding")
]
PASSED_ON: list[tuple[str, str | bytes]] = [
    ("user-agent", "grpc-node-js/1"),
    ("x-a", "1"),
    ("x-a", "2"),
    ("x-b-bin", b"\0\xff"),
]
PASSED_ON += [("grpc-status-details-bin", b"\1")]


def test_what_is_of_a_hop_or_ours_is_not_passed_on() -> None:
    given = [*OF_A_HOP, *PASSED_ON, ("ipcd-target", "ipcd://b/canary")]
    assert metadata.inbound(given) == (tuple(PASSED_ON), Target("b", "canary"))
    assert metadata.inbound([]) == ((), Target("", ""))
    assert metadata.outbound([*OF_A_HOP, *PASSED_ON]) == tuple(PASSED_ON)


@pytest.mark.parametrize("targets", [["b"], ["ipcd:b"], [""], ["ipcd:", "ipcd:"]])
def test_a_target_that_is_none(targets: list[str]) -> None:
    with pytest.raises(ConfigError):
        metadata.inbound([("ipcd-target", target) for target in targets])


@pytest.mark.parametrize(
    ("method", "service"), [("/a.b.C/D", "a.b.C"), ("/C/D", "C"), ("//D", ""), ("/D", ""), ("/a/b/C", "a/b")]
)
def test_the_service_of_a_method(method: str, service: str) -> None:
    assert service_of(method) == service


def test_a_budget_is_never_overdrawn() -> None:
    shares = Shares("things", 15, {"host": 10})
    budget, other = Budget(shares, owner_of("ipv4:10.0.0.1:5000")), Budget(shares, owner_of("unix:"))
    budget.take(10)
    with pytest.raises(limits.LimitReached, match=r"^the limit of 10 things of one host is reached \(10\.0\.0\.1\)$"):
        budget.take(1)
    budget.give(3)
    budget.take(3)
    assert shares.used == 10
    other.take(5)
    with pytest.raises(limits.LimitReached, match=r"^the limit of 15 things is reached$"):
        other.take(1)


def test_a_request_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins a call of a named thing and says nothing more does not keep it open. What is read by then goes on
    to be: only the end of the call ends that."""
    monkeypatch.setattr(waiting, "FIRST", 0.05)

    class Silent:
        def __init__(self) -> None:
            self.read_by: asyncio.Task[Any] | None = None
            self.end = asyncio.Event()

        async def read(self) -> Any:
            self.read_by = asyncio.current_task()
            await self.end.wait()
            return EOF

    async def main() -> None:
        context, task = Silent(), asyncio.current_task()
        assert task is not None
        requests = Requests(context, task, Budget(Shares("things", 15, {}), ()))
        async with asyncio.timeout(20):
            with pytest.raises(BadRequest, match=r"no request came within 0\.05 s"):
                await requests.sure()
        assert context.read_by is not None
        assert not context.read_by.cancelling()
        requests.close()
        context.end.set()
        await context.read_by

    asyncio.run(main())


def file(name: str, *dependencies: str, message: str = "M", extends: str = "") -> bytes:
    """A file of proto2 with a message, or with an extension 100 of another one."""
    result = descriptor_pb2.FileDescriptorProto(name=name, package=name[0], dependency=dependencies)
    if extends:
        field = result.extension.add(name="e", number=100, extendee=extends)
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    else:
        result.message_type.add(name=message).extension_range.add(start=100, end=200)
    return result.SerializeToString()


def test_files_come_with_what_they_import() -> None:
    a, b, c = file("a.proto"), file("b.proto", "a.proto"), file("c.proto", "a.proto", extends=".a.M")
    files = Files([a, b, c])
    assert files.named("a.proto") == [a]
    assert files.containing("b.M") == [b, a]
    assert files.extending("a.M", 100) == [c, a]
    assert (files.extensions("a.M"), files.extensions("b.M")) == ([100], [])
    for missing in (
        lambda: files.named("d.proto"),
        lambda: files.containing("d.M"),
        lambda: files.containing("M"),
        lambda: files.extending("a.M", 101),
        lambda: files.extensions("d.M"),
    ):
        with pytest.raises(KeyError):
            missing()


@pytest.mark.parametrize(
    "data", [[b"\xff"], [file("b.proto", "a.proto")], [file("a.proto"), file("a.proto", message="N")]]
)
def test_what_are_no_descriptors(data: list[bytes]) -> None:
    with pytest.raises(NotFound, match="the server's descriptors are none"):
        Files(data)
