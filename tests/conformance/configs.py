"""Service configs as programs write them, and what they do to calls."""

from __future__ import annotations

import json
from typing import Any

import grpc

Options = list[tuple[str, Any]]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
PREVIOUS = "grpc-previous-rpc-attempts"
PUSHBACK = "grpc-retry-pushback-ms"


def policy(**fields: Any) -> dict[str, Any]:
    """A retry policy, quick unless the test says otherwise."""
    return {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    } | fields


def options(*others: tuple[str, Any], throttling: dict[str, Any] | None = None, **fields: Any) -> Options:
    """Of a channel of which this holds for all methods."""
    config: dict[str, Any] = {"methodConfig": [{"name": [{}]} | fields]}
    if throttling is not None:
        config["retryThrottling"] = throttling
    return [("grpc.service_config", json.dumps(config)), *others]


def retrying(*others: tuple[str, Any], throttling: dict[str, Any] | None = None, **fields: Any) -> Options:
    """Of a channel that tries all of its calls again."""
    return options(*others, throttling=throttling, retryPolicy=policy(**fields))


class Failing:
    """A handler that fails so many times, and then answers with the request. `seen`: what it was told of earlier
    attempts, and the requests."""

    def __init__(self, times: int, *pushbacks: str, code: grpc.StatusCode = UNAVAILABLE) -> None:
        self.times = times
        self.pushbacks = pushbacks
        self.code = code
        self.attempts: list[Any] = []
        self.requests: list[bytes] = []

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        told = [value for key, value in context.invocation_metadata() if key == PREVIOUS]
        self.attempts.append(told[0] if told else None)
        self.requests.append(request)
        if len(self.attempts) <= self.times:
            context.set_trailing_metadata([(PUSHBACK, said) for said in self.pushbacks])
            context.abort(self.code, f"failure {len(self.attempts)}")
        return request


# Configs that are not valid, and what is said of them.
INVALID: dict[str, str] = {
    "[]": "[field: error:is not an object]",
    '{"methodConfig": {}}': "[field:methodConfig error:is not an array]",
    '{"methodConfig": [1]}': "[field:methodConfig[0] error:is not an object]",
    '{"methodConfig": [{"name": [{"method": "M"}]}]}': (
        "[field:methodConfig[0].name[0] error:method name populated without service name]"
    ),
    '{"methodConfig": [{"name": [{}]}, {"name": [{}]}]}': (
        "[field:methodConfig[1].name[0] error:duplicate default method config]"
    ),
    '{"methodConfig": [{"name": [{"service": "s"}, {"service": "s"}]}]}': (
        "[field:methodConfig[0].name[1] error:multiple method configs for path /s/]"
    ),
    '{"methodConfig": [{"name": [{"service": 1}], "waitForReady": "true"}]}': (
        "[field:methodConfig[0].name[0].service error:is not a string; "
        "field:methodConfig[0].waitForReady error:is not a boolean]"
    ),
    '{"retryThrottling": {"maxTokens": 0, "tokenRatio": 0.0001}}': (
        "[field:retryThrottling.maxTokens error:must be greater than 0; "
        "field:retryThrottling.tokenRatio error:must be greater than 0]"
    ),
    '{"retryThrottling": {"tokenRatio": -1}}': (
        "[field:retryThrottling.maxTokens error:field not present; "
        "field:retryThrottling.tokenRatio error:could not parse as a number]"
    ),
}
INVALID |= {
    json.dumps({"methodConfig": [{name: value}]}): f"[field:methodConfig[0].{name} error:{error}]"
    for name, value, error in [
        ("timeout", 5, "is not a string"),
        ("timeout", "5", "Not a duration (no s suffix)"),
        ("timeout", ".5s", "Not a duration (not a number of seconds)"),
        ("timeout", "1.s", "Not a duration (not a number of nanoseconds)"),
        ("timeout", "1.0000000001s", "Not a duration (too many digits after decimal)"),
        ("timeout", "-1s", "seconds must be in the range [0, 315576000000]"),
        ("maxRequestMessageBytes", -1, "failed to parse non-negative number"),
        ("maxResponseMessageBytes", 1 << 32, "failed to parse non-negative number"),
        ("maxResponseMessageBytes", True, "is not a number"),
        ("retryPolicy", [], "is not an object"),
    ]
}
INVALID |= {
    json.dumps({"methodConfig": [{"retryPolicy": policy(**{name: value})}]}): (
        f"[field:methodConfig[0].retryPolicy.{name} error:{error}]"
    )
    for name, value, error in [
        ("maxAttempts", 1, "must be at least 2"),
        ("maxAttempts", None, "field not present"),
        ("maxAttempts", 2.5, "failed to parse number"),
        ("maxAttempts", {}, "is not a number"),
        ("initialBackoff", "0s", "must be greater than 0"),
        ("initialBackoff", None, "field not present"),
        ("maxBackoff", "0.0001s", "must be greater than 0"),
        ("backoffMultiplier", 0, "must be greater than 0"),
        ("backoffMultiplier", "x", "failed to parse floating-point number"),
        ("retryableStatusCodes", [], "must be non-empty"),
    ]
}
for code, error in ((14, "is not a string"), ("unavailable", "failed to parse status code")):
    INVALID[json.dumps({"methodConfig": [{"retryPolicy": policy(retryableStatusCodes=[code])}]})] = (
        "[field:methodConfig[0].retryPolicy.retryableStatusCodes error:must be non-empty; "
        f"field:methodConfig[0].retryPolicy.retryableStatusCodes[0] error:{error}]"
    )
