"""What makes inputs and gives them to a target, for so long or so many."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from fuzz import corpus, drawing
from fuzz.mutation import Mutator
from fuzz.registry import Finding, Target, run

# Inputs from the target's strategy to begin with; and one in so many of them later, as they cost more than damage.
_DRAWN: Final = 300
_DRAW_EVERY: Final = 256
# One in so many inputs is given twice.
_TWICE_EVERY: Final = 8
# Kept in one run, for one sort of outcome.
_POOL: Final = 4000
_CLOCK_EVERY: Final = 64


@dataclass(slots=True)
class Run:
    """What came of one run."""

    inputs: int = 0
    seconds: float = 0.0
    crash: Finding | None = None
    rss: tuple[int, int] = (0, 0)  # KiB, at the beginning and at the end
    new: dict[str, bytes] = field(default_factory=dict)  # by the sort of outcome


def rss() -> int:
    """What this process has in memory, in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def replay(target: Target, directory: Path = corpus.DIRECTORY) -> dict[str, bytes]:
    """The corpus, by the sort of its outcomes."""
    return {run(target, data): data for data in corpus.kept(target, directory)}


def by_chance(
    target: Target,
    *,
    seconds: float | None = None,
    inputs: int | None = None,
    seed: int = 0,
    drawn: int = _DRAWN,
    directory: Path = corpus.DIRECTORY,
) -> Run:
    """Damages what it has, and keeps what leads to a new sort of outcome. The same seed gives the same inputs."""
    random = Random(seed)
    result = Run()
    begin = time.monotonic()
    try:
        known = replay(target, directory)
        pool = [*known.values(), b""]
        result.inputs += len(known)
        fresh = drawing.some(target.inputs, random, drawn)
        _pursue(target, result, known, pool, fresh, random, begin, seconds, inputs)
    except Finding as finding:
        result.crash = finding
    result.seconds = time.monotonic() - begin
    result.rss = (result.rss[0], rss())
    return result


def _pursue(
    target: Target,
    result: Run,
    known: dict[str, bytes],
    pool: list[bytes],
    fresh: list[bytes],
    random: Random,
    begin: float,
    seconds: float | None,
    inputs: int | None,
) -> None:
    mutator = Mutator(random, target.words, target.largest)
    draw = drawing.drawer(target.inputs)
    warm = False
    while inputs is None or result.inputs < inputs:
        number = result.inputs
        if number % _CLOCK_EVERY == 0 and seconds is not None and time.monotonic() - begin > seconds:
            break
        drawn = fresh.pop() if fresh else None
        if drawn is None and number % _DRAW_EVERY == 0:
            drawn = draw(random.randbytes(512))
        data = mutator.of(pool) if drawn is None else drawn[: target.largest]
        result.inputs += 1
        sort = run(target, data, twice=number % _TWICE_EVERY == 0)
        if sort not in known and len(known) < _POOL:
            known[sort] = result.new[sort] = data
            pool.append(data)
        elif drawn is not None and len(pool) < _POOL:
            pool.append(data)
        if not warm and not fresh:
            # By now all that is made once has been made.
            warm, result.rss = True, (rss(), 0)


def guided(target: Target, *, seconds: float | None, inputs: int | None, seed: int) -> Run:
    """With atheris, which keeps what leads to code that nothing before has led to. It ends its process, so this takes
    one of its own."""
    result = Run()
    with tempfile.TemporaryDirectory(prefix="ipcd-fuzz-") as name:
        place = Path(name)
        given, new, crashes = place / "given", place / "new", place / "crashes"
        for each in (given, new, crashes):
            each.mkdir()
        for data in [*corpus.kept(target), *drawing.some(target.inputs, Random(seed), _DRAWN)]:
            (given / corpus.name_of(data)).write_bytes(data)
        words = place / "words"
        quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        words.write_text("".join(f'"{word}"\n' for word in quoted))
        command = [
            *(sys.executable, "-m", "fuzz.guided", target.name),
            *(
                f"-max_len={target.largest}",
                f"-seed={seed + 1}",
                f"-artifact_prefix={crashes}/",
                "-print_final_stats=1",
            ),
            *(("-rss_limit_mb=1024", "-timeout=60") + ((f"-dict={words}",) if target.words else ())),
            *((f"-max_total_time={max(1, int(seconds))}",) if seconds is not None else ()),
            *((f"-runs={inputs}",) if inputs is not None else ()),
            *(str(new), str(given)),
        ]
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        result.seconds = time.monotonic() - begin
        _read(target, result, done, crashes)
        for path in new.iterdir():
            with contextlib.suppress(Finding):
                data = path.read_bytes()
                result.new.setdefault(path.name, data)
    return result


def _read(target: Target, result: Run, done: subprocess.CompletedProcess[str], crashes: Path) -> None:
    """What the other process has said."""
    last = done.stdout + done.stderr
    for line in last.splitlines():
        words = line.split()
        if line.startswith("stat::number_of_executed_units:"):
            result.inputs = int(words[1])
        elif line.startswith("rss-begin:"):
            result.rss = (int(words[1]), result.rss[1])
        elif line.startswith("stat::peak_rss_mb:"):
            result.rss = (result.rss[0], int(words[1]) * 1024)
    for path in crashes.iterdir():
        result.crash = Finding(target.name, path.read_bytes(), f"{path.name}\n{last[-3000:]}")
    if done.returncode and result.crash is None:
        result.crash = Finding(target.name, b"", f"atheris ended with {done.returncode}\n{last[-3000:]}")
