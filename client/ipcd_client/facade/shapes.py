"""grpc's classes with the parameters that only type checkers know: at run time they take none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Future = grpc.Future[Any]
    UnaryUnaryBase = grpc.UnaryUnaryMultiCallable[Any, Any]
    UnaryStreamBase = grpc.UnaryStreamMultiCallable[Any, Any]
    StreamUnaryBase = grpc.StreamUnaryMultiCallable[Any, Any]
    StreamStreamBase = grpc.StreamStreamMultiCallable[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Future = grpc.Future
    UnaryUnaryBase = grpc.UnaryUnaryMultiCallable
    UnaryStreamBase = grpc.UnaryStreamMultiCallable
    StreamUnaryBase = grpc.StreamUnaryMultiCallable
    StreamStreamBase = grpc.StreamStreamMultiCallable

__all__ = [
    "Future",
    "Handler",
    "StreamStreamBase",
    "StreamUnaryBase",
    "UnaryStreamBase",
    "UnaryUnaryBase",
]
