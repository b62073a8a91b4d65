"""How long a call may wait, and for how long its answer is waited for: the same for all kinds, both faces, and those
who answer.

What `answer`, `first` and their like fail with is a `grpc.RpcError`, as all that a call fails with: `Place.run` makes
the error of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from time import monotonic
from typing import Any, Final

import grpc
from grpc.aio import EOF

from ipcd_client.errors import IpcdError
from ipcd_client.primitives.errors import BadRequest, from_status

# Seconds for an answer beyond the time that a call may wait.
MARGIN: Final = 10.0
# The longest time to wait, in seconds: three years. There is no clock here that would not take it.
LONGEST: Final = 1e8
# Seconds for the first request of a call to come.
FIRST: Final = 10.0


class Unanswered(grpc.RpcError):
    """A call that ended here, or at the other end without what was due."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """How the call has failed."""
        return self._code

    def details(self) -> str:
        """The same in words."""
        return self._details


def checked(wait: float | None) -> float | None:
    """A time to wait, in seconds; None is for ever.

    Raises:
        BadRequest: it is negative, no number, or has no end.
    """
    if wait is not None and not 0 <= wait <= LONGEST:
        raise BadRequest(f"{wait:g} is no number of seconds to wait: that is 0 to {LONGEST:g}, or unset, for ever")
    return wait


def wait_of(request: Any) -> float | None:
    """What a request says in its `optional double wait`.

    Raises:
        BadRequest: as `checked`.
    """
    return checked(request.wait) if request.HasField("wait") else None


def deadline_of(wait: float | None, margin: float | None = None) -> float | None:
    """The timeout in seconds of a call that may wait so long: the other end says that the time is over, and only where
    it does not answer does the call itself end. `margin`: seconds beyond that; MARGIN where none is said.

    Raises:
        BadRequest: as `checked`.
    """
    wait = checked(wait)
    return None if wait is None else wait + (MARGIN if margin is None else margin)


def ends_at(wait: float | None) -> float | None:
    """When a wait that begins now is over, by time.monotonic(), which is also the time of an event loop.

    Raises:
        BadRequest: as `checked`.
    """
    wait = checked(wait)
    return None if wait is None else monotonic() + wait


def left_until(end: float | None) -> float | None:
    """Seconds until then; 0 if that is over."""
    return None if end is None else max(0.0, end - monotonic())


# -- the answers of a stream, for threads -------------------------------------------------------------


def answer(call: Any, seconds: float | None) -> Any:
    """The next answer of a call; None where it has ended well. Where none comes in so many seconds the call is ended.

    Raises:
        grpc.RpcError: what the call has failed with; DEADLINE_EXCEEDED where no answer came.
    """
    if seconds is None:
        return next(call, None)
    comes = getattr(call, "await_response", None)
    if comes is None:
        return _timed(call, seconds)
    come = False
    try:
        come = comes(seconds)
    finally:
        if not come:
            call.cancel()
    if not come:
        raise late(seconds)
    return next(call, None)


def first(call: Any, wait: float | None) -> Any:
    """The first answer of a call that waits for so long before it gives one.

    Raises:
        grpc.RpcError: as `answer`; UNAVAILABLE where the call has ended without any.
    """
    try:
        return _given(answer(call, deadline_of(wait)))
    except BaseException:
        call.cancel()
        raise


def until_end(call: Any) -> None:
    """The rest of a call that is about to end, whose answers do not matter.

    Raises:
        grpc.RpcError: as `answer`.
    """
    end = ends_at(MARGIN)
    while answer(call, left_until(end)) is not None:
        pass


def _timed(call: Any, seconds: float) -> Any:
    """Of a call of grpcio's, that knows no time for one answer."""
    over = threading.Event()

    def end() -> None:
        over.set()
        call.cancel()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        return next(call, None)
    except grpc.RpcError as error:
        if over.is_set():
            raise late(seconds) from error
        raise
    finally:
        timer.cancel()
        timer.join()


# -- the same, for event loops ------------------------------------------------------------------------


async def loop_answer(call: Any, seconds: float | None) -> Any:
    """The next answer of a call that is read by `read`. (answer)"""
    try:
        async with asyncio.timeout(seconds):
            return await _read(call)
    except TimeoutError:
        call.cancel()
        assert seconds is not None
        raise late(seconds) from None


async def loop_first(call: Any, wait: float | None, request: Any = None) -> Any:
    """The first answer of a call. (first) `request`: of a stream of them, the first one, which is sent before."""
    seconds = deadline_of(wait)
    try:
        async with asyncio.timeout(seconds):
            if request is not None:
                with contextlib.suppress(asyncio.InvalidStateError):  # it has ended: reading says why
                    await call.write(request)
            return _given(await _read(call))
    except TimeoutError:
        call.cancel()
        assert seconds is not None
        raise late(seconds) from None
    except BaseException:
        call.cancel()
        raise


async def loop_until_end(call: Any) -> None:
    """Ends the requests of a call, and takes the rest of its answers. (until_end)"""
    seconds = MARGIN
    try:
        async with asyncio.timeout(seconds):
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended: reading says why
                await call.done_writing()
            while await _read(call) is not None:
                pass
    except TimeoutError:
        call.cancel()
        raise late(seconds) from None


async def _read(call: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    try:
        reply = await call.read()
    except asyncio.CancelledError:
        # Of the call, which its owner has ended, and not of this task.
        if task.cancelling() or not call.done():
            raise
        raise Unanswered(grpc.StatusCode.CANCELLED, "the call was cancelled") from None
    if reply is not EOF:
        return reply
    # Some have `read` say so of every end.
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise Unanswered(code, await call.details() or "")
    return None


# -- for those who answer -----------------------------------------------------------------------------


async def first_request(context: Any) -> Any:
    """The first request of a call.

    Raises:
        BadRequest: none came in `FIRST` seconds, or none will.
    """
    try:
        async with asyncio.timeout(FIRST):
            request = await context.read()
    except TimeoutError:
        raise no_request() from None
    if request is EOF:
        raise BadRequest("the call has no request")
    return request


def no_request() -> BadRequest:
    """What a call fails with whose first request has not come in time."""
    return BadRequest(f"no request came within {FIRST:g} s")


def _given(reply: Any) -> Any:
    if reply is None:
        raise Unanswered(grpc.StatusCode.UNAVAILABLE, "the node has ended the call")
    return reply


def late(seconds: float) -> Unanswered:
    """What a call fails with that was not answered in so many seconds."""
    return Unanswered(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer came within {seconds:g} s")


def unanswered(seconds: float | None) -> IpcdError:
    """The same as the error of a caller that does not go by `Place.run`."""
    failed = late(seconds or 0.0)
    return from_status(failed.code(), failed.details())
