"""What all commands share: the options, and the daemon that they lead to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from ipcd_client.cli.output import FORMATS, Format, Output

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node

    ParamType = click.ParamType[float]
else:
    ParamType = click.ParamType  # which is generic only in newer versions of click

F = TypeVar("F", bound=Callable[..., Any])

# Seconds.
DEFAULT_TIMEOUT: Final = 10.0
TRANSPORTS: Final = ("auto", "shm", "unix", "tcp")


@dataclass(slots=True)
class Session:
    """The options of one run. None: not given."""

    socket: str | None = None
    format: Format = "text"
    timeout: float | None = None

    @property
    def output(self) -> Output:
        """Prints as -o says."""
        return Output(self.format)

    @property
    def wait(self) -> float:
        """Seconds to wait for one answer."""
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout

    def node(self) -> Node:
        """The daemon that -s leads to. A context manager.

        Raises:
            NoDaemon, IpcdError: it does not answer.
        """
        from ipcd_client.cli.backend import Node

        return Node(self.socket, self.wait)


@dataclass(frozen=True, slots=True)
class Pins:
    """Which servers are wanted, and over what. Empty: any."""

    node: str = ""
    server: str = ""
    transport: str = "auto"

    def as_json(self) -> dict[str, str | None]:
        """For results that repeat what was asked for."""
        return {"node": self.node or None, "server": self.server or None, "transport": self.transport}


class Seconds(ParamType):
    """A positive number of seconds."""

    name = "seconds"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not self._zero):
            self.fail(f"{value!r} is not a {'' if self._zero else 'positive '}number of seconds", param, ctx)
        return seconds


# Of the commands that run a program while they hold something (running.py).
grace_option = click.option(
    "--grace",
    metavar="SECONDS",
    type=Seconds(zero=True),
    default=5.0,
    show_default=True,
    help="Between SIGTERM and SIGKILL, when what is held is lost.",
)
pass_session = click.make_pass_decorator(Session, ensure=True)


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Session), name, value)

    return keep


def formatted(function: F) -> F:
    """The option of commands that need no daemon."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        expose_value=False,
        callback=_keep("format"),
        help="What is printed: text for people, json for programs. [default: text]",
    )(function)


def common(function: F) -> F:
    """The options that the group and each command have: a command's are stronger than the group's."""
    for option in (
        click.option(
            "--timeout",
            metavar="SECONDS",
            type=Seconds(),
            expose_value=False,
            callback=_keep("timeout"),
            help=f"How long to wait for an answer. [default: {DEFAULT_TIMEOUT:g}; streaming calls: no limit]",
        ),
        formatted,
        click.option(
            "-s",
            "--socket",
            metavar="PATH",
            # Whether this user may open it, the attempt says.
            type=click.Path(readable=False),
            expose_value=False,
            callback=_keep("socket"),
            help="The daemon's socket. [default: $IPCD_SOCKET, else $XDG_RUNTIME_DIR/ipcd/ipcd.sock, else "
            "/run/ipcd/ipcd.sock]",
        ),
    ):
        function = option(function)
    return function


def pinned(function: F) -> F:
    """The options that choose a server, as one argument `pins`."""

    @functools.wraps(function)
    def gathered(*args: Any, node: str, server: str, transport: str, **kwargs: Any) -> Any:
        return function(*args, pins=Pins(node, server, transport), **kwargs)

    decorated: Any = gathered
    for option in (
        click.option(
            "--transport", type=click.Choice(TRANSPORTS), default="auto", help="Over this one, or not at all."
        ),
        click.option("--server", metavar="NAME", default="", help="Only a server of this name."),
        click.option("--node", metavar="NAME", default="", help="Only on this node.", shell_complete=complete_node),
    ):
        decorated = option(decorated)
    return cast(F, decorated)


def complete_node(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of nodes, for the shell."""
    return _complete(ctx, incomplete, lambda node: {each.node for each in node.nodes()})


def complete_service(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of services, for the shell."""
    return _complete(ctx, incomplete, lambda node: set(node.services()))


def _complete(ctx: click.Context, incomplete: str, names: Callable[[Node], set[str]]) -> list[str]:
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    # Nobody waits long for a completion, and nobody wants to read an error instead of one.
    session.timeout = 1.0
    try:
        with session.node() as node:
            return sorted(name for name in names(node) if name.startswith(incomplete))
    except IpcdError:
        return []
