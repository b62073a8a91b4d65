"""`ipcctl sem`: counting semaphores."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from ipcd_client.cli.failures import NO, OK, Failure, WrongUsage
from ipcd_client.cli.group import Group
from ipcd_client.cli.semaphore_list import complete_semaphore, ls
from ipcd_client.cli.session import Seconds, Session, common, grace_option, pass_session

if TYPE_CHECKING:
    from ipcd_client.primitives.semaphore import Hold, Semaphore

F = TypeVar("F", bound=Callable[..., Any])

# What the command that `run` starts finds its token in.
TOKEN: Final = "IPCD_TOKEN"


@click.group("sem", cls=Group)
@common
def sem() -> None:
    """Counting semaphores, by NAME or NAME@NODE.

    \b
    Examples:
      ipcctl sem make licences 3
      ipcctl sem run licences -- make all
      ipcctl sem acquire licences -n 2 --wait 10
      ipcctl sem release licences -n 2
      ipcctl sem ls
    """


def _named(function: F) -> F:
    return click.argument("name", shell_complete=complete_semaphore)(function)


def _taking(function: F) -> F:
    """The options of commands that may wait."""
    decorated: Any = function
    for option in (
        click.option(
            "--wait", metavar="SECONDS", type=Seconds(zero=True), help="At most so long; 0: not at all. [ever]"
        ),
        click.option("--value", type=click.IntRange(0), help="Make it with so many, where there is none."),
    ):
        decorated = option(decorated)
    return cast(F, decorated)


def _count(function: F) -> F:
    return click.option("-n", "count", type=click.IntRange(1), default=1, show_default=True, help="How many.")(function)


@contextlib.contextmanager
def _semaphore(session: Session, name: str, value: int | None = None, *, undo: bool = False) -> Iterator[Semaphore]:
    from ipcd_client.primitives.errors import Empty, NoSuchName, TimedOut
    from ipcd_client.primitives.semaphore import semaphore

    try:
        # First the daemon itself: without one, that is what is said.
        with session.node() as node, semaphore(name, value, undo=undo, node=node.path) as handle:
            yield handle
    except (Empty, TimedOut) as error:
        raise Failure(str(error), "NOT_IN_TIME", NO) from error
    except NoSuchName as error:
        raise Failure(str(error), "NO_SUCH_NAME", NO) from error


def _say(session: Session, text: str, **facts: Any) -> None:
    if session.output.json:
        session.output.document(facts)
    elif text:
        session.output.line(text)


@sem.command("make")
@_named
@click.argument("value", type=click.IntRange(0))
@common
@pass_session
def make(session: Session, name: str, value: int) -> None:
    """Make a semaphore with VALUE, where there is none.

    One that is there has to have been made with the same.

    \b
    Examples:
      ipcctl sem make licences 3
      ipcctl sem make gate@b 0
    """
    with _semaphore(session, name, value) as handle:
        now = handle.get_value()
    _say(session, "", name=name, initial=value, value=now)


@sem.command("get")
@_named
@common
@pass_session
def get(session: Session, name: str) -> None:
    """Print how many there are now.

    \b
    Examples:
      ipcctl sem get licences
    """
    with _semaphore(session, name) as handle:
        now = handle.get_value()
    _say(session, str(now), name=name, value=now)


@sem.command("acquire")
@_named
@_count
@_taking
@common
@pass_session
def acquire(session: Session, name: str, count: int, value: int | None, wait: float | None) -> None:
    """Take some, and print the token: greater than each before it.

    They stay taken until somebody releases them: see `run` for what is given back by itself. Exit code 1 if they were
    not there in time.

    \b
    Examples:
      ipcctl sem acquire licences
      ipcctl sem acquire licences -n 2 --wait 10 && echo mine
      ipcctl sem acquire licences --wait 0 -o json
    """
    with _semaphore(session, name, value) as handle:
        token = handle.acquire(count, wait)
    _say(session, str(token), name=name, count=count, token=token)


@sem.command("release")
@_named
@_count
@click.option("--value", type=click.IntRange(0), help="Make it with so many first, where there is none.")
@common
@pass_session
def release(session: Session, name: str, count: int, value: int | None) -> None:
    """Put some in, whoever took them.

    \b
    Examples:
      ipcctl sem release licences
      ipcctl sem release gate -n 5
    """
    with _semaphore(session, name, value) as handle:
        handle.release(count)
        now = handle.get_value()
    _say(session, "", name=name, count=count, value=now)


@sem.command("operate")
@click.argument("steps", metavar="NAME=STEP...", nargs=-1, required=True)
@click.option("--wait", metavar="SECONDS", type=Seconds(zero=True), help="At most so long; 0: not at all. [ever]")
@common
@pass_session
def operate(session: Session, steps: tuple[str, ...], wait: float | None) -> None:
    """Several semaphores of one node at once, or none, as semop does.

    A STEP below 0 takes so many, one above puts so many in, and 0 waits until there are none. Exit code 1 if it could
    not be done in time.

    \b
    Examples:
      ipcctl sem operate left=-1 right=-1
      ipcctl sem operate lock=0 lock=+1 --wait 5
    """
    operations = []
    for text in steps:
        name, equals, step = text.rpartition("=")
        try:
            operations.append((name, int(step)))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise WrongUsage(f"{text!r} is not NAME=STEP, as in left=-1")
    with _semaphore(session, operations[0][0]) as handle:
        token = handle.operate(operations, wait)
    _say(session, str(token), steps=[{"name": name, "step": step} for name, step in operations], token=token)


@sem.command("run")
@_count
@_taking
@_named
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@grace_option
@common
@pass_session
def run(
    session: Session,
    name: str,
    count: int,
    value: int | None,
    wait: float | None,
    command: tuple[str, ...],
    grace: float,
) -> int:
    """Run COMMAND while holding some of a semaphore.

    They are given back when COMMAND ends. COMMAND finds its token in $IPCD_TOKEN. Where what is held is lost, COMMAND
    is ended; so it is if this process is killed.

    Exit code: COMMAND's, or 128 and the number of the signal that ended it; 126 or 127 if it cannot be run; 1 if they
    were not there in time.

    \b
    Examples:
      ipcctl sem run licences -- make all
      ipcctl sem run builds --value 4 --wait 60 -- ./build.sh
      ipcctl sem run licences -n 2 -- env
    """
    from ipcd_client.cli.running import run_holding

    with _semaphore(session, name, value) as handle:
        hold = handle.hold(count, wait)
        return run_holding(session.output, _Held(hold, name), command, {TOKEN: str(hold.token)}, grace)


class _Held:
    """A hold, of whose loss is said what was lost. (running.Held)"""

    def __init__(self, hold: Hold, name: str) -> None:
        self._name = name
        self._hold = hold
        self.release = hold.release

    def on_lost(self, callback: Callable[[Exception], object]) -> None:
        from ipcd_client.primitives.errors import Lost

        def lost() -> None:
            callback(Lost(f"nothing is held of the semaphore {self._name} any more"))

        self._hold.on_lost(lost)


@sem.command("rm")
@_named
@common
@pass_session
def rm(session: Session, name: str) -> int:
    """Remove a semaphore: who waits for it fails, and what was held of it is lost.

    Exit code 1 if there is none.

    \b
    Examples:
      ipcctl sem rm licences
      ipcctl sem rm licences@b
    """
    with _semaphore(session, name) as handle:
        handle.remove()
    _say(session, "", name=name, removed=True)
    return OK


sem.add_command(ls)
