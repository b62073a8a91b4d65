"""`lab.v1.Lab` as an ordinary gRPC servicer: messages to `library` and back, refusals to status codes."""

# ruff: noqa: N802 - the methods are named as in the .proto

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import NoReturn

import grpc

from ipcd.demo.library import Digest, Digester, LabError, Library, Session, digest
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc

SERVICE = "lab.v1.Lab"


class LabServicer(lab_pb2_grpc.LabServicer):
    """Thread-safe: what a call keeps, it keeps in its own locals."""

    def __init__(self, library: Library | None = None, name: str = "") -> None:
        self._library = library or Library()
        self._name = name

    def Digest(self, request: lab_pb2.DigestRequest, context: grpc.ServicerContext) -> lab_pb2.DigestReply:
        try:
            return _digest_reply(digest(request.data, request.algorithm))
        except LabError as error:
            _abort(context, error)

    def DigestStream(
        self, request_iterator: Iterator[lab_pb2.Chunk], context: grpc.ServicerContext
    ) -> lab_pb2.DigestReply:
        try:
            first = next(request_iterator, lab_pb2.Chunk())
            digester = Digester(first.algorithm)
            digester.update(first.data)
            for chunk in request_iterator:
                digester.update(chunk.data)
            return _digest_reply(digester.result())
        except LabError as error:
            _abort(context, error)

    def Search(self, request: lab_pb2.SearchRequest, context: grpc.ServicerContext) -> Iterator[lab_pb2.Match]:
        try:
            for hit in self._library.search(request.pattern, request.glob, request.limit, context.is_active):
                yield lab_pb2.Match(file=hit.file, line=hit.line, text=hit.text)
        except LabError as error:
            _abort(context, error)

    def Session(
        self, request_iterator: Iterator[lab_pb2.SessionRequest], context: grpc.ServicerContext
    ) -> Iterator[lab_pb2.SessionReply]:
        session = Session(self._library)
        try:
            for request in request_iterator:
                for reply in session.answer(request.line):
                    yield lab_pb2.SessionReply(
                        sequence=request.sequence, text=reply.text, last=reply.last, error=reply.error
                    )
                if session.ended:
                    return
        except LabError as error:
            _abort(context, error)

    def Echo(self, request: lab_pb2.Payload, _context: grpc.ServicerContext) -> lab_pb2.Payload:
        return request

    def Identity(self, _request: lab_pb2.IdentityRequest, _context: grpc.ServicerContext) -> lab_pb2.IdentityReply:
        return lab_pb2.IdentityReply(name=self._name, pid=os.getpid(), python=platform.python_version())


def _digest_reply(found: Digest) -> lab_pb2.DigestReply:
    return lab_pb2.DigestReply(algorithm=found.algorithm, hex=found.hex, size=found.size)


def _abort(context: grpc.ServicerContext, error: LabError) -> NoReturn:
    context.abort(error.code, str(error))
    raise AssertionError("abort raises")  # its annotation does not say so everywhere
