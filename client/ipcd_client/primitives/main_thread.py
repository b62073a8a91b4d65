"""Runs functions on the main thread, wherever that is just now: between two of its bytecodes, as handlers of signals
run, also while it waits in a system call.

It is a signal that does so, SIGURG, which this process sends to its main thread. It is ignored where nobody handles it,
and next to nobody does: only sockets with an owner (fcntl F_SETOWN) and out-of-band data ever cause one. Whatever
handler there was is called as well.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from ipcd_client.errors import UsageError

SIGNAL: Final = signal.SIGURG
_due: collections.deque[Callable[[], None]] = collections.deque()
_before: Any = None
_installed = False


def install() -> None:
    """To be called on the main thread, before the first `call`.

    Raises:
        UsageError: this is another thread.
    """
    global _before, _installed
    if _installed and signal.getsignal(SIGNAL) is _on_signal:
        return
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("handlers run on the main thread, which alone can say so (as of signal.signal): listen there")
    _before = signal.signal(SIGNAL, _on_signal)
    _installed = True


def call(function: Callable[[], None]) -> None:
    """Soon. From any thread. An exception of the function is raised in whatever the main thread does."""
    _due.append(function)
    with contextlib.suppress(OSError):  # it has ended
        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)


def _on_signal(number: int, frame: Any) -> None:
    try:
        while _due:
            _due.popleft()()
    finally:
        if _due:
            # One has raised: the others have their turn.
            signal.pthread_kill(threading.get_ident(), SIGNAL)
        if callable(_before):
            _before(number, frame)


os.register_at_fork(after_in_child=_due.clear)
