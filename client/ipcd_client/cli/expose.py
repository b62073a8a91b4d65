"""`ipcctl expose`: an existing gRPC server as a provider of its services."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from ipcd_client.cli.failures import CALL_FAILED, Failure, WrongUsage
from ipcd_client.cli.output import Output, one_line
from ipcd_client.cli.session import Seconds, Session, common, pass_session

if TYPE_CHECKING:
    import grpc

    from ipcd_client.expose.exposure import Change, Exposure

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SERVING: Final = "serving"
_NOT_SERVING: Final = "not serving"


@click.command("expose")
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@click.option("--to", "address", metavar="HOST:PORT|unix:PATH", required=True, help="Where the gRPC server listens.")
@click.option("--name", metavar="NAME", default="", help="What the server is called here, for callers who want it.")
@click.option("--tls", is_flag=True, help="It has a certificate for HOST, which the system trusts.")
@click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="It has a certificate for HOST, which leads to one of those in FILE (PEM).",
)
@click.option(
    "--max-calls",
    metavar="N",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Calls at a time; one more fails with RESOURCE_EXHAUSTED. Each holds a thread, and one more if it streams "
    "requests.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=Seconds(zero=True),
    default=10.0,
    show_default=True,
    help="How long calls under way have at the end.",
)
@common
@pass_session
def expose(
    session: Session,
    services: tuple[str, ...],
    address: str,
    name: str,
    tls: bool,
    ca: Path | None,
    max_calls: int,
    grace: float,
) -> None:
    """Make a gRPC server, in any language, a provider of SERVICEs, until interrupted.

    Callers find it as they find any other server: with `ipcd_client.channel()`, on every node. Calls of all four kinds
    go through this process as they are, with metadata, deadline, status and cancellation. Without a SERVICE, the
    server is asked for all of them, which takes gRPC's reflection; `ipcctl call` needs that too.

    A service is registered while it is healthy: its grpc.health.v1 says so, or, of a server without that, it can be
    reached. Each change is a line. Ctrl-C or SIGTERM ends it, once the calls under way are over; a second one at once.

    \b
    Examples:
      ipcctl expose helloworld.v1.Greeter --to localhost:50051
      ipcctl expose --to unix:/run/greeter.sock --name canary
      ipcctl expose pkg.One pkg.Two --to greeter.example:443 --tls -o json
    """
    from ipcd_client.expose import upstream
    from ipcd_client.expose.exposure import Exposure

    upstream.checked(address)
    wanted = list(dict.fromkeys(services))
    for service in wanted:
        if not _NAME.fullmatch(service):
            raise WrongUsage(f"{service!r} is not the full name of a service, such as helloworld.v1.Greeter")
    if address.startswith("unix:") and (tls or ca):
        raise WrongUsage("--tls and --ca are for HOST:PORT: a certificate is not for a socket's path")
    with session.node() as node:
        path = node.path
    channel = upstream.channel(address, tls=tls or ca is not None, ca=ca.read_bytes() if ca else None)
    found = wanted or _all(channel, address, session.wait)
    exposure = Exposure(channel, found, name=name, node=path, most=max_calls, grace=grace)
    lines = _Lines(session.output, address, max(map(len, found)))
    with _ended_by_signals(exposure) as ended_by, exposure:
        exposure.run(lines.tell)
    if signal.SIGINT in ended_by:
        raise KeyboardInterrupt


def _all(channel: grpc.Channel, address: str, timeout: float) -> list[str]:
    """What the server says it has."""
    import grpc

    from ipcd_client.expose.reflection import Reflection
    from ipcd_client.rpc.failure import CallFailed

    try:
        found = Reflection(channel).services(timeout)
    except CallFailed as error:
        channel.close()
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            raise WrongUsage(f"the server at {address} has no reflection: name the services to expose") from None
        text = f"the server at {address} does not say what it serves: {error.code.name}: {error}"
        raise Failure(text, error.code.name, CALL_FAILED, details=str(error)) from None
    if not found:
        channel.close()
        raise WrongUsage(f"the server at {address} says that it has no services")
    return found


class _Lines:
    """Prints one for each change."""

    def __init__(self, output: Output, address: str, width: int) -> None:
        self._output = output
        self._address = address
        self._width = width

    def tell(self, change: Change) -> None:
        """This has happened just now."""
        now = datetime.now(UTC)
        state = _SERVING if change.serving else _NOT_SERVING
        if self._output.json:
            self._output.record(
                {
                    "time": now.isoformat(timespec="milliseconds"),
                    "service": change.service,
                    "state": state,
                    "why": change.why,
                    "to": self._address,
                }
            )
            return
        clock = now.astimezone().strftime("%H:%M:%S")
        self._output.line(
            f"{clock}  {state:<{len(_NOT_SERVING)}}  {change.service:<{self._width}}  {one_line(change.why)}"
        )


@contextmanager
def _ended_by_signals(exposure: Exposure) -> Iterator[set[int]]:
    """SIGINT and SIGTERM stop it, the second one without mercy. The set has those that came."""
    came: set[int] = set()

    def on_signal(number: int, _: FrameType | None) -> None:
        if came:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came.add(number)
        exposure.stop()

    before: dict[int, Any] = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
