"""The demo's real work, done once through a stub: each kind of call, and its answer checked.

The truth that an answer is checked against is made here, without any RPC, from the same files: digests by
hashlib directly, searches and sessions by `library`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import grpc

from ipcd.demo.library import Library, Session
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc

FILE = "_pydecimal.py"  # the largest module at the top of the library in CPython 3.11 to 3.13: some 230 kB
SECOND_FILE = "typing.py"
CHUNK = 16 << 10  # bytes
PATTERN = r"^class (\w+)\(\w*(Error|Exception)\):"
GLOB = "*.py"
SCRIPT = (
    "cd json",
    "ls *.py",
    "stat decoder.py",
    'grep "^def " decoder.py',
    "digest decoder.py",
    "cd ../..",  # out of the library: refused, and the session goes on
    "quit",
)
TIMEOUT = 10.0  # seconds for each call


@dataclass(frozen=True, slots=True)
class Finding:
    """What one call gave. `detail` is the same whatever road it took; `wrong` is empty where it was right."""

    what: str
    detail: str
    wrong: str = ""


class WrongAnswerError(Exception):
    """An answer that is not the truth."""


def do_all(stub: lab_pb2_grpc.LabStub, library: Library, server_pid: int) -> list[Finding]:
    """Each kind of call once. One that fails or answers wrongly is a finding; the others are still made."""
    return [
        _found("identity", lambda: _identity(stub, server_pid)),
        _found("unary", lambda: _unary(stub, library)),
        _found("client streaming", lambda: _client_streaming(stub, library)),
        _found("server streaming", lambda: _server_streaming(stub, library)),
        _found("bidirectional", lambda: _bidirectional(stub, library)),
        _found("a bad request", lambda: _refused(stub)),
    ]


def _found(what: str, work: Callable[[], str]) -> Finding:
    try:
        return Finding(what, work())
    except WrongAnswerError as wrong:
        return Finding(what, "", wrong=str(wrong))
    except grpc.RpcError as error:
        return Finding(what, "", wrong=rpc_error_text(error))


def rpc_error_text(error: Exception) -> str:
    """Status and details of a failed call; an RpcError need not be a Call, and then has neither."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else repr(error)


def _check(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise WrongAnswerError(f"{what} is {got!r}, not {expected!r}")


def _identity(stub: lab_pb2_grpc.LabStub, server_pid: int) -> str:
    """That it is the server meant that answers: along a wrong road the figures would be another's."""
    reply = stub.Identity(lab_pb2.IdentityRequest(), timeout=TIMEOUT)
    _check("the server's process", reply.pid, server_pid)
    return "answered by the process that the demo started for it"


def _unary(stub: lab_pb2_grpc.LabStub, library: Library) -> str:
    data = library.read(FILE)
    reply = stub.Digest(lab_pb2.DigestRequest(data=data, algorithm="sha256"), timeout=TIMEOUT)
    _check("the size", reply.size, len(data))
    _check("the digest", reply.hex, hashlib.sha256(data).hexdigest())
    return f"sha256 of {FILE}, {len(data):,} bytes: {reply.hex[:12]}..., as hashlib says"


def _client_streaming(stub: lab_pb2_grpc.LabStub, library: Library) -> str:
    data = library.read(FILE) + library.read(SECOND_FILE)
    count = -(-len(data) // CHUNK)

    def chunks() -> Iterator[lab_pb2.Chunk]:
        for start in range(0, len(data), CHUNK):
            yield lab_pb2.Chunk(data=data[start : start + CHUNK], algorithm="blake2b" if start == 0 else "")

    reply = stub.DigestStream(chunks(), timeout=TIMEOUT)
    _check("the size", reply.size, len(data))
    _check("the digest", reply.hex, hashlib.blake2b(data).hexdigest())
    return f"blake2b of {FILE} and {SECOND_FILE} in {count} chunks: {reply.hex[:12]}..., as hashlib says"


def _server_streaming(stub: lab_pb2_grpc.LabStub, library: Library) -> str:
    request = lab_pb2.SearchRequest(pattern=PATTERN, glob=GLOB)
    got = [(match.file, match.line, match.text) for match in stub.Search(request, timeout=TIMEOUT)]
    truth = [(hit.file, hit.line, hit.text) for hit in library.search(PATTERN, GLOB)]
    _check("the number of matches", len(got), len(truth))
    for one, other in zip(got, truth, strict=True):
        _check("a match", one, other)
    return f"{len(got)} lines of {GLOB} define an exception; file, line and text of each as found without RPC"


def _bidirectional(stub: lab_pb2_grpc.LabStub, library: Library) -> str:
    got = converse(stub, SCRIPT)
    session = Session(library)
    for number, line in enumerate(SCRIPT, 1):
        truth = [(number, reply.text, reply.last, reply.error) for reply in session.answer(line)]
        _check(f"the answer to {line!r}", got.get(number), truth)
    count = sum(map(len, got.values()))
    return f"{len(SCRIPT)} commands, each sent after the answer to the one before: {count} replies, as expected"


def converse(stub: lab_pb2_grpc.LabStub, lines: tuple[str, ...]) -> dict[int, list[tuple[int, str, bool, str]]]:
    """A session in lock-step: the replies (sequence, text, last, error) by the sequence number they bear."""
    following: SimpleQueue[lab_pb2.SessionRequest | None] = SimpleQueue()

    def requests() -> Iterator[lab_pb2.SessionRequest]:
        while True:
            try:
                # Bounded: the runtime's thread that draws on this must not outlive a call that failed.
                request = following.get(timeout=TIMEOUT)
            except Empty:
                return
            if request is None:
                return
            yield request

    unsent = iter([lab_pb2.SessionRequest(sequence=n, line=line) for n, line in enumerate(lines, 1)])
    following.put(next(unsent, None))
    got: dict[int, list[tuple[int, str, bool, str]]] = {}
    try:
        for reply in stub.Session(requests(), timeout=TIMEOUT):
            got.setdefault(reply.sequence, []).append((reply.sequence, reply.text, reply.last, reply.error))
            if reply.last:
                following.put(next(unsent, None))
    finally:
        following.put(None)
    return got


def _refused(stub: lab_pb2_grpc.LabStub) -> str:
    """An error is an answer too: status and details must come through as the servicer gave them."""
    try:
        list(stub.Search(lab_pb2.SearchRequest(pattern="(unclosed"), timeout=TIMEOUT))
    except grpc.RpcError as error:
        text = rpc_error_text(error)
        _check(
            "the error",
            text,
            "INVALID_ARGUMENT: bad pattern at position 0: missing ), unterminated subpattern",
        )
        return text
    raise WrongAnswerError("a pattern that is no regular expression was accepted")
