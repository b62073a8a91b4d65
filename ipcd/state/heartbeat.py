"""When the node at the other end of a silent link is suspected, and when it is given up. Pure: time is an argument.

Both bounds follow the link's round trips, as TCP's timeout does (RFC 6298), within limits that hold for every link: a
node that is cut off is gone within `DEAD_MOST`, and no node is given up before it has been silent for `DEAD`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Seconds. Between two pings while all is well.
EVERY: Final = 0.75
# While an answer is late. What is sent behind a lost segment lets TCP see the loss within a round trip (RFC 8985);
# without it there is only its timeout, which doubles with each loss.
HURRY: Final = 0.15
# Of silence, on a link without delay, and on any.
SUSPECT: Final = 1.0
SUSPECT_MOST: Final = 1.6
DEAD: Final = 2.0
DEAD_MOST: Final = 2.7

# RFC 6298, 2.3: the weights of a new sample, and how many deviations are waited for.
_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_DEVIATIONS: Final = 4


@dataclass(slots=True)
class Heartbeat:
    """What one link's round trips tell. Seconds."""

    rtt: float = 0.0  # smoothed; 0 while there is none
    deviation: float = 0.0

    def answered(self, rtt: float) -> None:
        """A ping was answered after that long."""
        if not self.rtt:
            self.rtt, self.deviation = rtt, rtt / 2
        else:
            self.deviation += _BETA * (abs(rtt - self.rtt) - self.deviation)
            self.rtt += _ALPHA * (rtt - self.rtt)

    @property
    def patience(self) -> float:
        """How late an answer may be and nothing is wrong."""
        # Before the first answer nothing is known, so every limit is at its most.
        return self.rtt + _DEVIATIONS * self.deviation if self.rtt else DEAD_MOST

    @property
    def suspect_after(self) -> float:
        """The silence from which on the node is suspected."""
        return min(SUSPECT + self.patience, SUSPECT_MOST)

    @property
    def dead_after(self) -> float:
        """The silence from which on it is given up."""
        return min(DEAD + self.patience, DEAD_MOST)

    def ping_due(self, silence: float, since: float) -> bool:
        """Whether to ping. `since`: the last ping."""
        return since >= self._every(silence)

    def pause(self, silence: float, since: float) -> float:
        """How long nothing is to be done, if nothing is heard."""
        bounds = (self._late_after(), self.suspect_after, self.dead_after)
        crossings = [bound - silence for bound in bounds if bound > silence]
        return max(0.0, min([self._every(silence) - since, *crossings]))

    def _every(self, silence: float) -> float:
        return EVERY if silence < self._late_after() else HURRY

    def _late_after(self) -> float:
        return min(EVERY + max(self.patience, HURRY), SUSPECT_MOST)
