"""How much the calls of the gateway may hold. Pure."""

from __future__ import annotations

from ipcd.state.quota import Owner, Shares, host


class Budget:
    """The part that one caller's calls have of what all may hold together."""

    def __init__(self, shares: Shares, owner: Owner) -> None:
        self._shares = shares
        self._owner = owner

    def take(self, amount: int) -> None:
        """Holds so much more.

        Raises:
            LimitReached: it would be too much; nothing was taken.
        """
        self._shares.take(self._owner, amount)

    def give(self, amount: int) -> None:
        """Gives so much back."""
        self._shares.give(self._owner, amount)


def owner_of(peer: str) -> Owner:
    """Whose a call is that comes from `peer`, as gRPC writes it: "ipv4:127.0.0.1:5000". What comes over the socket file
    is the daemon's own user's, and has no bound but that of all."""
    family, _, address = peer.partition(":")
    return () if family == "unix" else host(address.rpartition(":")[0])
