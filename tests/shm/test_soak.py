"""Millions of messages, with no timeout that could rescue a lost wake-up. IPCD_SOAK=1, or `tox run -e soak`: ten
million instead of a few hundred thousand."""

from __future__ import annotations

import os
import time

import pytest
from ipcd_client.testing.shm_soak import both

SOAK = bool(os.environ.get("IPCD_SOAK"))
MESSAGES = 5_000_000 if SOAK else 500_000  # each way
LIMIT = 1800.0 if SOAK else 50.0  # seconds, which are not needed


@pytest.mark.timeout(LIMIT + 10)
def test_no_wake_up_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """All come, once, in order and unchanged, both ways; both ends have waited often, for either reason."""
    begin = time.monotonic()
    one, other = both(MESSAGES, LIMIT)
    seconds = time.monotonic() - begin
    with capsys.disabled():
        if SOAK:
            print(f"\n{2 * MESSAGES} messages in {seconds:.0f} s\n{one}\n{other}")
    for sender, receiver in ((one, other), (other, one)):
        assert sender.sent == receiver.received == MESSAGES
        assert sender.sent_sum == receiver.received_sum
        assert sender.waits > MESSAGES // 10_000
        assert sender.waits > sender.full > 0
