"""A gRPC server as far as HTTP/2's frames go: it shows how the requests of a call end.

python frames_server.py PATH

Listens at a UNIX socket, for one connection. Calls whose requests end are answered UNIMPLEMENTED. Of others, the first
request is a line "begun", and what comes after the last one is "reset" or "ended". No server of a gRPC library tells
these apart without fail: for some, a call that is cancelled has its requests end first.
"""

from __future__ import annotations

import socket
import struct
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
ACK = END_STREAM = 1
END_HEADERS = 4
# :status 200, content-type and grpc-status, each as a literal that is not indexed (RFC 7541, 6.2.2).
UNIMPLEMENTED = b"\x88" + b"".join(
    b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    for name, value in ((b"content-type", b"application/grpc"), (b"grpc-status", b"12"))
)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, 4.1."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def serve(connection: socket.socket) -> None:
    """Until the client is gone."""
    begun: set[int] = set()
    with connection, connection.makefile("rb") as reader:
        assert reader.read(len(PREFACE)) == PREFACE
        connection.sendall(frame(SETTINGS, 0, 0))
        while len(head := reader.read(9)) == 9:
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = reader.read(int.from_bytes(head[:3], "big"))
            if kind in {SETTINGS, PING} and not flags & ACK:
                connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == RST_STREAM and stream in begun:
                print("reset", flush=True)
            elif kind in {DATA, HEADERS} and flags & END_STREAM:
                if stream in begun:
                    print("ended", flush=True)
                connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, stream, UNIMPLEMENTED))
            elif kind == DATA and payload and stream not in begun:
                begun.add(stream)
                print("begun", flush=True)


def main() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print(0, flush=True)
        serve(listener.accept()[0])


if __name__ == "__main__":
    main()
