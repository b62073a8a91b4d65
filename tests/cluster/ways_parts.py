"""What the programs of test_ways.py do beside those of cluster.parts."""

from __future__ import annotations

import asyncio
import hashlib

import grpc
import ipcd_client
import ipcd_client.aio
from cluster import parts
from cluster.eventually import LONG
from cluster.parts import Desk

from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
from ipcd.demo.service import SERVICE

CHUNK = bytes(range(256)) * 256  # 64 KiB


def all_kinds(desk: Desk) -> None:
    """A call of each, with more than the windows take at once."""
    large = CHUNK * 8
    assert parts.digest(desk, large) == hashlib.sha256(large).hexdigest()
    assert parts.digest_stream(desk, CHUNK, 40) == (hashlib.sha256(CHUNK * 40).hexdigest(), 40 << 16)
    assert len(parts.search(desk, "import", "**/*.py", 300)) == 300
    session = parts.open_session(desk)
    assert parts.ask(desk, session, "cd json")
    assert "decoder.py" in " ".join(parts.ask(desk, session, "ls"))
    assert parts.end_session(desk, session) == "OK"


def all_kinds_on_a_loop(desk: Desk) -> tuple[str, str]:
    """The same with asyncio: name of the transport, and the reason for it. A deadline passes and a call is cancelled,
    too."""

    async def main() -> tuple[str, str]:
        async with ipcd_client.aio.channel(node=desk.socket) as channel:
            stub = lab_pb2_grpc.LabStub(channel)
            large = CHUNK * 8
            reply = await stub.Digest(lab_pb2.DigestRequest(data=large), timeout=LONG)
            assert reply.hex == hashlib.sha256(large).hexdigest()
            chunks = (lab_pb2.Chunk(data=CHUNK) for _ in range(40))
            assert (await stub.DigestStream(chunks, timeout=LONG)).size == 40 << 16
            request = lab_pb2.SearchRequest(pattern="import", glob="**/*.py", limit=300)
            assert len([match async for match in stub.Search(request, timeout=LONG)]) == 300
            call = stub.Session(timeout=LONG)
            await call.write(lab_pb2.SessionRequest(sequence=1, line="ls"))
            assert (await call.read()).text
            await call.done_writing()
            late = stub.Echo(lab_pb2.Payload(data=b"x"), timeout=0.5, metadata=(("x-hold", "1"),))
            assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = stub.Search(request, timeout=LONG)
            assert (await cancelled.read()).text
            cancelled.cancel()
            assert await cancelled.code() is grpc.StatusCode.CANCELLED
            route = await channel.route(SERVICE)
            return route.transport, route.reason

    return asyncio.run(main())


def way_over_tcp(desk: Desk) -> parts.Way:
    """Where calls go, if TCP is asked for."""
    with ipcd_client.channel(transport="tcp", node=desk.socket) as channel:
        lab_pb2_grpc.LabStub(channel).Identity(lab_pb2.IdentityRequest(), timeout=LONG)
        route = channel.route(SERVICE, LONG)
        return parts.Way(
            route.server.process.node, route.server.name, route.server.process.pid, route.transport, route.reason
        )


def who_within(desk: Desk, timeout: float) -> str:
    """Name of who answers a call that has this many seconds."""
    name: str = desk.stub.Identity(lab_pb2.IdentityRequest(), timeout=timeout).name
    return name


def who_by_grpc(_desk: Desk, address: str) -> str:
    """Name of who answers at the gateway there."""
    with grpc.insecure_channel(address) as channel:
        name: str = lab_pb2_grpc.LabStub(channel).Identity(lab_pb2.IdentityRequest(), timeout=LONG).name
        return name
