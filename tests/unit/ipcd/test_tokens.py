from __future__ import annotations

import pytest

from ipcd import limits
from ipcd.state.tokens import Tokens


def test_good_once() -> None:
    tokens: Tokens[str] = Tokens(ttl=10)
    tokens.issue(b"1", "one", "node b", now=0)
    tokens.issue(b"2", "two", "node b", now=1)
    assert tokens.redeem(b"1", now=5) == "one"
    assert tokens.redeem(b"1", now=5) is None
    assert tokens.redeem(b"3", now=5) is None
    assert tokens.redeem(b"2", now=5) == "two"
    assert len(tokens) == 0


def test_too_old() -> None:
    tokens: Tokens[str] = Tokens(ttl=10)
    tokens.issue(b"1", "one", "node b", now=0)
    tokens.issue(b"2", "two", "node b", now=5)
    assert tokens.redeem(b"1", now=10) is None
    assert tokens.redeem(b"2", now=14.9) == "two"


def test_nobody_uses_them_all_up() -> None:
    tokens: Tokens[str] = Tokens(ttl=10, limit=3, owner_limit=2)
    tokens.issue(b"1", "one", "node b", now=0)
    tokens.issue(b"2", "two", "node b", now=1)
    with pytest.raises(limits.LimitReached, match="for node b"):
        tokens.issue(b"3", "three", "node b", now=2)
    tokens.issue(b"4", "four", "node c", now=2)
    with pytest.raises(limits.LimitReached, match="limit of 3 introductions"):
        tokens.issue(b"5", "five", "node d", now=2)
    tokens.issue(b"6", "six", "node b", now=10)
    assert tokens.redeem(b"6", now=11) == "six"
