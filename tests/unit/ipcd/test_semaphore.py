"""The state machine of semaphores, and the circles that are found in it."""

from __future__ import annotations

import pytest
from ipcd_client.primitives.errors import BadRequest, Full, NameTaken, NoSuchName

from ipcd.limits import LimitReached
from ipcd.state.circles import circles
from ipcd.state.semaphore import MOST, Done, Party, Place, Semaphores, Step, Ticket


def who(words: str) -> Party:
    return Party("n", 1, 0, words)


class Node:
    """One with semaphores, and requests by the words of who asks."""

    def __init__(self, **values: int) -> None:
        self.state = Semaphores(token=10, waits=3)
        for name, value in values.items():
            self.state.make(name, value)

    def ask(self, words: str, **steps: int) -> Ticket:
        ticket, _ = self.state.ask([Step(*step) for step in steps.items()], who(words), 0.0)
        return ticket

    def circles(self, most: int = 9) -> list[list[tuple[str, str]]]:
        found = circles(dict(self.state.all()), self.state.waits(), most)
        return [[(ticket.party.words, name) for ticket, name in circle] for circle in found]


def granted(done: list[Done]) -> list[str]:
    return [each.ticket.party.words for each in done if each.error is None]


def test_values() -> None:
    state = Semaphores()
    for value in (-1, MOST + 1):
        with pytest.raises(BadRequest):
            state.make("s", value)
    state.make("s", MOST)
    state.make("s", MOST)
    with pytest.raises(NameTaken, match=f"was made with {MOST}, not 1"):
        state.make("s", 1)
    with pytest.raises(Full):
        state.ask([Step("s", 1)], who("x"), 0.0)
    with pytest.raises(BadRequest):
        state.ask([Step("s", -MOST - 1)], who("x"), 0.0)
    with pytest.raises(NoSuchName):
        state.ask([Step("t", 1)], who("x"), 0.0)


def test_what_is_removed_leaves_the_others_as_they_were() -> None:
    """Whichever of those that had something of it came first."""
    node = Node(a=2, c=3)
    taker = node.ask("taker", a=-3, c=1)
    node.ask("puts in", a=1, c=-3)
    assert taker.token
    done = node.state.remove("c", 0.0)
    assert [each.ticket.party.words for each in done] == ["puts in", "taker"]
    assert {name: thing.value for name, thing in node.state.all()} == {"a": 2}


def test_one_that_would_put_in_too_many_when_its_turn_comes_fails() -> None:
    node = Node(a=0, b=MOST - 1)
    waits = node.ask("waits", a=-1, b=1)
    later = node.ask("later", a=-1)
    node.ask("fills", b=1)
    _, done = node.state.ask([Step("a", 1)], who("puts"), 0.0)
    assert [(each.ticket, type(each.error)) for each in done[1:]] == [(waits, Full), (later, type(None))]


def test_so_many_wait_at_one() -> None:
    node = Node(a=0)
    for _ in range(3):
        node.ask("x", a=-1)
    with pytest.raises(LimitReached, match="the limit of 3 requests that wait at the semaphore a"):
        node.ask("x", a=-1)


def test_waiting_for_none_after_taking_one() -> None:
    """It is looked at when there is just what its steps leave none of."""
    node = Node(a=3)
    state = node.state
    ticket, _ = state.ask([Step("a", -1), Step("a", 0)], who("x"), 0.0)
    assert ticket.place == Place("a", 1, exact=True)
    assert granted(state.ask([Step("a", -1)], who("y"), 0.0)[1]) == ["y"]
    assert granted(state.ask([Step("a", -1)], who("z"), 0.0)[1]) == ["z", "x"]
    assert not list(state.waits())


def test_who_has_to_wait_elsewhere_makes_room() -> None:
    node = Node(a=0, b=0)
    both = node.ask("both", a=-1, b=-1)
    node.ask("a", a=-1)
    _, done = node.state.ask([Step("a", 1)], who("puts"), 0.0)
    assert granted(done) == ["puts", "a"]
    assert both.place == Place("b", 1, exact=False)
    # And has there the place that its coming gives it, and not where it was.
    node.ask("b", b=-1)
    node.ask("puts", a=1)
    _, done = node.state.ask([Step("b", 1)], who("puts"), 0.0)
    assert granted(done) == ["puts", "both"]


def test_a_waiter_that_goes_makes_room() -> None:
    node = Node(a=1)
    much = node.ask("much", a=-2)
    node.ask("little", a=-1)
    assert granted(node.state.end(much, 0.0)) == ["little"]


def test_what_is_undone_stops_at_none() -> None:
    node = Node(a=0)
    puts = node.ask("puts", a=2)
    node.ask("takes", a=-1)
    node.state.end(puts, 0.0)
    assert [thing.value for _, thing in node.state.all()] == [0]


# -- circles --------------------------------------------------------------------------------------


def test_two_in_a_circle() -> None:
    node = Node(a=1, b=1)
    node.ask("x", a=-1)
    node.ask("y", b=-1)
    node.ask("x", b=-1)
    assert node.circles() == []
    node.ask("y", a=-1)
    assert node.circles() == [[("x", "b"), ("y", "a")]]
    assert node.circles(most=0) == []


def test_who_takes_what_it_has_itself() -> None:
    node = Node(a=1)
    node.ask("x", a=-1)
    node.ask("x", a=-1)
    assert node.circles() == [[("x", "a")]]


def test_no_circle_where_another_will_give_some_back() -> None:
    node = Node(a=2, b=1)
    node.ask("x", a=-1)
    node.ask("y", b=-1)
    z = node.ask("z", a=-1)
    node.ask("x", b=-1)
    node.ask("y", a=-1)
    assert node.circles() == []
    # As soon as that waits for the circle too, nobody is left.
    node.ask("z", b=-1)
    (circle,) = node.circles()
    assert {words for words, _ in circle} <= {"x", "y", "z"}
    assert len(circle) == 2
    node.state.end(z, 0.0)
    assert node.circles() == []


def test_who_only_waits_behind_a_circle_is_in_none() -> None:
    node = Node(a=1, b=1, c=0)
    node.ask("x", a=-1)
    node.ask("y", b=-1)
    node.ask("x", b=-1)
    node.ask("y", a=-1)
    node.ask("z", a=-1)
    node.ask("signal", c=-1)
    assert node.circles() == [[("x", "b"), ("y", "a")]]


def test_circles_apart() -> None:
    node = Node(a=1, b=1, c=1, d=0)
    for words, first, second in (("x", "a", "b"), ("y", "b", "a")):
        node.ask(words, **{first: -1})
        node.ask(words + "'", **{second: 0})
    node.ask("x", b=-1)
    node.ask("y", a=-1)
    # Who put one in is in the way of who waits until there are none.
    node.ask("v", d=1)
    node.ask("w", c=-1)
    node.ask("v", c=-1)
    node.ask("w", d=0)
    assert sorted(map(sorted, node.circles())) == [[("v", "c"), ("w", "d")], [("x", "b"), ("y", "a")]]


def test_who_does_not_say_who_it_is_is_left_out() -> None:
    node = Node(a=1)
    node.ask("", a=-1)
    node.ask("", a=-1)
    assert node.circles() == []


def test_what_stays_is_held_by_nobody() -> None:
    node = Node(a=1)
    node.state.commit(node.ask("x", a=-1))
    node.ask("x", a=-1)
    assert node.circles() == []


def test_what_was_removed_before_it_could_stay_was_not_done() -> None:
    """Between the grant and the word of it."""
    node = Node(a=0, b=0)
    ticket = node.ask("x", b=1, a=-1)
    (done, _) = node.state.ask([Step("a", 1)], who("y"), 1.0)
    node.state.commit(done)
    assert ticket.token
    node.state.remove("a", 2.0)
    with pytest.raises(NoSuchName, match="a has been removed"):
        node.state.commit(ticket)
    thing = node.state.get("b")
    assert thing is not None
    assert thing.value == 0
