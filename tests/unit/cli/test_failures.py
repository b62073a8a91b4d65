from __future__ import annotations

from typing import Any

import click
import grpc
import pytest
from ipcd_client.cli import failures
from ipcd_client.cli.failures import Failure, from_error
from ipcd_client.errors import ConfigError, NoDaemon, NotAllowed, WireTimeout
from ipcd_client.rpc.failure import CallFailed


class CallError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str | None, trailing: Any = ()) -> None:
        self._values = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._values[0]

    def details(self) -> str | None:
        return self._values[1]

    def trailing_metadata(self) -> Any:
        return self._values[2]


def test_no_daemon_says_what_was_tried_and_what_to_do() -> None:
    failure = from_error(NoDaemon("/run/x.sock", "no such file"))
    assert failure is not None
    assert failure.as_json() == {
        "error": "no ipcd daemon at /run/x.sock (no such file); start one with: ipcd run --socket /run/x.sock",
        "code": "NO_DAEMON",
        "exit": 3,
        "socket": "/run/x.sock",
        "start": "ipcd run --socket /run/x.sock",
    }


def test_no_daemon_is_found_behind_the_error_of_a_call() -> None:
    error = CallError(grpc.StatusCode.UNAVAILABLE, "no ipcd daemon")
    error.__cause__ = NoDaemon("/x", "no such file")
    failure = from_error(error)
    assert failure is not None
    assert failure.exit_code == failures.NO_DAEMON


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "text"),
    [
        (WireTimeout("too late"), "DEADLINE_EXCEEDED", 4, "DEADLINE_EXCEEDED: too late"),
        (NotAllowed("uid 7, rule 2"), "PERMISSION_DENIED", 4, "PERMISSION_DENIED: uid 7, rule 2"),
        (CallFailed(grpc.StatusCode.UNAVAILABLE, "no server"), "UNAVAILABLE", 4, "UNAVAILABLE: no server"),
        (CallError(grpc.StatusCode.NOT_FOUND, "no file"), "NOT_FOUND", 4, "NOT_FOUND: no file"),
        (CallError(grpc.StatusCode.UNKNOWN, None), "UNKNOWN", 4, "UNKNOWN"),
        (ConfigError("IPCD_X=1: wrong"), "USAGE", 2, "IPCD_X=1: wrong"),
        (click.UsageError("no such option"), "USAGE", 2, "no such option"),
        (Failure("no", "NO_SERVER", 1), "NO_SERVER", 1, "no"),
    ],
)
def test_every_expected_error_has_its_code(error: Exception, code: str, exit_code: int, text: str) -> None:
    failure = from_error(error)
    assert failure is not None
    assert (failure.code, failure.exit_code, failure.text) == (code, exit_code, text)


def test_what_was_being_done_comes_first() -> None:
    failure = from_error(CallError(grpc.StatusCode.NOT_FOUND, "no file"), "lab.v1.Lab/Digest")
    assert failure is not None
    assert failure.text == "lab.v1.Lab/Digest: NOT_FOUND: no file"


def test_trailing_metadata_comes_along_with_bytes_in_base64() -> None:
    error = CallError(grpc.StatusCode.ABORTED, "", [("retry-after", "3"), ("why-bin", b"\0\1")])
    failure = from_error(error)
    assert failure is not None
    assert failure.facts == {"details": "", "trailing_metadata": [["retry-after", "3"], ["why-bin", "AAE="]]}


def test_the_unexpected_stays_so() -> None:
    assert from_error(ZeroDivisionError()) is None
