"""Descriptors that are owned by objects."""

from __future__ import annotations

import os

import pytest
from ipcd_client.wire.fds import Fd, close_all


def null() -> Fd:
    return Fd(os.open(os.devnull, os.O_RDONLY))


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_it_is_closed_once() -> None:
    fd = null()
    number = fd.fileno()
    fd.close()
    assert not is_open(number)
    again = null()
    fd.close()
    assert is_open(again.fileno())
    again.close()
    with pytest.raises(ValueError, match="closed or passed on"):
        fd.fileno()


def test_a_context_closes_it() -> None:
    with null() as fd:
        number = fd.fileno()
    assert not is_open(number)


def test_dropping_closes_it() -> None:
    fd = null()
    number = fd.fileno()
    del fd
    assert not is_open(number)


def test_detaching_passes_the_ownership_on() -> None:
    fd = null()
    number = fd.detach()
    fd.close()
    del fd
    assert is_open(number)
    os.close(number)


def test_close_all() -> None:
    fds = [null(), null()]
    numbers = [fd.fileno() for fd in fds]
    fds[0].close()
    close_all(fds)
    assert not any(map(is_open, numbers))
    assert repr(fds) == "[Fd(-1), Fd(-1)]"
