"""Stories of nodes and networks as text, a statement a line; what is behind a `#` is a comment.

    a starts                        a daemon on machine a; all that start like this find each other
    a starts as NAME                its node's name is not that of its machine
    a starts knowing b c            it is told of machines b and c, and finds nobody else by itself
    a ends | a is killed            in order; at once. Its connections end with it
    a loses power                   with its machine: nobody is told
    a restarts                      is killed and starts
    a is stopped | a is continued   as by SIGSTOP and SIGCONT
    a's clock is 3600 ahead         seconds, from its next start on; `, at rate 1.05` may follow
    a serves s1: x.X y.Y            a server has come, or serves something else now; s1..s300 are 300 servers
    a drops s1                      a server has gone
    cut a-b | cut a>b               nothing gets through: both ways; only from a to b. `a,b-c,d`: from each to each
    heal | heal a-b | heal a>b      everything gets through again: everywhere, or there
    slow a>b 5                      each message takes up to 5 s
    wait 2.5                        seconds
    settle                          wait until every node has of the others' servers what they have
    expect WHAT                     it is so now
    expect WHAT within 3            it becomes so in at most 3 s

WHAT is one of

    a sees s1 s2 on NAME            these servers of a node, and no others; or `nothing`
    a sees s1 on NAME as x.X y.Y    a server with these services
    a is linked with NAME NAME      and with no other node; or `nobody`
    a suspects NAME                 or `a does not suspect NAME`
    a is told TEXT                  it has refused a link, or was refused one, with such words; `*` stands for any
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.simulation import How, World

# Seconds between two looks at what is expected to become so.
STEP: Final = 0.02


class ScenarioError(Exception):
    """FILE:LINE: what is wrong there."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One line."""

    where: str  # FILE:LINE
    text: str
    do: Callable[[World, re.Match[str]], None]
    match: re.Match[str]


def read(path: Path) -> list[Statement]:
    """Reads a file.

    Raises:
        ScenarioError: what is wrong in which line.
    """
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, name: str) -> list[Statement]:
    """Reads a text. `name`: of the file, for errors.

    Raises:
        ScenarioError: what is wrong in which line.
    """
    statements: list[Statement] = []
    started: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        where = f"{name}:{number}"
        statement = next(
            (Statement(where, words, do, found) for form, do in _FORMS if (found := re.fullmatch(form, words))), None
        )
        if statement is None:
            raise ScenarioError(f"{where}: no statement: {words!r}")
        machines = re.findall(r"\w+", " ".join(filter(None, statement.match.groupdict().values())))
        if statement.do is _start:
            started.update(machines)
        elif statement.do is not _set_clock:
            for machine in machines:
                if machine not in started:
                    raise ScenarioError(f"{where}: machine {machine} has not been started before: {words!r}")
        statements.append(statement)
    if not statements:
        raise ScenarioError(f"{name}: there is no statement")
    return statements


def play(statements: Sequence[Statement], seed: int) -> None:
    """Plays a story.

    Raises:
        ScenarioError: something is not as expected, or cannot be done.
    """
    world = World(seed)
    for statement in statements:
        try:
            statement.do(world, statement.match)
        except (AssertionError, KeyError, ValueError) as error:
            raise ScenarioError(
                f"{statement.where}: {statement.text}: after {world.now:.2f} s, with seed {seed}: {error}"
            ) from error


# -- what statements do -----------------------------------------------------------------------------------------------


def _start(world: World, match: re.Match[str]) -> None:
    name, seeds = match[2], match[3]
    for place in match["at"].split():
        world.start(place, name or "", seeds.split() if seeds else None)


def _end(how: How) -> Callable[[World, re.Match[str]], None]:
    def end(world: World, match: re.Match[str]) -> None:
        world.end(match["at"], how)

    return end


def _restart(world: World, match: re.Match[str]) -> None:
    world.end(match["at"], How.LOST)
    world.start(match["at"])


def _stop(world: World, match: re.Match[str]) -> None:
    world.stop(match["at"])


def _resume(world: World, match: re.Match[str]) -> None:
    world.resume(match["at"])


def _set_clock(world: World, match: re.Match[str]) -> None:
    world.set_clock(match["at"], float(match[2]), float(match[3] or 1))


def _servers(text: str) -> list[str]:
    """The servers that are meant: s1..s3 are three."""
    names: list[str] = []
    for word in text.split():
        run = re.fullmatch(r"(\w*?)(\d+)\.\.\1(\d+)", word)
        names += [f"{run[1]}{number}" for number in range(int(run[2]), int(run[3]) + 1)] if run else [word]
    return names


def _serve(world: World, match: re.Match[str]) -> None:
    for server in _servers(match[2]):
        world.nodes[match["at"]].serve(server, *match[3].split())


def _drop(world: World, match: re.Match[str]) -> None:
    for server in _servers(match[2]):
        world.nodes[match["at"]].drop(server)


def _paths(match: re.Match[str]) -> list[tuple[str, str]]:
    """From where to where, in one direction each."""
    ways = itertools.product(match["at"].split(","), match["to"].split(","))
    return [way for one, other in ways for way in ([(one, other)] if match[2] == ">" else [(one, other), (other, one)])]


def _cut(world: World, match: re.Match[str]) -> None:
    for here, there in _paths(match):
        world.cut(here, there)


def _heal(world: World, match: re.Match[str]) -> None:
    for here, there in _paths(match):
        world.heal(here, there)


def _heal_all(world: World, match: re.Match[str]) -> None:
    world.heal_all()


def _slow(world: World, match: re.Match[str]) -> None:
    for here, there in _paths(match):
        world.slow(here, there, float(match[4]))


def _wait(world: World, match: re.Match[str]) -> None:
    world.run(float(match[1]))


def _settle(world: World, match: re.Match[str]) -> None:
    world.settle()


# -- what is expected -------------------------------------------------------------------------------------------------


def _expect(check: Callable[[World, re.Match[str]], None]) -> Callable[[World, re.Match[str]], None]:
    """`within`: the last group of the match."""

    def expect(world: World, match: re.Match[str]) -> None:
        until = world.now + float(match[match.re.groups] or 0)
        while True:
            try:
                check(world, match)
            except AssertionError:
                if world.now >= until:
                    raise
                world.run(min(STEP, until - world.now))
            else:
                return

    return expect


def _sees(world: World, match: re.Match[str]) -> None:
    wanted = [] if match[2] == "nothing" else sorted(_servers(match[2]))
    told = world.seen(match["at"]).get(match[3], {})
    has = sorted(server.name for server in told.values())
    assert has == wanted, f"it sees {has}"
    if match[4]:
        services = [list(server.services) for server in told.values()]
        assert all(one == sorted(match[4].split()) for one in services), f"they are {services}"


def _is_linked(world: World, match: re.Match[str]) -> None:
    wanted = [] if match[2] == "nobody" else sorted(match[2].split())
    linked = sorted(world.nodes[match["at"]].members.links)
    assert linked == wanted, f"it is linked with {linked}"


def _suspects(wanted: bool) -> Callable[[World, re.Match[str]], None]:
    def suspects(world: World, match: re.Match[str]) -> None:
        link = world.nodes[match["at"]].members.links.get(match[2])
        assert link is not None, "it has no link with it"
        assert link.suspect is wanted

    return suspects


def _is_told(world: World, match: re.Match[str]) -> None:
    node = world.nodes[match["at"]]
    told = {*node.refusals, *(info.error for info in node.members.infos(node.clock()) if info.error)}
    assert any(fnmatch.fnmatchcase(one, f"*{match[2]}*") for one in told), f"it is told {sorted(told)}"


_AT = r"(?P<at>[a-z]\w*)"
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LIST = r"[a-z]\w*(?:,[a-z]\w*)*"
_PATH = rf"(?P<at>{_LIST})([->])(?P<to>{_LIST})"
_WITHIN = rf"(?: within {_NUMBER})?"
# Named groups are of machines.
_FORMS: Final[Sequence[tuple[str, Callable[[World, re.Match[str]], None]]]] = (
    (r"(?P<at>[a-z]\w*(?: [a-z]\w*)*?) starts?(?: as (\w+))?(?: knowing ([\w ]+))?", _start),
    (rf"{_AT} ends", _end(How.ORDERLY)),
    (rf"{_AT} is killed", _end(How.LOST)),
    (rf"{_AT} loses power", _end(How.SILENT)),
    (rf"{_AT} restarts", _restart),
    (rf"{_AT} is stopped", _stop),
    (rf"{_AT} is continued", _resume),
    (rf"{_AT}'s clock is {_NUMBER} ahead(?:, at rate {_NUMBER})?", _set_clock),
    (rf"{_AT} serves ([\w .]+):((?: [\w.]+)*)", _serve),
    (rf"{_AT} drops ([\w .]+)", _drop),
    (rf"cut {_PATH}", _cut),
    (rf"heal {_PATH}", _heal),
    (r"heal", _heal_all),
    (rf"slow {_PATH} {_NUMBER}", _slow),
    (rf"wait {_NUMBER}", _wait),
    (r"settle", _settle),
    (rf"expect {_AT} sees ([\w .]+?) on (\w+)(?: as ((?:[\w.]+ ??)+?))?{_WITHIN}", _expect(_sees)),
    (rf"expect {_AT} is linked with ([\w ]+?){_WITHIN}", _expect(_is_linked)),
    (rf"expect {_AT} suspects (\w+){_WITHIN}", _expect(_suspects(True))),
    (rf"expect {_AT} does not suspect (\w+){_WITHIN}", _expect(_suspects(False))),
    (rf"expect {_AT} is told (.+?){_WITHIN}", _expect(_is_told)),
)
