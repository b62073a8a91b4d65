from __future__ import annotations

import pytest

from ipcd import limits
from ipcd.state.reach import AUTO, DIRECT, KEPT, NODE, POLICIES, REVERSE, Reach

WHY = "cannot connect to b:1: no route"


def test_the_caller_dials_until_it_says_that_it_cannot() -> None:
    reach = Reach()
    assert reach.plan("b", False, now=0) == [DIRECT]
    assert reach.why("b", now=0) == ""
    reach.undialed("b", WHY, now=0)
    assert reach.plan("b", False, now=0) == [NODE, REVERSE]
    assert WHY in reach.why("b", now=0)
    assert reach.plan("c", False, now=0) == [DIRECT]


def test_what_worked_comes_first_for_a_while() -> None:
    reach = Reach()
    reach.undialed("b", WHY, now=0)
    reach.worked("b", REVERSE, now=1)
    assert reach.plan("b", False, now=KEPT - 0.1) == [REVERSE, NODE]
    assert WHY in reach.why("b", now=KEPT - 0.1)
    assert reach.plan("b", False, now=KEPT) == [DIRECT]
    # It was kept no longer for having worked.
    reach.worked("b", REVERSE, now=KEPT)
    assert reach.plan("b", False, now=KEPT) == [DIRECT]


def test_who_never_waits_for_long_finds_the_quick_one() -> None:
    for reach in (Reach(), Reach(NODE)):
        if reach.policy == AUTO:
            reach.undialed("b", WHY, now=0)
        reach.unfinished("b", NODE, now=0)
        reach.undialed("b", "again", now=0)
        assert reach.plan("b", False, now=0) == [REVERSE, NODE]
        reach.unfinished("b", REVERSE, now=0)
        assert reach.plan("b", False, now=0) == [NODE, REVERSE]


def test_when_nothing_worked_all_begins_anew() -> None:
    reach = Reach()
    reach.undialed("b", WHY, now=0)
    reach.failed("b")
    assert reach.plan("b", False, now=0) == [DIRECT]
    reach.failed("b")


@pytest.mark.parametrize("here", [False, True])
def test_a_policy_is_kept(here: bool) -> None:
    direct, node = Reach(DIRECT), Reach(NODE)
    for reach in (direct, node):
        reach.undialed("b", WHY, now=0)
    assert direct.plan("b", here, now=0) == [DIRECT]
    assert node.plan("b", here, now=0) == [NODE, REVERSE][: 1 if here else 2]
    assert node.plan("c", here, now=0) == [NODE, REVERSE][: 1 if here else 2]
    assert node.why("b", now=0) == node.why("c", now=0) == "the setting reach is node"


def test_the_policy_node_remembers_what_worked_too() -> None:
    reach = Reach(NODE)
    reach.worked("b", REVERSE, now=0)
    assert reach.plan("b", False, now=1) == [REVERSE, NODE]
    assert reach.plan("b", False, now=KEPT) == [NODE, REVERSE]
    reach.worked("b", REVERSE, now=KEPT)
    reach.failed("b")
    assert reach.plan("b", False, now=KEPT) == [NODE, REVERSE]


def test_nobody_dials_back_from_the_callers_own_node() -> None:
    reach = Reach()
    assert reach.plan("a", True, now=0) == [DIRECT]
    reach.undialed("a", WHY, now=0)
    assert reach.plan("a", True, now=0) == [NODE]


def test_a_caller_cannot_have_more_remembered_than_there_are_nodes() -> None:
    reach = Reach()
    for number in range(limits.NODES + 1):
        reach.undialed(f"n{number}", WHY, now=0)
    assert reach.plan("n0", False, now=0) == [DIRECT]
    for number in (1, limits.NODES):
        assert reach.plan(f"n{number}", False, now=0) == [NODE, REVERSE]


def test_the_default_is_one_of_the_policies() -> None:
    assert Reach().policy == AUTO
    assert AUTO in POLICIES
