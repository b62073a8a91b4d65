"""A service of bytes whose handlers do as the test says, on any grpc.aio.Server."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
from grpc.aio import EOF

SERVICE = "conformance.v1.AioEcho"
WORD: contextvars.ContextVar[str] = contextvars.ContextVar("WORD", default="unset")


class Status(grpc.Status):
    code = grpc.StatusCode.DATA_LOSS
    details = "a status"
    trailing_metadata = (("x-status", "yes"),)


def broken(message: Any) -> Any:
    raise ZeroDivisionError("broken")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Echo(grpc.GenericRpcHandler):
    """Methods by name, of the kind that it begins with; bytes in and bytes out. Those with Sync in their name are for
    threads."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.entered = asyncio.Event()
        self.ended = asyncio.Event()
        self.release = asyncio.Event()
        self.released = threading.Event()

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.rpartition("/")[2]
        behavior: Callable[..., Any] | None = getattr(self, name, None)
        if not details.method.startswith(f"/{SERVICE}/") or behavior is None:
            return None
        if name.startswith("Unary"):
            more = {
                "UnaryUnparsed": {"request_deserializer": broken},
                "UnaryUnserialized": {"response_serializer": broken},
            }
            return grpc.unary_unary_rpc_method_handler(behavior, **more.get(name, {}))
        if name.startswith("Down"):
            return grpc.unary_stream_rpc_method_handler(behavior)
        if name.startswith("Up"):
            return grpc.stream_unary_rpc_method_handler(behavior)
        return grpc.stream_stream_rpc_method_handler(behavior)

    # unary-unary

    async def UnaryEcho(self, request: bytes, context: Any) -> bytes:
        return request

    async def UnaryUnparsed(self, request: bytes, context: Any) -> bytes:
        return request

    async def UnaryUnserialized(self, request: bytes, context: Any) -> bytes:
        return request

    async def UnaryRaise(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("boom")

    async def UnaryRaiseCode(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("lost")
        raise RuntimeError("boom")

    async def UnaryCode(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("mine")
        self.events.append((context.code(), context.details()))
        return b"not sent"

    async def UnaryCodeNumber(self, request: bytes, context: Any) -> bytes:
        context.set_code(int(request))
        return b"not sent"

    async def UnaryAbort(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-why", "test"),))
        try:
            await context.abort(grpc.StatusCode.ABORTED, "why")
        finally:
            self.events.append((context.done(), context.code(), context.details(), context.trailing_metadata()))
        return b""

    async def UnaryAbortNumber(self, request: bytes, context: Any) -> bytes:
        await context.abort(5, "why")
        return b""

    async def UnaryAbortBare(self, request: bytes, context: Any) -> bytes:
        context.set_details("set before")
        await context.abort(grpc.StatusCode.ABORTED)
        return b""

    async def UnaryAbortStatus(self, request: bytes, context: Any) -> bytes:
        await context.abort_with_status(Status())
        return b""

    async def UnaryAbortTwice(self, request: bytes, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.ABORTED, "first")
        except grpc.aio.AbortError as error:
            self.events.append(str(error))
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "second")
        except grpc.aio.UsageError as error:
            self.events.append(str(error))
            raise
        return b""

    async def UnaryAbortSwallowed(self, request: bytes, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.ABORTED, "swallowed")
        except grpc.aio.AbortError:
            pass
        return b"not sent"

    async def UnaryAbortForeign(self, request: bytes, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.ABORTED, "replaced")
        except grpc.aio.AbortError:
            raise ValueError("another") from None
        return b""

    async def UnaryInitialTwice(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("x-initial", "one"), ("x-initial-bin", b"\x00\xff")))
        try:
            await context.send_initial_metadata(())
        except grpc.aio.UsageError as error:
            self.events.append(str(error))
        context.set_trailing_metadata(context.invocation_metadata())
        return request

    async def UnaryTrailing(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(((request.decode(), "x"),))
        return b""

    async def UnaryTrailingKinds(self, request: bytes, context: Any) -> bytes:
        for wrong in (5, (("a", 1),)):
            try:
                context.set_trailing_metadata(wrong)
            except TypeError:
                self.events.append("TypeError")
        for given in ((("a", "b"),), [("a", "b")], grpc.aio.Metadata(("a", "b"))):
            context.set_trailing_metadata(given)
            self.events.append(context.trailing_metadata())
        return b""

    async def UnaryAbout(self, request: bytes, context: Any) -> bytes:
        self.events.append(
            {
                "left": context.time_remaining(),
                "code": context.code(),
                "details": context.details(),
                "trailing": context.trailing_metadata(),
                "done": context.done(),
                "cancelled": context.cancelled(),
                "isinstance": isinstance(context, grpc.aio.ServicerContext) or type(context).__name__,
                "peer": context.peer(),
                "identities": context.peer_identities(),
                "key": context.peer_identity_key(),
                "auth": context.auth_context(),
                "metadata": [pair for pair in context.invocation_metadata() if pair.key.startswith("x-")],
            }
        )
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return b""

    async def UnaryReadOn(self, request: bytes, context: Any) -> bytes:
        self.events.append(await context.read() is EOF)
        return b""

    async def UnaryWord(self, request: bytes, context: Any) -> bytes:
        word = WORD.get()
        WORD.set("changed by a handler")
        return word.encode()

    async def UnaryWait(self, request: bytes, context: Any) -> bytes:
        """Until released or cancelled."""
        context.add_done_callback(self._done)
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return request

    async def UnaryStubborn(self, request: bytes, context: Any) -> bytes:
        """Until released, whoever cancels it."""
        self.entered.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.events.append("cancelled")
        self.ended.set()
        return request

    async def UnaryCleanUp(self, request: bytes, context: Any) -> bytes:
        self.entered.set()
        try:
            await self.release.wait()
        finally:
            await asyncio.sleep(0)
            self.events.append("cleaned up")
            self.ended.set()
        return request

    async def UnaryWaitAndTell(self, request: bytes, context: Any) -> bytes:
        self.entered.set()
        try:
            await self.release.wait()
        finally:
            self.events.append((context.done(), context.cancelled(), context.why_cancelled()))
            self.ended.set()
        return b""

    # where grpcio leaves the caller waiting

    async def UnaryUnprintable(self, request: bytes, context: Any) -> bytes:
        raise Unprintable

    async def UnaryCancelled(self, request: bytes, context: Any) -> bytes:
        raise asyncio.CancelledError

    async def UnaryAbortOk(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OK, "well")
        return b""

    # unary-stream

    async def DownCount(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def DownWrite(self, request: bytes, context: Any) -> None:
        for number in range(int(request)):
            await context.write(b"%d" % number)

    async def DownBoth(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.write(b"written")
        yield b"yielded"

    async def DownRaise(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("boom")

    async def DownAbort(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await context.abort(grpc.StatusCode.ABORTED, "why")

    async def DownCode(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("mine")

    async def DownWriteAbort(self, request: bytes, context: Any) -> None:
        try:
            await context.abort(grpc.StatusCode.ABORTED, "why")
        except grpc.aio.AbortError:
            pass
        try:
            await context.write(b"not sent")
        except grpc.aio.AbortError as error:
            self.events.append(str(error))

    async def DownInitialLate(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        try:
            await context.send_initial_metadata((("x-late", "yes"),))
        except grpc.aio.UsageError as error:
            self.events.append(str(error))

    async def DownForever(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(self._done)
        while True:
            self.events.append("sent")
            yield bytes(int(request))

    async def DownSlow(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(self._done)
        yield b"first"
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    # stream-unary

    async def UpJoin(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def UpRead(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        got = []
        while (request := await context.read()) is not EOF:
            got.append(request)
        self.events.append((await context.read() is EOF, [request async for request in requests]))
        return b",".join(got)

    async def UpMixed(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        first = await context.read()
        return b",".join([first, *[request async for request in requests]])

    async def UpEarly(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await anext(requests)

    async def UpWait(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        context.add_done_callback(self._done)
        self.entered.set()
        try:
            async for request in requests:
                self.events.append(request)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return b""

    # stream-stream

    async def BothEcho(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def BothReadWrite(self, requests: AsyncIterator[bytes], context: Any) -> None:
        while (request := await context.read()) is not EOF:
            await context.write(request)

    # for threads

    def UnarySync(self, request: bytes, context: Any) -> bytes:
        on_loop = threading.current_thread() is threading.main_thread()
        got = tuple((pair.key, pair.value) for pair in context.invocation_metadata() if pair.key.startswith("x-"))
        context.send_initial_metadata((("x-initial", "sync"),))
        context.set_trailing_metadata(got)
        self.events.append((on_loop, context.time_remaining(), type(context.peer())))
        return request

    def UnarySyncCode(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("mine")
        return b""

    def UnarySyncAbort(self, request: bytes, context: Any) -> bytes:
        try:
            context.abort(grpc.StatusCode.ABORTED, "why", (("x-why", "sync"),))
        except grpc.aio.AbortError as error:
            self.events.append(str(error))
            raise
        return b""

    def UnarySyncRaise(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("boom")

    def UnarySyncWait(self, request: bytes, context: Any) -> bytes:
        self.released.wait(20)
        return request

    def UnarySyncAbout(self, request: bytes, context: Any) -> bytes:
        self.events.append((isinstance(context, grpc.ServicerContext), context.is_active()))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("mine")
        context.set_trailing_metadata((("x-key", "1"),))
        self.events.append((context.code(), context.details(), context.trailing_metadata()))
        context.set_code(grpc.StatusCode.OK)
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        self.events.append(context.add_callback(lambda: self.events.append("called back")))
        return request

    def UnarySyncCancel(self, request: bytes, context: Any) -> bytes:
        self.events.append((context.cancel(), context.is_active(), context.cancel()))
        self.events.append(context.add_callback(lambda: None))
        return request

    def BothSyncBroken(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            yield from requests
        except grpc.RpcError as error:
            self.events.append(str(error))
            raise
        finally:
            self.released.set()

    def DownSync(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def DownSyncRaise(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("boom")

    def UpSync(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b",".join(requests)

    def BothSync(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            yield from requests
        finally:
            self.released.set()

    def _done(self, context: Any) -> None:
        self.events.append("done")
        self.ended.set()
