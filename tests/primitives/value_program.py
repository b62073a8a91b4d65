"""Does something with a value until it is killed: `value_program.py hold|wait|half SOCKET NAME`. Says "ready" when it
is in the middle of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import ipcd_client
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives.place import target_of

PIECE = 1 << 20


def main() -> None:
    deed, path, name = sys.argv[1:]
    with ipcd_client.value(name, node=path) as value:
        if deed == "hold":
            value.set(b"mine", ephemeral=True)
            print("ready", flush=True)
            value.keep()
        elif deed == "wait":
            known = value.get()
            print("ready", flush=True)
            print(bytes(value.wait(known)).decode(), flush=True)
        elif deed == "half":
            half(path, name)


def half(path: str, name: str) -> None:
    """Writes half of a value of 8 MiB, and not the rest."""

    def requests() -> Iterator[value_pb2.ValueSetRequest]:
        yield value_pb2.ValueSetRequest(name=name, size=8 * PIECE, data=bytes(PIECE))
        for _ in range(3):
            yield value_pb2.ValueSetRequest(name=name, data=bytes(PIECE))
        print("ready", flush=True)
        threading.Event().wait()

    with ipcd_client.channel(target_of(name.partition("@")[2]), node=path) as channel:
        value_pb2_grpc.ValueStub(channel).Write(requests())


if __name__ == "__main__":
    main()
