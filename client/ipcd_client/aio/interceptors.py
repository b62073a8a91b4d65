"""Calls that go through a channel's interceptors: they exist before the call that the interceptors make in the end.

grpc.aio's own classes for this make calls of grpc.aio's channel only.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc.aio import EOF, AioRpcError, ClientCallDetails, Metadata, UsageError

from ipcd_client.rpc import status

if TYPE_CHECKING:
    from ipcd_client.aio.multicallable import Method

_NO_MORE: Final = object()
_MIXED: Final = "The iterator and read/write APIs may not be mixed on a single RPC."


def intercepted(
    method: Method,
    interceptors: Sequence[Any],
    request: Any,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> Any:
    """A call of that method, which the interceptors may change, replace or refuse."""
    given = metadata if isinstance(metadata, Metadata) else Metadata(*(metadata or ()))
    # The name as bytes: as of grpc.aio, whatever its types say.
    name: Any = method.method.encode()
    details = ClientCallDetails(name, timeout, given, credentials, wait_for_ready)
    kind, hook = _KINDS[method.request_streaming, method.response_streaming]
    return kind(method, [getattr(interceptor, hook) for interceptor in interceptors], details, request)


class _Intercepted(grpc.aio.Call):
    """What the four have in common. The task's result is the call that came out of it; or, instead of one, a response
    or an iterator of responses."""

    def __init__(self, method: Method, hooks: Sequence[Callable[..., Any]], details: Any, request: Any) -> None:
        self._method = method
        self._hooks = hooks
        self._callbacks: list[Callable[[], None]] = []
        self._task = asyncio.get_running_loop().create_task(self._run(0, details, self._requests(request)))
        self._task.add_done_callback(self._made)

    def _requests(self, request: Any) -> Any:
        return request

    async def _run(self, index: int, details: Any, request: Any) -> Any:
        if index < len(self._hooks):
            return await self._hooks[index](functools.partial(self._run, index + 1), details, request)
        name = details.method if isinstance(details.method, str) else details.method.decode()
        return self._method.begin(
            name, request, details.timeout, details.metadata, details.credentials, details.wait_for_ready
        )

    def _made(self, task: asyncio.Task[Any]) -> None:
        callbacks, self._callbacks = self._callbacks, []
        call = None if task.cancelled() or task.exception() is not None else task.result()
        for callback in callbacks:
            if isinstance(call, grpc.aio.Call):
                call.add_done_callback(lambda _, callback=callback: callback())  # type: ignore[misc]
            else:
                callback()

    def _call(self) -> Any:
        """The call that came out; None while there is none, or where there will be none."""
        task = self._task
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        result = task.result()
        return result if isinstance(result, grpc.aio.Call) else None

    # -- grpc.RpcContext, grpc.aio.Call -----------------------------------------------------------

    def done(self) -> bool:
        call = self._call()
        return call.done() if call is not None else self._task.done()

    def cancelled(self) -> bool:
        call = self._call()
        if call is not None:
            return bool(call.cancelled())
        if not self._task.done() or self._task.cancelled():
            return self._task.cancelled()
        error = self._task.exception()
        return isinstance(error, AioRpcError) and error.code() is grpc.StatusCode.CANCELLED

    def cancel(self) -> bool:
        call = self._call()
        return bool(call.cancel()) if call is not None else self._task.cancel()

    def time_remaining(self) -> float | None:
        call = self._call()
        return call.time_remaining() if call is not None else None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        call = self._call()
        if call is not None:
            call.add_done_callback(lambda _: callback(self))
        elif self._task.done():
            callback(self)
        else:
            self._callbacks.append(functools.partial(callback, self))

    async def initial_metadata(self) -> Metadata:
        metadata: Metadata = await self._told("initial_metadata", Metadata())
        return metadata

    async def trailing_metadata(self) -> Metadata:
        metadata: Metadata = await self._told("trailing_metadata", Metadata())
        return metadata

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self._told("code", grpc.StatusCode.OK)
        return code

    async def details(self) -> str:
        details: str = await self._told("details", "")
        return details

    async def debug_error_string(self) -> str:
        """As of the call that came out."""
        text: str = await self._told("debug_error_string", "")
        return text

    async def _told(self, name: str, otherwise: Any) -> Any:
        """What the call says when asked for `name`; `otherwise`, where interceptors answered without one."""
        try:
            result = await asyncio.shield(self._task)
        except AioRpcError as error:
            return getattr(error, name)()
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return {"code": grpc.StatusCode.CANCELLED, "details": status.LOCALLY_CANCELLED}.get(name)
        return await getattr(result, name)() if isinstance(result, grpc.aio.Call) else otherwise

    async def wait_for_connection(self) -> None:
        result = await asyncio.shield(self._task)
        if isinstance(result, grpc.aio.Call):
            await result.wait_for_connection()


class _UnaryResponse(_Intercepted):
    def __await__(self) -> Generator[Any, None, Any]:
        result = yield from self._task.__await__()
        if isinstance(result, grpc.aio.Call):
            return (yield from result.__await__())  # type: ignore[attr-defined]
        return result


class _StreamResponse(_Intercepted):
    _iterator: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def _responses(self) -> AsyncIterator[Any]:
        async for response in await self._task:
            yield response

    async def read(self) -> Any:
        result = await self._task
        if isinstance(result, grpc.aio.Call):
            return await result.read()  # type: ignore[attr-defined]
        try:
            return await anext(aiter(self))
        except StopAsyncIteration:
            return EOF


class _StreamRequest(_Intercepted):
    """Without an iterator of the program's, interceptors get one of what it writes."""

    _written: asyncio.Queue[Any] | None = None
    _half_closed = False

    def _requests(self, request: Any) -> Any:
        if request is not None:
            return request
        self._written = asyncio.Queue(1)
        return self._read_written(self._written)

    @staticmethod
    async def _read_written(written: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (request := await written.get()) is not _NO_MORE:
            yield request

    async def write(self, request: Any) -> None:
        await self._put(request)

    async def done_writing(self) -> None:
        if not self._half_closed and not self.done():
            await self._put(_NO_MORE)
            self._half_closed = True

    async def _put(self, request: Any) -> None:
        if self._written is None:
            raise UsageError(_MIXED)
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._half_closed:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        putting = asyncio.ensure_future(self._written.put(request))
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(_: Any) -> None:
            if not over.done():
                over.set_result(None)

        self.add_done_callback(ended)
        try:
            # Nobody takes it any more once the call is over.
            await asyncio.wait((putting, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            if not putting.done():
                putting.cancel()
        if not putting.done() or putting.cancelled():
            await self.wait_for_connection()


class _UnaryUnary(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    pass


class _UnaryStream(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    pass


class _StreamUnary(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    pass


class _StreamStream(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    pass


# (requests are a stream, responses are)
_KINDS: Final[dict[tuple[bool, bool], tuple[type[_Intercepted], str]]] = {
    (False, False): (_UnaryUnary, "intercept_unary_unary"),
    (False, True): (_UnaryStream, "intercept_unary_stream"),
    (True, False): (_StreamUnary, "intercept_stream_unary"),
    (True, True): (_StreamStream, "intercept_stream_stream"),
}
