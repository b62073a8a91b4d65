"""Credit, against a model that counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame.window import COST, MAX_WINDOW, ReceiveWindow, SendWindow

sizes = st.one_of(st.integers(0, 100), st.integers(0, 1 << 22), st.just((1 << 32) - 1))


class Windows(RuleBasedStateMachine):
    """A sender and a receiver, with messages and credit under way between them."""

    @initialize(initial=st.one_of(st.integers(COST, 300), st.sampled_from([1 << 18, MAX_WINDOW])))
    def begin(self, initial: int) -> None:
        self.initial = initial
        self.sender = SendWindow(initial)
        self.receiver = ReceiveWindow(initial)
        self.messages: list[int] = []  # under way
        self.held: list[int] = []  # received, not taken
        self.credits: list[int] = []  # under way
        self.unsaid = 0  # taken, and no credit given for it yet

    @precondition(lambda self: self.sender.credit > 0)
    @rule(size=sizes)
    def send(self, size: int) -> None:
        self.sender.spend(size)
        self.messages.append(size)

    @precondition(lambda self: self.sender.credit <= 0)
    @rule(size=sizes)
    def send_without_credit(self, size: int) -> None:
        before = self.sender.credit
        with pytest.raises(UsageError):
            self.sender.spend(size)
        assert self.sender.credit == before

    @precondition(lambda self: self.messages)
    @rule()
    def receive(self) -> None:
        size = self.messages.pop(0)
        self.receiver.receive(size)
        self.held.append(size)

    @precondition(lambda self: self.held)
    @rule()
    def take(self) -> None:
        size = self.held.pop(0)
        self.unsaid += size + COST
        credit = self.receiver.consume(size)
        assert credit in {0, self.unsaid}
        if credit:
            self.credits.append(credit)
            self.unsaid = 0

    @precondition(lambda self: self.credits)
    @rule()
    def grant(self) -> None:
        self.sender.grant(self.credits.pop(0))

    @invariant()
    def nothing_is_lost(self) -> None:
        under_way = sum(size + COST for size in self.messages)
        held = sum(size + COST for size in self.held)
        assert self.sender.credit + under_way + held + self.unsaid + sum(self.credits) == self.initial
        assert self.receiver.credit == self.sender.credit + under_way + sum(self.credits)
        assert self.unsaid * 2 < self.initial

    @invariant()
    def a_receiver_holds_at_most_its_window_and_one_message(self) -> None:
        held = sorted(self.held + self.messages)
        assert sum(size + COST for size in held[:-1]) <= self.initial

    @invariant()
    def a_sender_whose_messages_were_all_taken_may_send(self) -> None:
        if not (self.messages or self.held or self.credits):
            assert self.sender.credit > 0


TestWindows = Windows.TestCase


@given(st.integers(COST, MAX_WINDOW), st.integers(0, (1 << 32) - 1))
def test_a_grant_beyond_the_limit(initial: int, credit: int) -> None:
    window = SendWindow(initial)
    if 0 < credit <= MAX_WINDOW - initial:
        window.grant(credit)
        assert window.credit == initial + credit
    else:
        with pytest.raises(ProtocolError) as caught:
            window.grant(credit)
        assert caught.value.violation == "bad-credit"


@given(st.integers(COST, 1000), st.lists(sizes, max_size=30))
def test_a_peer_that_does_not_count(initial: int, claimed: list[int]) -> None:
    window = ReceiveWindow(initial)
    taken = 0
    for size in claimed:
        if taken < initial:
            window.receive(size)
            taken += size + COST
        else:
            with pytest.raises(ProtocolError) as caught:
                window.receive(size)
            assert caught.value.violation == "credit-overrun"
