"""The service of commands, as plain gRPC calls it, and offerers that are none of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from subprocess import PIPE
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, eventually
from integration.gateway import address_of
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives.errors import Lost, NoSuchName
from primitives.command_faces import Offers, loop_command
from primitives.roads import Road


@pytest.mark.parametrize("road", ["gateway"], indirect=True)
def test_a_plain_client_needs_no_credit(road: Road, offer: Offers) -> None:
    name = offer("cat", "cat")
    requests = [
        pb.RunRequest(name=name, start=pb.RunStart()),
        pb.RunRequest(stdin=b"some"),
        pb.RunRequest(stdin=b"thing"),
    ]
    out, code = b"", -1
    # The end of the requests is that of the input.
    for reply in command_pb2_grpc.CommandStub(road.keywords["channel"]).Run(iter(requests), timeout=LONG):
        out += reply.stdout
        if reply.HasField("exit"):
            code = reply.exit.code
    assert (out, code) == (b"something", 0)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.RunRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.RunRequest(name="no such name", start=pb.RunStart()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.RunRequest(name="nowhere", start=pb.RunStart()), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_what_a_plain_client_says_is_not_trusted(cluster: Any, first: pb.RunRequest, code: grpc.StatusCode) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(command_pb2_grpc.CommandStub(channel).Run(iter([first]), timeout=LONG))
        assert caught.value.code() is code


def test_more_than_was_granted_is_refused(road: Road, offer: Offers) -> None:
    name = offer("sleep", "sleep", "60")
    target = f"ipcd:///{name.partition('@')[0]}"
    channel = road.keywords.get("channel") or ipcd_client.channel(target, node=road.front.socket)
    requests = [pb.RunRequest(name=name, start=pb.RunStart()), *[pb.RunRequest(stdin=bytes(60000))] * 12]
    hold = threading.Event()

    def sent() -> Iterator[pb.RunRequest]:
        yield from requests
        hold.wait(LONG)

    try:
        with pytest.raises(grpc.RpcError) as caught:
            list(command_pb2_grpc.CommandStub(channel).Run(sent(), timeout=LONG))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "granted" in str(caught.value.details())
    finally:
        hold.set()
        if "channel" not in road.keywords:
            channel.close()


def test_a_caller_that_reads_nothing_keeps_no_place(road: Road, offer: Offers) -> None:
    name = offer("yes", "yes", seconds=0.2)
    target = f"ipcd:///{name.partition('@')[0]}"
    channel = road.keywords.get("channel") or ipcd_client.channel(target, node=road.front.socket)
    with ipcd_client.command(name, **road.keywords) as command:
        call = command_pb2_grpc.CommandStub(channel).Run(iter([pb.RunRequest(name=name, start=pb.RunStart())]))
        try:
            eventually(lambda: command.describe().started == 1, "it is started")
            eventually(lambda: command.describe().running == 0, "its place is free")
        finally:
            call.cancel()
            if "channel" not in road.keywords:
                channel.close()


class Flooding(command_pb2_grpc.CommandServicer):
    """Sends output that nobody has granted, until its caller ends the call, which sets `over`."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def Run(self, requests: Iterator[pb.RunRequest], context: Any) -> Iterator[pb.RunReply]:
        context.add_callback(self.over.set)
        yield pb.RunReply(started=pb.RunStarted(pid=1))
        while context.is_active():
            yield pb.RunReply(stdout=bytes(64 << 10))


def test_more_output_than_was_granted(road: Road) -> None:
    name = road.name("flood")
    servicer = Flooding()
    server = ipcd_client.server(name=name.partition("@")[0], node=road.home.socket)
    command_pb2_grpc.add_CommandServicer_to_server(servicer, server)
    server.start()

    async def main() -> None:
        async with loop_command(road, name) as command:
            process = await command.popen(stdout=PIPE)
            # Of what is not read, nobody sees that it is too much but the one that it would be kept for.
            with pytest.raises(Lost, match="has sent more"):
                await process.wait()
            await process.close()

    try:
        eventually(lambda: known(road, name), "its node knows of it")
        with ipcd_client.command(name, **road.keywords) as command:
            process = command.popen(stdout=PIPE)
            with pytest.raises(Lost, match="has sent more"):
                process.wait(LONG)
            assert servicer.over.wait(LONG)
            process.close()
        servicer.over.clear()
        asyncio.run(main())
        assert servicer.over.wait(LONG)
    finally:
        server.stop(None).wait()


def known(road: Road, name: str) -> bool:
    """Whether it can be called."""
    target = f"ipcd://{road.home.node}/{name.partition('@')[0]}"
    with ipcd_client.channel(target, node=road.front.socket) as channel:
        try:
            command_pb2_grpc.CommandStub(channel).Describe(pb.DescribeCommandRequest(name="x"), timeout=LONG)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNIMPLEMENTED)
    return True


def test_a_server_of_another_name(cluster: Any) -> None:
    with (
        ipcd_client.command("right", node=cluster.front.socket).serve(["true"]),
        ipcd_client.channel("ipcd:///right", node=cluster.front.socket) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        command_pb2_grpc.CommandStub(channel).Describe(pb.DescribeCommandRequest(name="wrong"), timeout=LONG)
    assert str(caught.value.details()).startswith(NoSuchName.reason)
