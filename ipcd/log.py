"""One line for each event that is worth an operator's time, as text or JSON, with the node's name."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from ipcd import limits
from ipcd.state.quota import Lines

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
# Characters of one field: a peer chooses some of them.
_MOST: Final = 500


# Whose doing a line is, by its fields; the first that is there. Lines of one event about one of them are bounded.
_SUBJECTS: Final = ("uid", "pid", "caller", "peer", "address", "server")


class Log:
    """The log of one node. Fields are `key=value` behind the event's words.

    No peer can fill it: of one event about one peer so many lines are written and no more, and then how many were left
    out. `later`: calls a function after some seconds, so that this is said also when nothing else is.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.later: Callable[[float, Callable[[], None]], Any] | None = None
        self._logger = logging.getLogger("ipcd")
        self._lines = Lines(*limits.LINES)
        self._lines_of_all = Lines(*limits.LINES_OF_ALL)
        self._told_later = False

    def debug(self, event: str, /, **fields: object) -> None:
        """For developers."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something happened as it should."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Somebody may want to look."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something does not work."""
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now = time.monotonic()
        if level > logging.DEBUG and not (
            self._lines.allow(event, _subject(fields), level, now) and self._lines_of_all.allow(event, "", level, now)
        ):
            if not self._told_later and self.later is not None:
                self._told_later = True
                self.later(limits.LINES_TOLD, self._tell)
            return
        self._write(level, event, fields)

    def _tell(self) -> None:
        self._told_later = False
        self.tell_left_out(limits.LINES_TOLD / 2)
        if self.later is not None and (self._lines.waiting or self._lines_of_all.waiting):
            self._told_later = True
            self.later(limits.LINES_TOLD, self._tell)

    def tell_left_out(self, age: float = 0.0) -> None:
        """Says how many lines were left out since `age` seconds or longer ago."""
        now = time.monotonic()
        for lines in (self._lines, self._lines_of_all):
            for event, subject, count, level in lines.over(now, age):
                fields: dict[str, object] = {"about": subject} if subject else {}
                self._write(level, event, fields | {"reason": f"{count} more like this were left out"})

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        words = " ".join([event, *(f"{key}={_text(value)}" for key, value in fields.items())])
        extra = {"node": self.node, "event": event, "fields": fields}
        self._logger.log(level, "%s: %s", self.node, words, extra=extra)


def _subject(fields: dict[str, object]) -> str:
    for name in _SUBJECTS:
        if name in fields:
            value = str(fields[name])[:_MOST]
            if name == "uid":
                return f"pid {fields.get('pid', 0)} (uid {value})"
            # Of HOST:PORT the port is another with each connection.
            host, colon, port = value.rpartition(":")
            return host if colon and port.isdecimal() else value if name != "pid" else f"pid {value}"
    return ""


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)[:_MOST]
    return json.dumps(text) if not text or not text.isprintable() or any(c in text for c in ' "=') else text


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {"time": _time(record), "level": record.levelname.lower()}
        event = getattr(record, "event", None)
        if event is None:
            entry |= {"logger": record.name, "event": record.getMessage()}
        else:
            entry |= {"node": getattr(record, "node", ""), "event": event, **getattr(record, "fields", {})}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=lambda value: str(value)[:_MOST])


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up(format_: str, level: str) -> None:
    """Logs of the daemon and of the libraries below it go to standard error. For the process that is the daemon."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """`level` is one of `LEVELS`."""
    logging.getLogger("ipcd").setLevel(level.upper())
    # The library warns of each request that does not parse: here, peers could fill the log with those.
    logging.getLogger("ipcd_client").setLevel("DEBUG" if level == "debug" else "ERROR")
    # It shows a traceback for each packet that a network which is away does not take.
    logging.getLogger("zeroconf").setLevel("ERROR")
