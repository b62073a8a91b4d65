"""Ends of pipes whose bytes the pipe's home carries, for programs that have a channel to a gateway only: raw files of
threads."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import grpc

from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import Broken
from ipcd_client.primitives.loop_carried import failed
from ipcd_client.primitives.pipe_reader import PIECE, WINDOW
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.waiting import first

if TYPE_CHECKING:
    from typing_extensions import Buffer

_AHEAD: Final = WINDOW


class CarriedReader(io.RawIOBase):
    """Reads from the answers of `Pipe.Read`."""

    def __init__(self, place: Place, wait: float | None) -> None:
        self.name = place.name
        self.mode = "rb"
        self._rest = memoryview(b"")
        try:
            self._call: Any = place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, place.text, wait))
        except BaseException:
            super().close()
            raise

    @staticmethod
    def _begin(stub: Any, name: str, wait: float | None) -> Any:
        call = stub.Read(pipe_pb2.PipeRead(name=name, wait=wait))
        first(call, wait)
        return call

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """0 is the end of the file."""
        if self.closed:
            raise ValueError("read of closed pipe")
        view = memoryview(buffer).cast("B")
        if not self._rest:
            try:
                answer = next(self._call, None)
            except grpc.RpcError as error:
                raise failed(error) from error
            if answer is None:
                return 0
            self._rest = memoryview(answer.data)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Ends the call."""
        if not self.closed:
            super().close()
            self._call.cancel()


class CarriedWriter(io.RawIOBase):
    """Writes by the requests of `Pipe.Write`."""

    def __init__(self, place: Place, wait: float | None) -> None:
        self.name = place.name
        self.mode = "wb"
        self._changed = threading.Condition()
        self._queue: deque[pipe_pb2.PipeWrite] = deque()
        self._ahead = 0  # bytes that are not answered
        self._ending = False
        self._over = False
        self._error: Exception | None = None
        try:
            self._call: Any = place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, place.text, wait))
        except BaseException:
            self._end_requests()
            super().close()
            raise
        self._thread = threading.Thread(target=self._follow, name="ipcd-pipe", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._end_requests()
            self._call.cancel()
            super().close()
            raise

    def _begin(self, stub: Any, name: str, wait: float | None) -> Any:
        self._queue.append(pipe_pb2.PipeWrite(name=name, wait=wait))
        call = stub.Write(self._requests())
        first(call, wait)
        return call

    def _requests(self) -> Iterator[pipe_pb2.PipeWrite]:
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    self._changed.wait()
                if not self._queue:
                    return
                request = self._queue.popleft()
            yield request

    def _end_requests(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def _follow(self) -> None:
        try:
            for written in self._call:
                with self._changed:
                    self._ahead -= written.bytes
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self._error = failed(error)
        with self._changed:
            self._over = True
            self._ending = True
            self._changed.notify_all()

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        """Raises: BrokenPipeError: nobody reads the pipe any more."""
        if self.closed:
            raise ValueError("write to closed pipe")
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            piece = bytes(view[start : start + PIECE])
            with self._changed:
                while self._ahead >= _AHEAD and not self._over:
                    self._changed.wait()
                self._check()
                self._ahead += len(piece)
                self._queue.append(pipe_pb2.PipeWrite(data=piece))
                self._changed.notify_all()
        return len(view)

    def close(self) -> None:
        """Waits until the readers have all. Raises: BrokenPipeError: nobody reads the pipe any more."""
        if self.closed:
            return
        super().close()
        try:
            self._end_requests()
            self._thread.join()
            # The home may have said of all that it is written, and that some of it is lost only at the end.
            if self._ahead or self._error is not None:
                self._check()
        finally:
            self._call.cancel()

    def _check(self) -> None:
        if self._over:
            raise self._error or Broken(f"nobody reads the pipe {self.name} any more")
