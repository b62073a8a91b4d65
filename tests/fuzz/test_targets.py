"""Each target, for a short while, with the same inputs in each run: those that are kept, those that its strategy draws,
and damage to both. `python -m fuzz` takes as long as it is let."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fuzz import corpus, engines
from fuzz.every import TARGETS
from fuzz.registry import Target, run
from hypothesis import HealthCheck, Phase, given, settings

# Of damage, and drawn; so many that all targets together take well below a minute.
_DAMAGED = 600
_DRAWN = 60


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What the daemon thinks of each input is of no interest."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


def test_what_is_kept(target: Target) -> None:
    kept = corpus.kept(target)
    assert kept, "python -m fuzz TARGET --inputs 100000 --keep makes a corpus"
    assert len(kept) <= corpus.MOST
    assert max(map(len, kept)) <= corpus.LARGEST
    assert engines.replay(target)


def test_what_is_nearly_right(target: Target) -> None:
    # Phase.shrink is left in: a finding is told as small as it can be.
    @settings(
        database=None,
        deadline=None,
        derandomize=True,
        max_examples=_DRAWN,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def drawn(data: bytes) -> None:
        run(target, data)

    drawn()


def test_damage(target: Target) -> None:
    result = engines.by_chance(target, inputs=_DAMAGED, drawn=0)
    assert result.crash is None, result.crash
    assert result.inputs == _DAMAGED
