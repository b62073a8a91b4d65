"""How a command fails: an exit code, a code word for programs, and words for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click
import grpc

from ipcd_client.errors import ConfigError, IpcdError, NoDaemon

OK: Final = 0
NO: Final = 1  # the answer is no
USAGE: Final = 2
NO_DAEMON: Final = 3
CALL_FAILED: Final = 4
BUG: Final = 70  # sysexits.h: internal software error
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


class Failure(Exception):
    """Ends a command. `code` is the gRPC status where there is one, else a word of this program's own, such as
    NO_SERVER; `facts` are more members of the JSON object."""

    def __init__(self, text: str, code: str, exit_code: int, **facts: Any) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.exit_code = exit_code
        self.facts = facts

    def as_json(self) -> dict[str, Any]:
        """What -o json prints on standard error."""
        return {"error": self.text, "code": self.code, "exit": self.exit_code, **self.facts}


class WrongUsage(Failure):
    """The command line, or the input, is wrong."""

    def __init__(self, text: str, **facts: Any) -> None:
        super().__init__(text, "USAGE", USAGE, **facts)


def from_error(error: Exception, doing: str = "") -> Failure | None:
    """What an exception of the libraries means here; None if it is none that is expected.

    `doing` is put before the text, such as the method that was called.
    """
    before = f"{doing}: " if doing else ""
    if isinstance(error, Failure):
        return error
    if isinstance(error, click.ClickException):
        return WrongUsage(error.format_message())
    for cause in _chain(error):
        if isinstance(cause, NoDaemon):
            return Failure(
                str(cause), "NO_DAEMON", NO_DAEMON, socket=cause.path, start=f"ipcd run --socket {cause.path}"
            )
    if isinstance(error, ConfigError):
        return WrongUsage(before + str(error))
    if isinstance(error, IpcdError):
        return Failure(f"{before}{error.code.name}: {error}", error.code.name, CALL_FAILED, details=str(error))
    if isinstance(error, grpc.RpcError):
        return _from_call(error, before)
    return None


def _from_call(error: Any, before: str) -> Failure:
    code, details = error.code().name, error.details() or ""
    trailing = [[key, shown(value)] for key, value in error.trailing_metadata() or ()]
    facts = {"details": details} | ({"trailing_metadata": trailing} if trailing else {})
    return Failure(f"{before}{code}: {details}" if details else f"{before}{code}", code, CALL_FAILED, **facts)


def shown(value: str | bytes) -> str:
    """A metadata value in text: bytes in base64, as they travel in gRPC."""
    if isinstance(value, str):
        return value
    from base64 import b64encode

    return b64encode(value).decode()


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
