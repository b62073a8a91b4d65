"""One line for each event that is worth an operator's time, as text or JSON, with the node's name."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
# Characters of one field: a peer chooses some of them.
_MOST: Final = 500


class Log:
    """The log of one node. Fields are `key=value` behind the event's words."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._logger = logging.getLogger("ipcd")

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
        if self._logger.isEnabledFor(level):
            words = " ".join([event, *(f"{key}={_text(value)}" for key, value in fields.items())])
            extra = {"node": self.node, "event": event, "fields": fields}
            self._logger.log(level, "%s: %s", self.node, words, extra=extra)


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
