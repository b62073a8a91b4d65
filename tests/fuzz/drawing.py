"""Inputs that are nearly right, out of random bytes: hypothesis reads those as the choices that a strategy makes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy


def drawer(strategy: SearchStrategy[bytes]) -> Callable[[bytes], bytes | None]:
    """Gives what the strategy draws where these bytes make the choices; None where they do not suffice."""
    drawn: list[bytes] = []

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(strategy)
    def take(data: bytes) -> None:
        drawn.append(data)

    def draw(choices: bytes) -> bytes | None:
        drawn.clear()
        take.hypothesis.fuzz_one_input(choices)  # type: ignore[attr-defined]
        return drawn[0] if drawn else None

    return draw


def some(strategy: SearchStrategy[bytes], random: Random, count: int) -> list[bytes]:
    """About `count` of them."""
    draw = drawer(strategy)
    found = (draw(random.randbytes(1 + random.randrange(2048))) for _ in range(count))
    return [data for data in found if data is not None]
