"""For programs whose wall clock is to be stepped: with this folder on PYTHONPATH, and a file in FAULTS_CLOCK that has a
number of seconds in it, `time.time` and `time.time_ns` are that much ahead of the machine's clock.

The clock of the machine is everybody's, and cannot be set for some processes alone. What reads it in C is not fooled.
"""

from __future__ import annotations

import os
import time

if "FAULTS_CLOCK" in os.environ:
    _fd = os.open(os.environ["FAULTS_CLOCK"], os.O_RDONLY | os.O_CLOEXEC)
    _time, _time_ns = time.time, time.time_ns

    def _ahead() -> int:
        return int(os.pread(_fd, 40, 0) or b"0")

    time.time = lambda: _time() + _ahead()
    time.time_ns = lambda: _time_ns() + _ahead() * 1_000_000_000
