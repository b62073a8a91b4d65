"""What the processes of the benchmarks say to who started them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import grpc

LONGEST = 300  # characters of an error that are told


class ToldError(Exception):
    """What another process has told as its error: text for people, as it is."""


def say(answer: Mapping[str, Any]) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def error_text(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        text = f"{error.code().name}: {error.details()}"
    elif isinstance(error, ImportError):
        text = f"cannot be imported ({error})"
    elif isinstance(error, ToldError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else repr(error)
    return " ".join(text.split())[:LONGEST]
