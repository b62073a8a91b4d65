"""What a client process does with its client; here one that answers by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.callers import SyncCaller
from benchmarks.peers.base import DOWN, Place, Taken, WrongAnswerError

PLACE = Place(socket="unix", name="fake", directory="/nowhere")


class FakeClient:
    """Gives back what `answers` makes of a request; a streamed message takes it `message_seconds`."""

    def __init__(self, answers: Callable[[bytes], bytes] = bytes, message_seconds: float = 0.0) -> None:
        self.taken = Taken("unix", "made up")
        self.streamed: list[int] = []
        self._answers = answers
        self._message_seconds = message_seconds

    def request(self, payload: bytes) -> bytes:
        return payload

    def call(self, request: bytes) -> bytes:
        return self._answers(request)

    def payload(self, answer: bytes) -> bytes:
        return answer

    def sustain(self, *_: Any) -> None:
        raise NotImplementedError

    def stream(self, _direction: str, count: int, _payload: bytes) -> None:
        self.streamed.append(count)
        time.sleep(count * self._message_seconds)

    def close(self) -> None:
        pass


def caller(client: FakeClient) -> SyncCaller:
    return SyncCaller(client, lambda _place: client, PLACE, os.getpid())


def test_turns_that_are_kept_are_summed_up_once() -> None:
    one = caller(FakeClient())
    calls = [one.latency(64, 0.001, keep)["calls"] for keep in (False, True, True)]
    assert one.summary(64)["calls"] == calls[1] + calls[2]
    with pytest.raises(KeyError):
        one.summary(64)


def test_a_turn_has_a_call_however_short_it_is() -> None:
    assert caller(FakeClient()).latency(64, 1e-9, True)["calls"] == 1


def second(answer: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The first call is answered right."""
    calls = 0

    def made(request: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return request if calls == 1 else answer(request)

    return made


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (lambda request: bytes(len(request)), "an echo came back altered"),
        (second(lambda request: request[1:]), "64 bytes were sent, 63 came back"),
    ],
)
def test_a_wrong_answer_has_no_figure(answers: Callable[[bytes], bytes], told: str) -> None:
    with pytest.raises(WrongAnswerError, match=told):
        caller(FakeClient(answers)).latency(64, 0.01, True)


def test_a_stream_is_as_long_as_its_rate_makes_it() -> None:
    client = FakeClient(message_seconds=0.001)
    one = caller(client)
    told = one.stream(DOWN, 64, 0.1)
    # The first is thrown away, and 20 ms are long enough. A sleep is never shorter than it was told, but may be longer.
    assert client.streamed == [1, 20]
    assert told["messages"] == 20
    assert told["seconds"] >= 0.02
    one.stream(DOWN, 64, 0.1)
    assert 1 <= client.streamed[2] <= 100


def test_a_short_stream_is_made_longer() -> None:
    client = FakeClient(message_seconds=0.0001)
    caller(client).stream(DOWN, 64, 0.1)
    assert client.streamed[:2] == [1, 20]
    assert client.streamed[2:] in ([], [200])


def test_channels_are_gathered_and_called_again() -> None:
    one = caller(FakeClient())
    assert one.gather(3) == {"served": 3}
    assert one.gather(2) == {"served": 2}
    assert one.again() == {"served": 5}
    assert len(one.first(4)["us"]) == 4
