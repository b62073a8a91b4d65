"""The attempts of a call: how many, when, and which failures count."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.rpc import retry
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.metadata import Metadatum
from ipcd_client.rpc.retry import PREVIOUS, PUSHBACK, Kept, Restarts, Retries, Throttle
from ipcd_client.rpc.service_config import RetryPolicy, Throttling

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
MIDDLE = 0.5  # of the jitter: none
POLICY = RetryPolicy(5, 0.1, 0.35, 2.0, frozenset({UNAVAILABLE, grpc.StatusCode.CANCELLED}))


def ended(code: grpc.StatusCode = UNAVAILABLE, pushback: str | None = None) -> ClientCall:
    call = ClientCall("/s/m", -1)
    call.code = code
    if pushback is not None:
        call.trailing_metadata = (Metadatum("other", "1"), Metadatum(PUSHBACK, pushback))
    return call


def retries(policy: RetryPolicy = POLICY, throttle: Throttle | None = None, buffer: int = 1000) -> Retries:
    return Retries(policy, throttle, buffer)


def test_pauses_grow_up_to_the_longest() -> None:
    tries = retries()
    pauses = [tries.after(ended(), MIDDLE) for _ in range(5)]
    assert pauses == [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.35), pytest.approx(0.35), None]
    assert tries.previous == 5


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_is_a_fifth_either_way(chance: float) -> None:
    pause = retries().after(ended(), chance)
    assert pause is not None
    assert 0.08 - 1e-9 <= pause < 0.12 + 1e-9


def test_the_first_pause_is_bounded_too() -> None:
    assert retries(RetryPolicy(2, 3.0, 1.0, 2.0, POLICY.codes)).after(ended(), MIDDLE) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("pushback", "pause"),
    [("0", 0.0), ("1500", 1.5), (" 20", 0.02), *((said, None) for said in ("-1", "soon", "1.5", "", "9" * 30))],
)
def test_the_server_says_when(pushback: str, pause: float | None) -> None:
    tries = retries()
    tries.after(ended(), MIDDLE)
    assert tries.after(ended(pushback=pushback), MIDDLE) == pause
    if pause is not None:
        assert tries.after(ended(), MIDDLE) == pytest.approx(0.1), "it begins anew"


def test_the_last_of_several_holds() -> None:
    call = ended()
    call.trailing_metadata = (Metadatum(PUSHBACK, "1"), Metadatum(PUSHBACK, "2"))
    assert retry.pushed_back(call.trailing_metadata) == 2


def test_what_is_not_tried_again() -> None:
    responded = ended()
    responded.responded = True
    cancelled_here = ended(grpc.StatusCode.CANCELLED)
    cancelled_here.cut = True
    for call in (ended(grpc.StatusCode.OK), ended(grpc.StatusCode.INTERNAL), responded, cancelled_here):
        assert retries().after(call, MIDDLE) is None
    assert retries().after(ended(grpc.StatusCode.CANCELLED), MIDDLE) is not None, "by the server"


def test_a_call_that_does_not_fit_is_not_tried_again() -> None:
    tries = retries(buffer=1000)
    assert tries.holds(1000)
    assert not tries.holds(1001)
    assert tries.after(ended(), MIDDLE) is None
    assert retry.cost("/s/m", [("k", "value")]) > len("/s/m") + len("kvalue")


def test_the_server_is_told_of_attempts() -> None:
    tries = retries()
    told = []
    for _ in range(3):
        told.append(dict(tries.metadata((("k", "v"),))).get(PREVIOUS))
        tries.after(ended(), MIDDLE)
    assert told == [None, "1", "2"]
    assert retry.without_previous(((PREVIOUS, "7"), ("k", "v"))) == (("k", "v"),)


def refused() -> ClientCall:
    call = ended()
    call.refused = True
    return call


def test_what_no_handler_has_seen_is_started_again_without_a_policy() -> None:
    starts = Restarts(3)
    assert [starts.after(refused(), MIDDLE, replayable=True) for _ in range(3)] == [0.0, 0.0, None]
    assert Restarts(3).after(refused(), MIDDLE, replayable=False) is None
    assert Restarts(3).after(ended(), MIDDLE, replayable=True) is None
    full = refused()
    full.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert Restarts(3).after(full, MIDDLE, replayable=True) is None
    assert starts.metadata((("k", "v"),)) == (("k", "v"),)


def test_a_refused_start_is_no_attempt() -> None:
    starts = Restarts(2, retries())
    assert starts.after(refused(), MIDDLE, replayable=True) == 0.0
    assert starts.metadata(()) == ()
    assert starts.after(refused(), MIDDLE, replayable=True) == pytest.approx(0.1), "the policy's"
    assert starts.metadata(()) == ((PREVIOUS, "1"),)
    assert starts.after(ended(), MIDDLE, replayable=False) is None
    assert starts.after(ended(), MIDDLE, replayable=True) is None, "it was over"


def test_an_end_counts_once() -> None:
    throttle = Throttle(Throttling(8000, 500))
    starts = Restarts(3, retries(RetryPolicy(2, 0.1, 0.1, 1.0, POLICY.codes), throttle))
    pauses = [starts.after(ended(), MIDDLE, replayable=True) for _ in range(4)]
    assert pauses == [pytest.approx(0.1), None, None, None]
    assert throttle.failed(), "more than half of the tokens are left"


def test_what_is_kept_of_a_stream() -> None:
    call, kept = ClientCall("/s/m", -1), Kept(10)
    for request in (b"12345", b"67890"):
        kept.add(request, call)
    assert (kept.requests, kept.replayable) == ([b"12345", b"67890"], True)
    kept.add(b"1", call)
    kept.add(b"", call)
    assert (kept.requests, kept.replayable) == ([], False)


def test_nothing_is_kept_of_a_call_that_was_answered() -> None:
    call, kept = ClientCall("/s/m", -1), Kept(10)
    kept.add(b"1", call)
    call.initial_metadata = ()
    kept.add(b"2", call)
    assert (kept.requests, kept.replayable) == ([], False)


def test_throttling() -> None:
    throttle = Throttle(Throttling(4000, 500))

    def tried_again() -> bool:
        return retries(throttle=throttle).after(ended(), MIDDLE) is not None

    assert [tried_again() for _ in range(3)] == [True, False, False]  # 3, 2 and 1 tokens
    for _ in range(4):
        retries(throttle=throttle).after(ended(grpc.StatusCode.OK), MIDDLE)
    assert not tried_again()  # 2
    for _ in range(100):
        retries(throttle=throttle).after(ended(grpc.StatusCode.OK), MIDDLE)
        retries(throttle=throttle).after(ended(grpc.StatusCode.INTERNAL), MIDDLE)
    assert [tried_again() for _ in range(2)] == [True, False], "no more than all, and what is not listed takes none"


def test_failures_count_of_calls_that_cannot_be_tried_again() -> None:
    throttle = Throttle(Throttling(4000, 500))
    tries = retries(throttle=throttle, buffer=0)
    assert not tries.holds(1)
    tries.after(ended(), MIDDLE)
    assert retries(throttle=throttle).after(ended(), MIDDLE) is None
