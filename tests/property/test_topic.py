"""A node's topics beside a plain model: who gets what, what is dropped, who is waited for, who of a group has it."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives import subjects

from ipcd.state import quota
from ipcd.state.outlet import Outlet, Want
from ipcd.state.subscription import Pending, Subscription
from ipcd.state.topic import Board
from ipcd.state.trie import Trie

TOKENS = ("a", "b", "c")
OWNER = quota.local(1, 2)
BLOCK, OLDEST, NEWEST, LATEST = range(4)

subject = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(".".join)
pattern = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(st.sampled_from((*TOKENS, "*")), min_size=1, max_size=3),
    st.sampled_from(([], [">"])),
) | st.just(">")


def fits(wanted: str, name: str) -> bool:
    """What matching is, in other words."""
    text = re.escape(wanted).replace(r"\*", "[^.]+").replace(">", ".+")
    return re.fullmatch(text, name) is not None


@given(st.lists(st.tuples(pattern, st.integers(0, 3), st.booleans()), max_size=30), st.lists(subject, max_size=10))
def test_the_trie_finds_what_fits(steps: list[tuple[str, int, bool]], names: list[str]) -> None:
    trie: Trie[tuple[str, int]] = Trie()
    model: set[tuple[str, int]] = set()
    for wanted, number, add in steps:
        item = (wanted, number)
        if add:
            trie.add(wanted, item)
            model.add(item)
        elif item in model:
            trie.remove(wanted, item)
            model.remove(item)
    for name in names:
        found = list(trie.match(name))
        assert len(found) == len(set(found))
        assert set(found) == {item for item in model if fits(item[0], name)}
        assert all(subjects.matches(wanted, name) == fits(wanted, name) for wanted, *_ in steps)
    for wanted, number in model:
        trie.remove(wanted, (wanted, number))
    assert trie.empty


@dataclass
class Model:
    """One subscriber. `events`: numbers of messages, and None for each that is missed, in their order."""

    pattern: str
    policy: int
    most: int
    group: str
    events: list[tuple[str, int] | None] = field(default_factory=list)
    blocked: deque[Publication] = field(default_factory=deque)

    @property
    def waiting(self) -> list[tuple[str, int]]:
        return [event for event in self.events if event is not None]

    def put(self, message: tuple[str, int]) -> None:
        if self.policy == LATEST:
            for index, event in enumerate(self.events):
                if event is not None and event[0] == message[0]:
                    # It is missed just before the one that takes its place, with what was missed before it.
                    before = index
                    while before and self.events[before - 1] is None:
                        before -= 1
                    missed = self.events[before : index + 1]
                    del self.events[before : index + 1]
                    self.events += [None] * len(missed)
                    break
        if len(self.waiting) >= self.most:
            if self.policy == NEWEST:
                self.events.append(None)
                return
            index = next(index for index, event in enumerate(self.events) if event is not None)
            self.events[index] = None
        self.events.append(message)

    def take(self) -> tuple[tuple[str, int] | None, int] | None:
        missed = 0
        while self.events:
            event = self.events.pop(0)
            if event is not None:
                return event, missed
            missed += 1
        return (None, missed) if missed else None


@dataclass(eq=False)
class Publication:
    """A message that waits for some."""

    message: tuple[str, int]
    left: set[int] = field(default_factory=set)
    full: int = 0


class Topics(RuleBasedStateMachine):
    """Verbs at both."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board("a")
        self.number = 0
        self.subscribers: list[tuple[Subscription, Model]] = []
        self.pending: list[tuple[Pending, Publication]] = []

    @rule(
        wanted=pattern,
        policy=st.integers(0, 3),
        most=st.integers(1, 3),
        group=st.sampled_from(("", "", "g")),
    )
    def subscribe(self, wanted: str, policy: Any, most: int, group: str) -> None:
        request = topic_pb2.TopicSubscribeRequest(name=wanted, policy=policy, most=most, group=group)
        self.subscribers.append((self.board.subscribe(request, OWNER, ("me",)), Model(wanted, policy, most, group)))

    @precondition(lambda self: self.subscribers)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.subscribers) - 1))
        subscription, model = self.subscribers.pop(index)
        self.board.unsubscribe(subscription)
        for publication in model.blocked:
            publication.left.discard(id(model))

    @rule(name=subject, wait=st.booleans())
    def publish(self, name: str, wait: bool) -> None:
        self.number += 1
        before = {
            id(model): (one.delivered, one.waiting, one.dropped, len(one.blocked)) for one, model in self.subscribers
        }
        request = topic_pb2.TopicPublishRequest(name=name, data=b"%d" % self.number)
        pending = self.board.publish(request, OWNER, 0.0, wait=wait)
        message = (name, self.number)
        publication = Publication(message)
        groups: dict[str, list[Model]] = {}
        for subscription, model in self.subscribers:
            if not fits(model.pattern, name):
                continue
            if model.group:
                # Whom the board has chosen; that it is exactly one is checked below.
                now = (subscription.delivered, subscription.waiting, subscription.dropped, len(subscription.blocked))
                chosen = groups.setdefault(model.pattern, [])
                if now == before[id(model)]:
                    continue
                chosen.append(model)
            self._offer(model, publication, wait)
        for wanted, chosen in groups.items():
            members = [model for _, model in self.subscribers if model.group and model.pattern == wanted]
            assert len(chosen) == 1, (wanted, len(members))
        assert pending.full == publication.full
        assert len(pending.left) == len(publication.left)
        if pending.left:
            self.pending.append((pending, publication))

    def _offer(self, model: Model, publication: Publication, wait: bool) -> None:
        has_room = len(model.waiting) < model.most and not model.blocked
        if model.policy != BLOCK or has_room:
            model.put(publication.message)
        elif wait:
            model.blocked.append(publication)
            publication.left.add(id(model))
        else:
            model.events.append(None)
            publication.full += 1

    @precondition(lambda self: self.subscribers)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        subscription, model = data.draw(st.sampled_from(self.subscribers))
        taken = self.board.take(subscription)
        expected = model.take()
        while model.blocked and len(model.waiting) < model.most:
            publication = model.blocked.popleft()
            model.put(publication.message)
            publication.left.discard(id(model))
        if expected is None:
            assert taken is None
            return
        assert taken is not None
        message, missed, gap = taken
        assert (None if message is None else (message.subject, int(message.data)), missed) == expected
        assert not gap

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.pending) - 1))
        pending, publication = self.pending.pop(index)
        self.board.give_up(pending)
        for _, model in self.subscribers:
            if publication in model.blocked:
                model.blocked.remove(publication)
                model.events.append(None)
        assert not pending.left

    @invariant()
    def they_agree(self) -> None:
        self.board.check()
        for subscription, model in self.subscribers:
            assert [(one.subject, int(one.data)) for one in subscription.messages()] == model.waiting
            assert len(model.waiting) <= model.most
            assert len(subscription.blocked) == len(model.blocked)
        for pending, publication in self.pending:
            assert len(pending.left) == len(publication.left)

    def teardown(self) -> None:
        for subscription, _ in self.subscribers:
            self.board.unsubscribe(subscription)
        assert self.board.held == 0
        assert not self.board.interests


TestTopics = Topics.TestCase


@given(
    st.lists(st.tuples(st.sampled_from(("publish", "take", "cut", "back")), st.integers(0, 2)), max_size=60),
    st.integers(1, 4),
)
def test_of_what_another_node_wants_each_is_sent_or_counted(steps: list[tuple[str, int]], most: int) -> None:
    board = Board("a")
    outlet = Outlet(most=most)
    board.want(outlet, [Want(1, "a.*", "", 1, False, outlet), Want(2, ">", "", 1, False, outlet)])
    sent: list[int] = []
    received: list[int] = []
    published = 0
    for step, come in steps:
        if step == "publish":
            published += 1
            board.publish(topic_pb2.TopicPublishRequest(name="a.b", data=b"%d" % published), OWNER, 0.0)
        elif step == "take" and not outlet.is_away:
            parcel = board.next(outlet)
            if parcel is not None:
                assert sorted(parcel.plain) == [1, 2]
                sent.append(int(parcel.message.data))
                if len(sent) - len(received) <= come:
                    received += sent[len(received) :]
        elif step == "cut":
            board.away(outlet)
        elif step == "back" and outlet.is_away:
            outlet.back(len(received))
            del sent[len(received) :]
    board.away(outlet)
    outlet.back(len(received))
    missed = outlet.take_missed()
    assert received == sorted(received)
    assert len(received) + missed.get(1, 0) == len(received) + missed.get(2, 0) == published
    board.forget(outlet)
    assert board.held == 0
