"""The demo's client process: one road to the service; told what to do by lines of JSON on standard input.

It begins with a line that says which transport was taken and why, or `{"error": TEXT}`. After that

    {"do": "work", "server_pid": N}   the real work, once; says what was found
    {"do": "turn", "seconds": S, "bytes": B, "keep": true}   echoes of B bytes, S seconds long; their median
    {"do": "summary", "bytes": B}     over the turns that were kept

are each answered with a line, a failure with an error as above. At the end of its input the process ends, so it
never outlives who started it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import grpc

from ipcd.demo.library import Library
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
from ipcd.demo.roads import Road, along
from ipcd.demo.timing import Samples
from ipcd.demo.work import WrongAnswerError, do_all, rpc_error_text


class Worker:
    """Carries out the commands over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = lab_pb2_grpc.LabStub(channel)
        self._library = Library()
        self._samples: dict[int, Samples] = {}  # by size

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "work":
                findings = do_all(self._stub, self._library, command["server_pid"])
                return {"findings": [asdict(finding) for finding in findings]}
            case "turn":
                return self._turn(command["seconds"], command["bytes"], command["keep"])
            case "summary":
                return asdict(self._samples[command["bytes"]].summary())
            case other:
                raise ValueError(f"no command {other!r}")

    def _turn(self, seconds: float, size: int, keep: bool) -> dict[str, Any]:
        request = lab_pb2.Payload(data=os.urandom(size))
        echo = partial(self._stub.Echo, request)
        if echo() != request:
            raise WrongAnswerError("an echo came back altered")
        samples = self._samples.setdefault(size, Samples()) if keep else Samples()
        return {"p50_us": samples.turn(echo, seconds)}


def main() -> None:
    road = Road(**json.loads(sys.argv[1]))
    try:
        with along(road) as (channel, took):
            say(asdict(took))
            worker = Worker(channel)
            for line in sys.stdin:
                say(worker.do(json.loads(line)))
    except Exception as error:
        # Whatever it is, it is told to who can act on it; where it came from stands in this process's log.
        say({"error": rpc_error_text(error) if isinstance(error, grpc.RpcError) else str(error) or repr(error)})
        raise


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
