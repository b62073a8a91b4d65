"""How far another node's clock is from ours, from requests and replies over the link (as RFC 5905, sections 8 and 10).
Pure. It is for people who compare logs: nothing that a node does depends on it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from ipcd_client.pb.ipcd.v1 import peer_pb2

# The reply that came back fastest is the one that knows best; older ones say little of a clock that is being set.
SAMPLES: Final = 8
# Seconds. By which two clocks may disagree over how long a reply took to make, without either having been set.
_DRIFT: Final = 0.001
# Since the epoch: a clock that says anything beyond is no clock. 9999-12-31.
_LAST: Final = 253_402_300_800.0


class ClockOffset:
    """Of one link. Seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    def sample(self, sent: float, received: float, replied: float, elapsed: float) -> None:
        """A reply has come. `sent`: by our wall clock; `received`, `replied`: when the request came and the reply
        went, by the other's; `elapsed`: from sending to now, by a clock that nobody sets."""
        delay = elapsed - (replied - received)
        # Also where one is not a number.
        if not (0.0 <= received <= replied <= _LAST and -_DRIFT <= delay <= elapsed and math.isfinite(elapsed)):
            return  # a clock was set meanwhile, or the other end says what cannot be
        self._samples.append((max(0.0, delay), ((received - sent) + (replied - sent - elapsed)) / 2))

    @property
    def best(self) -> tuple[float, float] | None:
        """By how much the other's clock is ahead of ours, and how wrong that may be; None while unknown."""
        if not self._samples:
            return None
        delay, offset = min(self._samples)
        return offset, delay / 2


class ClockTalk:
    """Requests and replies over one link, both ways. `wall` is seconds since the epoch, `now` those of a clock that
    nobody sets."""

    def __init__(self) -> None:
        self.offset = ClockOffset()
        self.asked = 0  # requests so far
        self._to_ask = False
        self._to_answer: tuple[int, float] | None = None
        self._sent: tuple[float, float] | None = None

    def ask(self) -> None:
        """Wants to know the time there. A request that was not answered yet is given up."""
        self.asked += 1
        self._to_ask = True
        self._sent = None

    def next(self, wall: float, now: float) -> peer_pb2.LinkMessage | None:
        """What to send now."""
        if self._to_answer is not None:
            (number, received), self._to_answer = self._to_answer, None
            reply = peer_pb2.ClockReply(number=number, received=received, replied=max(wall, received))
            return peer_pb2.LinkMessage(clock_reply=reply)
        if self._to_ask:
            self._to_ask = False
            self._sent = (wall, now)
            return peer_pb2.LinkMessage(clock_request=peer_pb2.ClockRequest(number=self.asked))
        return None

    def hear(self, message: peer_pb2.LinkMessage, wall: float, now: float) -> bool:
        """A message has come. False if it is about something else."""
        if message.HasField("clock_request"):
            self._to_answer = (message.clock_request.number, wall)
        elif message.HasField("clock_reply"):
            reply = message.clock_reply
            if self._sent is not None and reply.number == self.asked:
                sent, then = self._sent
                self._sent = None
                self.offset.sample(sent, reply.received, reply.replied, now - then)
        else:
            return False
        return True
