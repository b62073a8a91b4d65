"""What is fuzzed: each target takes any bytes, and what may come of them is said beside it.

A target's function returns what it made of its input, to be compared: the same input twice has to give the same. Of
exceptions it may let those through that it names; every other one, an AssertionError above all, is a finding.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypothesis.strategies import SearchStrategy
from ipcd_client.errors import ProtocolError

# Of processor time, for one input of a few kilobytes: beyond, a peer gets much work out of few bytes.
SLOW: Final = 5.0
_VARIES: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\d+|[^\x20-\x7e]")

Check = Callable[[bytes], object]


class Finding(Exception):
    """An input that a target must not be given to survive."""

    def __init__(self, target: str, data: bytes, why: str) -> None:
        super().__init__(f"{target}: {why}\n  input, {len(data)} bytes: {data[:200].hex()}")
        self.target = target
        self.data = data


@dataclass(frozen=True, slots=True)
class Target:
    """`inputs` draws what is nearly right. `words`: what is worth putting somewhere. `largest`: an input, in bytes."""

    name: str
    check: Check
    inputs: SearchStrategy[bytes]
    raises: tuple[type[Exception], ...]
    words: tuple[bytes, ...]
    largest: int


TARGETS: Final[dict[str, Target]] = {}


def target(
    name: str,
    inputs: SearchStrategy[bytes],
    *,
    raises: tuple[type[Exception], ...] = (),
    words: tuple[bytes, ...] = (),
    largest: int = 1024,
) -> Callable[[Check], Check]:
    """Registers the decorated function."""

    def register(check: Check) -> Check:
        assert name not in TARGETS
        TARGETS[name] = Target(name, check, inputs, raises, words, largest)
        return check

    return register


def _once(target: Target, data: bytes) -> object:
    begin = time.process_time()
    try:
        outcome = target.check(data)
    except target.raises as error:
        outcome = error
    except Exception as error:
        raise Finding(target.name, data, f"{type(error).__name__}: {error}") from error
    taken = time.process_time() - begin
    if taken > SLOW:
        raise Finding(target.name, data, f"it took {taken:.1f} s")
    return outcome


def run(target: Target, data: bytes, *, twice: bool = True) -> str:
    """Gives an input to a target: what came of it, in words that are the same for inputs of one sort.

    Raises:
        Finding: what must not be.
    """
    outcome = _once(target, data)
    if twice:
        again = _once(target, data)
        if repr(outcome) != repr(again):
            raise Finding(target.name, data, f"the first time {outcome!r}, then {again!r}")
    return sort_of(outcome)


def sort_of(outcome: object) -> str:
    """Which sort of outcome this is."""
    if isinstance(outcome, ProtocolError):
        # What is left of the text tells the ways to one violation apart.
        return _VARIES.sub("", str(outcome))[:80]
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {_VARIES.sub('', str(outcome))[:60]}"
    return _VARIES.sub("", repr(outcome))[:80]
