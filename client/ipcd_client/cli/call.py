"""`ipcctl call`: any method of any service, in JSON."""

from __future__ import annotations

import binascii
import re
import sys
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final

import click

from ipcd_client.cli import catalog
from ipcd_client.cli.failures import CALL_FAILED, Failure, WrongUsage, from_error, shown
from ipcd_client.cli.jsoncall import BadDescriptors, NoSuchMethod, did_you_mean, split_path
from ipcd_client.cli.messages import STDIN, Requests
from ipcd_client.cli.output import Output
from ipcd_client.cli.session import Pins, Session, common, complete_service, pass_session, pinned

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node
    from ipcd_client.cli.jsoncall import Method, Schema
    from ipcd_client.facade.channel import Channel

    ParamType = click.ParamType[tuple[str, str | bytes]]
else:
    ParamType = click.ParamType  # which is generic only in newer versions of click

Metadata = list[tuple[str, str | bytes]]

# The daemon's own API, which this program has the types of.
_NODE_API: Final = "ipcd.v1.Node"
_KEY: Final = re.compile(r"[0-9a-z_.-]+")


class Pair(ParamType):
    """Metadata: KEY=VALUE, with the value in base64 where the key ends in -bin."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | bytes]:
        key, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        if not _KEY.fullmatch(key):
            self.fail(f"{key!r}: keys are of lower-case letters, digits, and _ . -", param, ctx)
        if key.startswith("grpc-"):
            self.fail(f"{key!r}: keys that begin with grpc- are gRPC's own", param, ctx)
        if not key.endswith("-bin"):
            if not text.isascii() or not text.isprintable():
                self.fail(f"the value of {key} is not printable ASCII: take a key that ends in -bin", param, ctx)
            return key, text
        try:
            return key, b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self.fail(f"the value of {key} is not base64, as that of a -bin key must be", param, ctx)


@click.command("call")
@click.argument("method", metavar="SERVICE/METHOD", shell_complete=complete_service)
@click.argument("messages", metavar="[JSON|@FILE|-]...", nargs=-1)
@click.option("-m", "--metadata", metavar="KEY=VALUE", multiple=True, type=Pair(), help="May be given more than once.")
@click.option("-v", "--verbose", is_flag=True, help="Also who answered, and the metadata, on standard error.")
@pinned
@common
@pass_session
def call(
    session: Session, method: str, messages: tuple[str, ...], metadata: tuple[Any, ...], verbose: bool, pins: Pins
) -> None:
    """Call a method with JSON, and print the reply as JSON.

    The types come from the server itself; no .proto file is needed. Each argument is JSON, @FILE, or - for standard
    input, with one message or, for a method that takes a stream, any number of them. They are sent as they are read,
    and replies are printed as they come: so a session can be typed. Fields of type bytes are in base64.

    With the name of a service alone, its methods are listed. Exit code 2 if the input is wrong, 4 if the call fails.

    \b
    Examples:
      ipcctl call lab.v1.Lab                                 which methods there are
      ipcctl call lab.v1.Lab/Digest '{"data": "aGVsbG8="}'
      ipcctl call lab.v1.Lab/Search '{"pattern": "^import json"}' -o json | jq -r .file
      ipcctl call lab.v1.Lab/DigestStream @chunks.jsonl --timeout 5
      ipcctl call lab.v1.Lab/Session -                       type {"line": "ls"}; Ctrl-D ends it
      ipcctl call ipcd.v1.Node/Status                        the daemon's own API
    """
    service, name = split_path(method)
    with session.node() as node:
        channel = node.api() if service == _NODE_API else node.channel(pins)
        try:
            schema = _schema(node, channel, service, session.wait)
            if not name:
                _list_methods(session.output, schema.methods(service))
                return
            found = schema.method(service, name)
        except NoSuchMethod as error:
            raise WrongUsage(str(error), methods=[each.signature for each in error.methods]) from None
        except BadDescriptors as error:
            raise Failure(f"{service}: {error}", "INTERNAL", CALL_FAILED, details=str(error)) from None
        if found.client_streaming and not messages:
            raise WrongUsage(
                f"{service}/{name} takes a stream of messages: give them as JSON, as @FILE, or - for standard input"
            )
        requests = Requests(schema, found, messages)
        if STDIN in messages and sys.stdin.isatty():
            session.output.remark("type messages in JSON; Ctrl-D ends them")
        if verbose:
            _tell_route(session.output, channel, service, session.wait)
        _Invocation(session, channel, schema, found, list(metadata), verbose).run(requests)


def _schema(node: Node, channel: Channel, service: str, timeout: float) -> Schema:
    """The types of a service, from the server that will be called."""
    import grpc

    from ipcd_client.cli.jsoncall import Schema
    from ipcd_client.errors import IpcdError
    from ipcd_client.pb.ipcd.v1 import node_pb2

    if service == _NODE_API:
        return Schema.of(node_pb2.DESCRIPTOR)
    try:
        return Schema(channel.describe(service, timeout))
    except IpcdError as error:
        failure = from_error(error, service)
        if failure is not None and error.code is grpc.StatusCode.UNAVAILABLE and failure.code == "UNAVAILABLE":
            failure.text += did_you_mean(service, [each for each in node.services() if each != service])
            raise failure from error
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            text = f"{service}: its server does not describe its services, so there are no types to call it with"
            raise Failure(text, "UNIMPLEMENTED", CALL_FAILED, details=str(error)) from error
        raise


def _list_methods(output: Output, methods: list[Method]) -> None:
    if not output.json:
        for method in methods:
            output.line(method.signature)
        return
    output.document(
        [
            {
                "method": method.path[1:],
                "request": method.request.DESCRIPTOR.full_name,
                "reply": method.reply.DESCRIPTOR.full_name,
                "client_streaming": method.client_streaming,
                "server_streaming": method.server_streaming,
            }
            for method in methods
        ]
    )


class _Invocation:
    """One call, of whichever kind."""

    def __init__(
        self, session: Session, channel: Channel, schema: Schema, method: Method, metadata: Metadata, verbose: bool
    ) -> None:
        self._output = session.output
        self._channel = channel
        self._schema = schema
        self._method = method
        self._metadata = metadata
        self._verbose = verbose
        streaming = method.client_streaming or method.server_streaming
        # A stream may be meant to go on for hours; a single answer is not.
        self._timeout = session.timeout if streaming else session.wait

    def run(self, requests: Requests) -> None:
        """Calls, prints, and raises the Failure if it ends badly."""
        import grpc

        method = self._method
        request = requests if method.client_streaming else requests.only()
        kinds = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        serializer: Any = method.request.SerializeToString
        stub: Any = kinds[method.client_streaming, method.server_streaming](
            method.path, serializer, method.reply.FromString
        )
        try:
            if method.server_streaming:
                self._stream(stub(request, timeout=self._timeout, metadata=self._metadata))
            else:
                reply, ended = stub.with_call(request, timeout=self._timeout, metadata=self._metadata)
                self._tell("initial metadata", ended.initial_metadata)
                self._print(reply)
                self._tell("trailing metadata", ended.trailing_metadata)
        except grpc.RpcError as error:
            if requests.failure is not None:
                # The input broke off, and the call with it.
                raise requests.failure from None
            failure = from_error(error, f"{method.service}/{method.name}")
            if failure is None:
                raise
            raise failure from None

    def _stream(self, replies: Any) -> None:
        try:
            self._tell("initial metadata", replies.initial_metadata)
            for reply in replies:
                self._print(reply)
            self._tell("trailing metadata", replies.trailing_metadata)
        finally:
            # Nobody reads the rest: the reader of our pipe is gone, or it was interrupted. After the end it is nothing.
            replies.cancel()

    def _print(self, reply: Any) -> None:
        try:
            value = self._schema.value(reply)
        except BadDescriptors as error:
            raise Failure(f"{self._method.path[1:]}: {error}", "INTERNAL", CALL_FAILED, details=str(error)) from None
        self._output.record(value)

    def _tell(self, what: str, metadata: Any) -> None:
        """On request only, because it waits for the metadata."""
        if self._verbose:
            pairs = [[key, shown(value)] for key, value in metadata() or ()]
            text = "\n".join(f"  {key}: {value}" for key, value in pairs)
            self._output.note({what.replace(" ", "_"): pairs}, f"{what}:\n{text}" if text else f"{what}: none")


def _tell_route(output: Output, channel: Channel, service: str, timeout: float) -> None:
    route = channel.route(service, timeout)
    facts = catalog.server_facts(route.server)
    where = f" (node {facts['node']}, pid {facts['pid']})" if facts["pid"] else ""
    served_by = {**facts, "transport": route.transport, "reason": route.reason}
    named = facts["server"] or "an unnamed server"
    output.note({"served_by": served_by}, f"served by {named}{where} over {route.transport}; {route.reason}")
