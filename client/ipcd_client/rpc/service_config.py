"""gRPC's service config, as the channel option `grpc.service_config` gives it: JSON text.

What its fields mean, which are checked and with what words is grpcio's. Fields that have no meaning here, or that
grpcio does not look at (`hedgingPolicy`), are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from ipcd_client.errors import ConfigError

# Attempts of a call, whatever the policy says.
MOST_ATTEMPTS: Final = 5

_LONGEST: Final = 315_576_000_000  # seconds: gRPC's bound for a duration
_INTEGER: Final = re.compile(r"\s*[-+]?[0-9]+\s*\Z", re.ASCII)
_CODES: Final = {code.name: code for code in grpc.StatusCode}


class InvalidConfig(ConfigError):
    """It is no valid service config; the text says where and why."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a call is tried again. `attempts`: all in all. Times in seconds."""

    attempts: int
    initial_backoff: float
    max_backoff: float
    multiplier: float
    codes: frozenset[grpc.StatusCode]


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What holds for the calls of a method, None where nothing is said. `timeout` in seconds, the limits of messages in
    bytes. `error`: why there can be no calls at all."""

    timeout: float | None = None
    wait_for_ready: bool | None = None
    max_request: int | None = None
    max_response: int | None = None
    retry: RetryPolicy | None = None
    error: str = ""

    def within(self, timeout: float | None) -> float | None:
        """The caller's time-out, in seconds, no longer than the method's."""
        if self.timeout is None:
            return timeout
        return self.timeout if timeout is None else min(timeout, self.timeout)

    def sends(self, limit: int) -> int:
        """The channel's limit of a request in bytes, -1 for none, or the method's if that is lower."""
        return _lower(limit, self.max_request)

    def receives(self, limit: int) -> int:
        """The same of a response."""
        return _lower(limit, self.max_response)

    def waits(self, wait_for_ready: bool | None) -> bool | None:
        """Whether a call waits for a server; what the caller says comes first."""
        return self.wait_for_ready if wait_for_ready is None else wait_for_ready


def _lower(limit: int, other: int | None) -> int:
    if other is None:
        return limit
    return other if limit < 0 else min(limit, other)


@dataclass(frozen=True, slots=True)
class Throttling:
    """When a channel stops to try again. In thousandths of a token."""

    max_tokens: int
    token_ratio: int


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """`methods`: by "/service/method", "/service/", and "" for all others."""

    methods: Mapping[str, MethodConfig] = field(default_factory=dict)
    throttling: Throttling | None = None

    def of(self, method: str) -> MethodConfig | None:
        """What holds for a method, by its full path; None if nothing is said of it."""
        if not self.methods:
            return None
        service = method[: method.rfind("/") + 1]
        return self.methods.get(method) or self.methods.get(service) or self.methods.get("")


def given(text: str | bytes | None, target: str) -> ServiceConfig:
    """Of a channel to `target`. With a config that is not valid every call fails, as grpcio's do: the program has made
    the channel by then, and goes on with it."""
    if text is None:
        return ServiceConfig()
    try:
        return parse(text)
    except InvalidConfig as error:
        return ServiceConfig({"": MethodConfig(error=f"Failed to create channel to '{target}':{error}")})


def parse(text: str | bytes) -> ServiceConfig:
    """Takes the JSON text.

    Raises:
        InvalidConfig: it is no JSON, or what is in it is not valid.
    """
    try:
        # Numbers stay text, as which they may be written too.
        value = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"JSON parsing failed: [{error}]") from None
    errors = _Errors()
    config = ServiceConfig()
    if isinstance(value, dict):
        config = _config(_Node(value, "", errors))
    else:
        errors.add("", "is not an object")
    errors.check()
    return config


class _Number(str):
    """A number of JSON, as it is written."""

    __slots__ = ()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Errors:
    """What is wrong, by the path of the field."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, path: str, error: str) -> None:
        """Notes one."""
        self._found.setdefault(path.removeprefix("."), []).append(error)

    def check(self) -> None:
        """Raises:
        InvalidConfig: there are any.
        """
        if self._found:
            fields = [
                f"field:{path} error:{errors[0]}" if len(errors) == 1 else f"field:{path} errors:[{'; '.join(errors)}]"
                for path, errors in sorted(self._found.items())
            ]
            raise InvalidConfig(f"errors validating service config: [{'; '.join(fields)}]")


class _Node:
    """One object of the config. What it lacks, or has wrong, is None; what is wrong is noted."""

    def __init__(self, value: dict[str, Any], path: str, errors: _Errors) -> None:
        self._value = value
        self.path = path
        self.errors = errors

    def wrong(self, name: str, error: str) -> None:
        """Notes what is wrong with a field."""
        self.errors.add(f"{self.path}.{name}", error)

    def _of(self, name: str, kind: type | tuple[type, ...], called: str, *, required: bool) -> Any:
        value = self._value.get(name)
        if value is None:
            if required:
                self.wrong(name, "field not present")
            return None
        if not isinstance(value, kind):
            self.wrong(name, f"is not {called}")
            return None
        return value

    def text(self, name: str) -> str:
        """Empty if there is none."""
        value = self._of(name, str, "a string", required=False)
        if isinstance(value, _Number):
            self.wrong(name, "is not a string")
            return ""
        return value or ""

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        value: bool | None = self._of(name, bool, "a boolean", required=False)
        return value

    def node(self, name: str) -> _Node | None:
        """An object."""
        value = self._of(name, dict, "an object", required=False)
        return None if value is None else _Node(value, f"{self.path}.{name}", self.errors)

    def items(self, name: str) -> Iterator[tuple[str, Any]]:
        """Those of an array, each with its own name here."""
        for index, value in enumerate(self._of(name, list, "an array", required=False) or ()):
            yield f"{name}[{index}]", value

    def nodes(self, name: str) -> Iterator[_Node]:
        """The objects of an array."""
        for item, value in self.items(name):
            if isinstance(value, dict):
                yield _Node(value, f"{self.path}.{item}", self.errors)
            else:
                self.wrong(item, "is not an object")

    def integer(self, name: str, *, required: bool = False, least: int | None = None, error: str) -> int | None:
        """A number of 32 bits."""
        value = self._of(name, str, "a number", required=required)
        if value is None:
            return None
        number = int(value) if len(value) < 32 and _INTEGER.match(value) else 1 << 32
        bits = 31 if least is None else 32
        if not (-(1 << 31) if least is None else least) <= number < 1 << bits:
            self.wrong(name, error)
            return None
        return number

    def decimal(self, name: str, error: str) -> float | None:
        """A number with a fraction, which has to be there."""
        value = self._of(name, str, "a number", required=True)
        if value is None:
            return None
        try:
            return float(value)
        except ValueError:
            self.wrong(name, error)
            return None

    def duration(self, name: str, *, required: bool = False) -> float | None:
        """Seconds, in whole milliseconds: written as "1.5s"."""
        value = self._of(name, str, "a string", required=required)
        if value is None:
            return None
        error = "is not a string"
        if not isinstance(value, _Number):
            seconds, error = _seconds(value)
            if not error:
                return seconds
        self.wrong(name, error)
        return None


def _seconds(text: str) -> tuple[float, str]:
    """Of a duration's text; or what is wrong with it."""
    if not text.endswith("s"):
        return 0.0, "Not a duration (no s suffix)"
    whole, point, fraction = text[:-1].partition(".")
    if point and len(fraction) > 9:
        return 0.0, "Not a duration (too many digits after decimal)"
    if point and not (fraction.isascii() and fraction.isdecimal()):
        return 0.0, "Not a duration (not a number of nanoseconds)"
    if len(whole) > 32 or not _INTEGER.match(whole):
        return 0.0, "Not a duration (not a number of seconds)"
    if not 0 <= int(whole) <= _LONGEST:
        return 0.0, f"seconds must be in the range [0, {_LONGEST}]"
    return (int(whole) * 1000 + int(f"{fraction:0<3}"[:3])) / 1000, ""


def _config(node: _Node) -> ServiceConfig:
    methods: dict[str, MethodConfig] = {}
    for entry in node.nodes("methodConfig"):
        config = _method_config(entry)
        for name in entry.nodes("name"):
            path = _path(name)
            if path in methods:
                default = "duplicate default method config"
                entry.errors.add(name.path, f"multiple method configs for path {path}" if path else default)
            elif path is not None:
                methods[path] = config
    throttling = node.node("retryThrottling")
    return ServiceConfig(methods, None if throttling is None else _throttling(throttling))


def _path(name: _Node) -> str | None:
    """What a method's config is found by. None for a name that is not valid."""
    service, method = name.text("service"), name.text("method")
    if service:
        return f"/{service}/{method}"
    if method:
        name.errors.add(name.path, "method name populated without service name")
        return None
    return ""


def _method_config(node: _Node) -> MethodConfig:
    bad_limit = "failed to parse non-negative number"
    retry = node.node("retryPolicy")
    return MethodConfig(
        timeout=node.duration("timeout") or None,
        wait_for_ready=node.boolean("waitForReady"),
        max_request=node.integer("maxRequestMessageBytes", least=0, error=bad_limit),
        max_response=node.integer("maxResponseMessageBytes", least=0, error=bad_limit),
        retry=None if retry is None else _retry_policy(retry),
    )


def _retry_policy(node: _Node) -> RetryPolicy | None:
    attempts = node.integer("maxAttempts", required=True, error="failed to parse number")
    if attempts is not None and attempts < 2:
        node.wrong("maxAttempts", "must be at least 2")
    backoffs = []
    for name in ("initialBackoff", "maxBackoff"):
        backoff = node.duration(name, required=True)
        if backoff == 0:
            node.wrong(name, "must be greater than 0")
        backoffs.append(backoff)
    multiplier = node.decimal("backoffMultiplier", "failed to parse floating-point number")
    if multiplier is not None and not multiplier > 0:
        node.wrong("backoffMultiplier", "must be greater than 0")
    codes = _codes(node)
    initial, most = backoffs
    if attempts is None or initial is None or most is None or multiplier is None:
        return None
    return RetryPolicy(min(attempts, MOST_ATTEMPTS), initial, most, multiplier, codes)


def _codes(node: _Node) -> frozenset[grpc.StatusCode]:
    codes = set()
    for name, value in node.items("retryableStatusCodes"):
        if not isinstance(value, str) or isinstance(value, _Number):
            node.wrong(name, "is not a string")
        elif value not in _CODES:
            node.wrong(name, "failed to parse status code")
        else:
            codes.add(_CODES[value])
    if not codes:
        node.wrong("retryableStatusCodes", "must be non-empty")
    return frozenset(codes)


def _throttling(node: _Node) -> Throttling | None:
    tokens = node.integer("maxTokens", required=True, least=0, error="failed to parse non-negative number")
    if tokens == 0:
        node.wrong("maxTokens", "must be greater than 0")
    ratio = node.decimal("tokenRatio", "could not parse as a number")
    thousandths = 0
    if ratio is not None:
        if not 0 <= ratio * 1000 < float("inf"):
            node.wrong("tokenRatio", "could not parse as a number")
        else:
            thousandths = int(ratio * 1000)
            if not thousandths:
                node.wrong("tokenRatio", "must be greater than 0")
    if not tokens or not thousandths:
        return None
    return Throttling(tokens * 1000, thousandths)
