"""Waiting for what happens by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Seconds: far more than anything here takes on a machine that does something else as well.
LONG: Final = 30.0


def eventually(condition: Callable[[], object], timeout: float = LONG, *, what: object = None) -> None:
    """Until `condition()` is true. What is asserted in it may fail until then. `what`: told, called if it can be, when
    that is not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        late = time.monotonic() > end
        try:
            if condition():
                return
        except AssertionError:
            if late:
                raise
        if late:
            state = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:g} s{f': {state}' if state is not None else ''}")
        time.sleep(0.05)
