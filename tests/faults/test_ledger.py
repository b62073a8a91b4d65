"""The account itself: that it finds what must not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.ledger import LATE, Allowed, Ledger, Window
from faults.work import ATTEMPTS, DEADLINE

BEGIN = "B x:1.any.1 unary_unary 10"
OK = "E x:1.any.1 OK 10.5 "
FAILED = "E x:1.any.1 UNAVAILABLE 10.5 the server has died"
SEEN = "a1 77 x:1.any.1"
FAULT = Window(9, 11, (Allowed(["UNAVAILABLE"], lanes=["any"], says="died"),))


def violations(folder: Path, calls: list[str], seen: list[str], window: Window = FAULT) -> list[str]:
    (folder / "x.calls").write_text("".join(f"{line}\n" for line in calls))
    (folder / "seen").write_text("".join(f"{line}\n" for line in seen))
    return Ledger(folder).close(window)


@pytest.mark.parametrize(
    ("calls", "seen", "window"),
    [
        ([BEGIN, OK], [SEEN], FAULT),
        ([BEGIN, OK], [SEEN], Window()),
        ([BEGIN, FAILED], [SEEN], FAULT),
        ([BEGIN, FAILED], [], FAULT),
        ([BEGIN], [SEEN], Window(killed=frozenset({"x:1"}))),
        ([line.replace("any", "retry") for line in (BEGIN, OK)], [SEEN.replace("any", "retry")] * ATTEMPTS, FAULT),
        ([BEGIN.replace("any", "whim"), "E x:1.whim.1 CANCELLED 10.1 "], [], Window()),
        ([BEGIN.replace("any", "hasty"), "E x:1.hasty.1 DEADLINE_EXCEEDED 10.1 "], [], Window()),
    ],
)
def test_what_may_be(tmp_path: Path, calls: list[str], seen: list[str], window: Window) -> None:
    assert violations(tmp_path, calls, seen, window) == []


@pytest.mark.parametrize(
    ("calls", "seen", "window", "says"),
    [
        ([BEGIN, OK], [SEEN, SEEN], FAULT, "seen more than 1"),
        ([BEGIN, FAILED], [SEEN, SEEN], FAULT, "seen more than 1"),
        ([BEGIN, OK], [], FAULT, "answered by nobody"),
        ([BEGIN], [SEEN], FAULT, "ended 0 times"),
        ([BEGIN, OK, OK], [SEEN], FAULT, "ended 2 times"),
        ([], [SEEN], FAULT, "nobody has made it"),
        ([BEGIN, FAILED], [SEEN], Window(), "not allowed outside of the fault"),
        ([BEGIN, FAILED], [SEEN], Window(10.6, 11, FAULT.allowed), "not allowed outside of the fault"),
        ([BEGIN, FAILED], [SEEN], Window(9, 9.9, FAULT.allowed), "not allowed outside of the fault"),
        ([BEGIN, FAILED.replace("died", "lived")], [SEEN], FAULT, "not allowed: "),
        ([BEGIN, FAILED.replace("UNAVAILABLE", "INTERNAL")], [SEEN], FAULT, "not allowed: "),
        ([line.replace("any", "far") for line in (BEGIN, FAILED)], [], FAULT, "not allowed: "),
        ([BEGIN, OK.replace("OK", "WRONG")], [SEEN], FAULT, "not allowed: "),
        ([BEGIN, OK.replace("10.5", f"{10 + DEADLINE + LATE + 1}")], [SEEN], FAULT, "beyond its deadline"),
        ([BEGIN, "E x:1.any.1 CANCELLED 10.1 "], [], FAULT, "not allowed: "),
    ],
)
def test_what_must_not_be(tmp_path: Path, calls: list[str], seen: list[str], window: Window, says: str) -> None:
    (wrong,) = violations(tmp_path, calls, seen, window)
    assert says in wrong


def test_it_reads_on_where_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    book = tmp_path / "x.calls"
    for _ in range(2):
        with book.open("a") as file:
            file.write(f"{BEGIN}\n{OK[:10]}")
            file.flush()
            ledger.read()
            assert ledger.calls["x:1.any.1"].ends == 0
            file.write(f"{OK[10:]}\nP 3 any\n")
        (tmp_path / "seen").write_text(f"{SEEN}\n")
        ledger.read()
        assert ledger.answers_since("x", "any", 10) == 1
        assert ledger.answers_since("x", "any", 11) == 0
        assert ledger.paused["x", "any"] == 3
        assert ledger.close(Window()) == []
        # What is accounted for takes no room.
        assert book.stat().st_size == 0
    assert ledger.total == 2
    assert dict(ledger.outcomes) == {"OK": 2}


def test_a_call_that_has_failed_may_be_found_late_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    seen = tmp_path / "seen"
    (tmp_path / "x.calls").write_text(f"{BEGIN}\n{FAILED}\n")
    assert ledger.close(FAULT) == []
    seen.write_text(f"{SEEN}\n")
    assert ledger.close(FAULT) == []
    seen.write_text(f"{SEEN}\n")
    assert ledger.close(FAULT) == ["x:1.any.1 was seen 1 times, and nobody has made it"]
