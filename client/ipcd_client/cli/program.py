"""The program `ipcctl`: its group of commands, and its exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from ipcd_client import __version__
from ipcd_client.cli import failures
from ipcd_client.cli.call import call
from ipcd_client.cli.catalog import ls, nodes
from ipcd_client.cli.cert import cert
from ipcd_client.cli.command import command
from ipcd_client.cli.completion import completion
from ipcd_client.cli.doctor import doctor
from ipcd_client.cli.explain import explain
from ipcd_client.cli.expose import expose
from ipcd_client.cli.failures import Failure
from ipcd_client.cli.group import Group
from ipcd_client.cli.lock import lock
from ipcd_client.cli.output import Format, Output
from ipcd_client.cli.ping import ping
from ipcd_client.cli.pipe import pipe
from ipcd_client.cli.queue import queue
from ipcd_client.cli.rules import rules
from ipcd_client.cli.semaphore import sem
from ipcd_client.cli.session import common
from ipcd_client.cli.signal import signal
from ipcd_client.cli.topic import topic
from ipcd_client.cli.value import value

NAME = "ipcctl"


class _ReaderGone(Exception):
    """Standard output is a broken pipe."""


@contextmanager
def _kept_from_click() -> Iterator[None]:
    """click would end the process for these itself, with words and exit codes of its own."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure("interrupted", "INTERRUPTED", failures.INTERRUPTED) from None
    except BrokenPipeError as error:
        raise _ReaderGone from error


class _Root(Group):
    """The group of all commands."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        # Where --help and --version print.
        with _kept_from_click():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _kept_from_click():
            return super().invoke(ctx)


@click.group(
    cls=_Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0; 1 the answer is no; 2 usage; 3 no daemon; 4 the call failed; 130 interrupted.",
)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
@common
@click.pass_context
def root(ctx: click.Context) -> None:
    """Asks the ipcd daemon of this machine: who serves what, how calls get there, and calls it.

    The options below may also be given after the command.

    \b
    Examples:
      ipcctl ls
      ipcctl explain lab.v1.Lab
      ipcctl call lab.v1.Lab/Digest '{"data": "aGVsbG8="}'
      ipcctl -s /tmp/b.sock -o json nodes
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(failures.USAGE)


_COMMANDS: Final = (
    ls,
    nodes,
    explain,
    call,
    ping,
    doctor,
    rules,
    expose,
    sem,
    lock,
    value,
    queue,
    topic,
    pipe,
    command,
    signal,
    cert,
    completion,
)
for _command in _COMMANDS:
    root.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code. `arguments` without the program's name; default: sys.argv."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Names that are no text in this locale are printed escaped, rather than not at all.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # What the library would log, the errors here say; a log line between them would only be in the way.
    logging.getLogger("ipcd_client").addHandler(logging.NullHandler())
    try:
        code = _run(given)
        sys.stdout.flush()
    except (_ReaderGone, BrokenPipeError):
        # `| head` has seen enough. What is still buffered would break the pipe again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except OSError as error:
        print(f"{NAME}: cannot write: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.CALL_FAILED
    return code


def _run(arguments: list[str]) -> int:
    output = Output(_wanted_format(arguments))
    try:
        # Not standalone: click would print its own errors, and end the process with its own codes.
        result = root.main(arguments, prog_name=NAME, standalone_mode=False)
        return result if isinstance(result, int) else failures.OK
    except (_ReaderGone, OSError):
        raise
    except Exception as error:  # noqa: BLE001  the last resort
        if isinstance(error, click.ClickException) and not output.json:
            # With the usage, and where to find help.
            error.show()
            return failures.USAGE
        failure = failures.from_error(error)
        if failure is None:
            traceback.print_exc()
            failure = Failure(f"a bug in ipcctl: {error!r}", "INTERNAL", failures.BUG)
    output.failed(failure)
    return failure.exit_code


def _wanted_format(arguments: Sequence[str]) -> Format:
    """What -o says, also where the command line is too wrong to be parsed: errors are in that format too."""
    wanted: Format = "text"
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        value = following if argument in {"-o", "--output"} else argument.removeprefix("--output=").removeprefix("-o")
        if value != argument and value in {"json", "text"}:
            wanted = "json" if value == "json" else "text"
    return wanted


def main() -> None:
    """The entry point."""
    sys.exit(run())
