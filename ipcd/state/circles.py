"""Circles of those who wait for one another at semaphores. Pure.

What is reported is what cannot end by itself: first all who do not wait are taken to give back what they hold, then all
whose requests go with that, and so on. Of those who are left, each that holds something for which another waits is in
somebody's way; a circle is a way that leads back to its beginning. Somebody may still put something in from outside,
as everybody may: it is a report, and nothing is ended for it.

Who has not said which of its threads or tasks it is, is left out: a process one of whose threads waits for another is
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ipcd.state.semaphore import Party, Thing, Ticket

# Times that all who wait are gone through. A chain of more who free one another may be shown as if it were stuck.
_ROUNDS: Final = 64

# A semaphore, and whether it is about its being taken (or its having something put in).
_At = tuple[str, bool]
# One step: who waits, and for which semaphore.
Wait = tuple[Ticket, str]


def circles(things: Mapping[str, Thing], waiting: Iterable[Ticket], most: int) -> list[list[Wait]]:
    """Up to `most`, of which none has a party in common with another."""
    stuck = _stuck(things, [ticket for ticket in waiting if ticket.party.words])
    # From who waits to the semaphores that it needs, and from these to who has of them.
    needs = {party: _needs(things, tickets) for party, tickets in stuck.items()}
    has: dict[_At, dict[Party, None]] = {at: {} for each in needs.values() for at in each}
    for (name, taken), parties in has.items():
        for holder in things[name].holders.values():
            if holder.party in stuck and (holder.taken[name] > 0) is taken:
                parties[holder.party] = None
    found: list[list[Wait]] = []
    while len(found) < most:
        _trim(needs, has)
        if not needs:
            break
        circle = _walk(needs, has)
        found.append([(_asks(stuck[party], name), name) for party, name in circle])
        for party, _ in circle:
            del needs[party]
    return found


def _stuck(things: Mapping[str, Thing], waiting: list[Ticket]) -> dict[Party, list[Ticket]]:
    """Who goes on neither by itself nor by what others give back who do."""
    stuck: dict[Party, list[Ticket]] = {}
    for ticket in waiting:
        stuck.setdefault(ticket.party, []).append(ticket)
    values = {name: thing.value for name, thing in things.items()}
    held: dict[Party, dict[str, int]] = {}
    for name, thing in things.items():
        for ticket in thing.holders.values():
            if ticket.party in stuck:
                of_party = held.setdefault(ticket.party, {})
                of_party[name] = of_party.get(name, 0) + ticket.taken[name]
            else:
                values[name] += ticket.taken[name]
    for _ in range(_ROUNDS):
        going = [party for party, tickets in stuck.items() if all(_goes(values, ticket) for ticket in tickets)]
        for party in going:
            del stuck[party]
            for name, count in held.get(party, {}).items():
                values[name] += count
        if not going:
            break
    return stuck


def _goes(values: Mapping[str, int], ticket: Ticket) -> bool:
    left: dict[str, int] = {}
    for name, delta in ticket.steps:
        value = left.get(name, values[name])
        if value + delta < 0 or (not delta and value > 0):
            return False
        left[name] = value + delta
    return True


def _needs(things: Mapping[str, Thing], tickets: list[Ticket]) -> dict[_At, None]:
    needs: dict[_At, None] = {}
    for ticket in tickets:
        for name, delta in ticket.steps:
            if (delta < 0 and things[name].value < -delta) or (not delta and things[name].value):
                needs[name, delta < 0] = None
    return needs


def _trim(needs: dict[Party, dict[_At, None]], has: dict[_At, dict[Party, None]]) -> None:
    """Takes out who waits for nobody, until each that is left leads into a circle."""
    while True:
        for parties in has.values():
            for gone in [party for party in parties if party not in needs]:
                del parties[gone]
        idle = [party for party, ats in needs.items() if not any(has[at] for at in ats)]
        if not idle:
            return
        for party in idle:
            del needs[party]


def _walk(
    needs: Mapping[Party, Mapping[_At, None]], has: Mapping[_At, Mapping[Party, None]]
) -> list[tuple[Party, str]]:
    """From one to the next, until one comes again."""
    way: dict[Party, str] = {}
    party = next(iter(needs))
    while party not in way:
        at = next(at for at in needs[party] if has[at])
        way[party] = at[0]
        party = next(iter(has[at]))
    steps = list(way.items())
    return steps[list(way).index(party) :]


def _asks(tickets: list[Ticket], name: str) -> Ticket:
    return next(ticket for ticket in tickets if any(step.name == name for step in ticket.steps))
