"""What may wait says for how long, to whichever kind; and who begins a call says what it wants."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import eventually
from integration.gateway import address_of
from ipcd_client.pb.ipcd.v1 import (
    command_pb2,
    command_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    pipe_pb2,
    pipe_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    semaphore_pb2,
    semaphore_pb2_grpc,
    topic_pb2,
    topic_pb2_grpc,
    value_pb2,
    value_pb2_grpc,
)
from ipcd_client.primitives import waiting
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.place import target_of
from primitives.roads import Cluster

OFFERING = str(Path(__file__).with_name("offering.py"))
WRONG = (math.nan, math.inf, -math.inf, -1.0, 2 * waiting.LONGEST)
SECONDS = 60.0  # far more than anything here takes


@pytest.fixture
def channel(cluster: Cluster) -> Iterator[grpc.Channel]:
    """Of plain gRPC, to the node that keeps what is asked for."""
    with grpc.insecure_channel(address_of(cluster.back)) as made:
        yield made


@pytest.fixture
def offered(cluster: Cluster) -> Iterator[str]:
    """The name of a command."""
    with subprocess.Popen(
        [sys.executable, OFFERING, "serve", cluster.back.socket, "cat", "cat"], stdout=subprocess.PIPE, text=True
    ) as offerer:
        try:
            assert offerer.stdout is not None
            assert offerer.stdout.readline() == "offered\n"
            yield "cat"
        finally:
            offerer.kill()


Ask = Callable[[Any, float], Any]


def lock(channel: Any, wait: float) -> Any:
    acquire = lock_pb2.LockAcquire(wait=wait)
    request = lock_pb2.LockHoldRequest(name="l", id=1, acquire=acquire)
    reply = next(lock_pb2_grpc.LockStub(channel).Hold(iter([request]), timeout=SECONDS))
    raise Answered(reply.failed.code, reply.failed.details)


class Answered(Exception):
    """A failure that is no status of the call."""

    def code(self) -> Any:
        return next(each for each in grpc.StatusCode if each.value[0] == self.args[0])

    def details(self) -> str:
        return str(self.args[1])


def publish(channel: Any, wait: float) -> Any:
    topic_pb2_grpc.TopicStub(channel).Publish(topic_pb2.TopicPublishRequest(name="t", wait=wait), timeout=SECONDS)


def poll(channel: Any, wait: float) -> Any:
    request = topic_pb2.TopicSubscribeRequest(name="t", poll=1, wait=wait)
    list(topic_pb2_grpc.TopicStub(channel).Subscribe(iter([request]), timeout=SECONDS))


def poll_later(channel: Any, wait: float) -> Any:
    requests = [
        topic_pb2.TopicSubscribeRequest(name="t"),
        topic_pb2.TopicSubscribeRequest(name="t", poll=1, wait=wait),
    ]
    list(topic_pb2_grpc.TopicStub(channel).Subscribe(iter(requests), timeout=SECONDS))


def open_(channel: Any, wait: float) -> Any:
    request = pipe_pb2.PipeOpen(name="p", side=pipe_pb2.PIPE_SIDE_WRITE, wait=wait)
    list(pipe_pb2_grpc.PipeStub(channel).Open(iter([request]), timeout=SECONDS))


def write(channel: Any, wait: float) -> Any:
    list(pipe_pb2_grpc.PipeStub(channel).Write(iter([pipe_pb2.PipeWrite(name="p", wait=wait)]), timeout=SECONDS))


def read(channel: Any, wait: float) -> Any:
    list(pipe_pb2_grpc.PipeStub(channel).Read(pipe_pb2.PipeRead(name="p", wait=wait), timeout=SECONDS))


def semaphore(wait: float) -> semaphore_pb2.SemaphoreRequest:
    return semaphore_pb2.SemaphoreRequest(
        name="s", value=0, operations=[semaphore_pb2.SemaphoreOperation(delta=-1)], wait=wait
    )


def operate(channel: Any, wait: float) -> Any:
    semaphore_pb2_grpc.SemaphoreStub(channel).Operate(semaphore(wait), timeout=SECONDS)


def hold(channel: Any, wait: float) -> Any:
    list(semaphore_pb2_grpc.SemaphoreStub(channel).Hold(iter([semaphore(wait)]), timeout=SECONDS))


def receive(channel: Any, wait: float) -> Any:
    request = queue_pb2.QueueReceiveRequest(name="q", wait=wait, create=queue_pb2.QueueOptions())
    queue_pb2_grpc.QueueStub(channel).Receive(request, timeout=SECONDS)


def send(channel: Any, wait: float) -> Any:
    request = queue_pb2.QueueSendRequest(
        name="q", wait=wait, create=queue_pb2.QueueOptions(), messages=[queue_pb2.QueueDraft()]
    )
    queue_pb2_grpc.QueueStub(channel).Send(request, timeout=SECONDS)


def next_(channel: Any, wait: float) -> Any:
    value_pb2_grpc.ValueStub(channel).Next(value_pb2.ValueNextRequest(name="v", wait=wait), timeout=SECONDS)


def watch(channel: Any, wait: float) -> Any:
    list(value_pb2_grpc.ValueStub(channel).Watch(value_pb2.ValueNextRequest(name="v", wait=wait), timeout=SECONDS))


def run(channel: Any, wait: float) -> Any:
    request = command_pb2.RunRequest(name="cat", start=command_pb2.RunStart(wait=wait))
    list(command_pb2_grpc.CommandStub(channel).Run(iter([request]), timeout=SECONDS))


ASKS = (lock, publish, poll, poll_later, open_, write, read, operate, hold, receive, send, next_, watch)


@pytest.mark.parametrize("wait", WRONG)
@pytest.mark.parametrize("ask", ASKS)
def test_no_time_to_wait(ask: Ask, wait: float, channel: grpc.Channel) -> None:
    refused(ask, channel, wait)


def test_no_time_to_wait_for_a_command(channel: grpc.Channel, offered: str) -> None:
    stub = command_pb2_grpc.CommandStub(channel)
    eventually(lambda: known(stub, offered), "the gateway knows where it is offered")
    for wait in WRONG:
        refused(run, channel, wait)


def known(stub: Any, name: str) -> bool:
    try:
        stub.Describe(command_pb2.DescribeCommandRequest(name=name), timeout=SECONDS)
    except grpc.RpcError:
        return False
    return True


def refused(ask: Ask, channel: Any, wait: float) -> None:
    with pytest.raises((grpc.RpcError, Answered)) as caught:
        ask(channel, wait)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("bad-request: ")
    assert "is no number of seconds to wait" in error.details()


@pytest.mark.parametrize("wait", WRONG)
def test_handles_say_so_too(wait: float, cluster: Cluster) -> None:
    with (
        ipcd_client.topic("t", node=cluster.front.socket) as topic,
        topic.subscribe() as messages,
        ipcd_client.signal("s", node=cluster.front.socket) as flag,
        ipcd_client.semaphore("s", 0, node=cluster.front.socket) as semaphore_,
        ipcd_client.value("v", node=cluster.front.socket) as value,
    ):
        taking = partial(semaphore_.acquire, 1), partial(semaphore_.hold, 1)
        for act in (messages.receive, flag.wait, partial(value.wait, None), *taking):
            with pytest.raises(BadRequest, match="is no number of seconds to wait"):
                act(wait)


@pytest.mark.parametrize(
    "begin",
    [
        lambda channel, requests: lock_pb2_grpc.LockStub(channel).Hold(requests, timeout=SECONDS),
        lambda channel, requests: topic_pb2_grpc.TopicStub(channel).Subscribe(requests, timeout=SECONDS),
        lambda channel, requests: pipe_pb2_grpc.PipeStub(channel).Open(requests, timeout=SECONDS),
        lambda channel, requests: pipe_pb2_grpc.PipeStub(channel).Write(requests, timeout=SECONDS),
        lambda channel, requests: semaphore_pb2_grpc.SemaphoreStub(channel).Hold(requests, timeout=SECONDS),
    ],
)
def test_a_call_without_a_request(begin: Callable[[Any, Any], Any], cluster: Cluster) -> None:
    with (
        ipcd_client.channel(target_of("b"), node=cluster.front.socket) as direct,
        pytest.raises(grpc.RpcError) as caught,
    ):
        list(begin(direct, iter(())))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "bad-request: the call has no request"


def test_a_request_that_never_comes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins a call and says nothing more does not keep it open."""
    monkeypatch.setattr(waiting, "FIRST", 0.2)
    said: SimpleQueue[None] = SimpleQueue()
    with (
        ipcd_client.command("mute", node=cluster.front.socket).serve(["cat"]),
        ipcd_client.channel("ipcd:/mute", node=cluster.front.socket) as direct,
    ):
        stub = command_pb2_grpc.CommandStub(direct)
        call = stub.Run(iter(said.get, None), wait_for_ready=True, timeout=SECONDS)
        code, details = call.code(), call.details()
        said.put(None)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "bad-request: no request came within 0.2 s"
