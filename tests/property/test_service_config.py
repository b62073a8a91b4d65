"""The service config: whatever the text is, it is a config, or an error that says where."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.rpc import service_config
from ipcd_client.rpc.service_config import InvalidConfig, MethodConfig, RetryPolicy, ServiceConfig

# In the order of what holds them.
NAMES = [
    *("methodConfig", "name", "service", "method", "timeout", "waitForReady"),
    *("maxRequestMessageBytes", "maxResponseMessageBytes"),
    *("retryPolicy", "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"),
    *("retryThrottling", "maxTokens", "tokenRatio"),
]

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["1s", "0.5s", "-1s", "UNAVAILABLE", "3", "1e999", " 7 ", "٣s", "٣"]),
)
trees: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*NAMES, "other"]), inner, max_size=6)
    ),
    max_leaves=25,
)


@given(trees)
def test_any_json(tree: Any) -> None:
    try:
        config = service_config.parse(json.dumps({"methodConfig": [tree], "retryThrottling": tree}))
    except InvalidConfig as error:
        text = str(error)
        assert text.startswith(("errors validating service config: [field:", "JSON parsing failed: ["))
    else:
        for method in config.methods.values():
            assert method.timeout is None or method.timeout > 0
        assert config.throttling is None or config.throttling.token_ratio > 0


@given(st.one_of(st.text(), st.binary()))
def test_any_text(text: str | bytes) -> None:
    # Nearly nothing of it is JSON; what is, is mostly no object.
    with contextlib.suppress(InvalidConfig):
        assert service_config.parse(text).methods == {}


milliseconds = st.integers(1, 10_000_000)
policies = st.builds(
    lambda attempts, initial, most, multiplier, codes: RetryPolicy(
        attempts, initial / 1000, most / 1000, multiplier, codes
    ),
    st.integers(2, 9),
    milliseconds,
    milliseconds,
    st.floats(0.01, 100),
    st.frozensets(st.sampled_from(list(grpc.StatusCode)), min_size=1),
)
names = st.sampled_from(["a.S", "b.S", "c.S"])
methods = st.builds(
    lambda timeout, waits, request, response, retry: MethodConfig(
        None if timeout is None else timeout / 1000, waits, request, response, retry
    ),
    st.none() | milliseconds,
    st.none() | st.booleans(),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.none() | policies,
)
paths = st.one_of(st.just(""), names.map("/{}/".format), st.builds("/{}/{}".format, names, names))


@given(st.dictionaries(paths, methods, max_size=5), st.booleans())
def test_what_is_written_is_read(configs: dict[str, MethodConfig], as_text: bool) -> None:
    read = service_config.parse(json.dumps({"methodConfig": [written(*item, as_text) for item in configs.items()]}))
    expected = {path: capped(config) for path, config in configs.items()}
    assert read == ServiceConfig(expected)
    for service in ("a.S", "b.S", "d.S"):
        for method in ("a.S", "x"):
            found = [expected.get(path) for path in (f"/{service}/{method}", f"/{service}/", "")]
            assert read.of(f"/{service}/{method}") == next(filter(None, found), None)


def capped(config: MethodConfig) -> MethodConfig:
    retry = config.retry
    if retry is not None:
        retry = RetryPolicy(
            min(retry.attempts, 5), retry.initial_backoff, retry.max_backoff, retry.multiplier, retry.codes
        )
    return MethodConfig(config.timeout, config.wait_for_ready, config.max_request, config.max_response, retry)


def written(path: str, config: MethodConfig, as_text: bool) -> dict[str, Any]:
    """As JSON. `as_text`: numbers in quotation marks."""

    def number(value: float | None) -> Any:
        return repr(value) if as_text and value is not None else value

    _, service, method = path.split("/") if path else ("", "", "")
    entry: dict[str, Any] = {
        "name": [{"service": service, "method": method}],
        "timeout": None if config.timeout is None else f"{config.timeout:.3f}s",
        "waitForReady": config.wait_for_ready,
        "maxRequestMessageBytes": number(config.max_request),
        "maxResponseMessageBytes": number(config.max_response),
    }
    if (retry := config.retry) is not None:
        entry["retryPolicy"] = {
            "maxAttempts": number(retry.attempts),
            "initialBackoff": f"{retry.initial_backoff:.3f}s",
            "maxBackoff": f"{retry.max_backoff:.3f}000s",
            "backoffMultiplier": number(retry.multiplier),
            "retryableStatusCodes": [code.name for code in retry.codes],
        }
    return entry


def test_one_name_twice() -> None:
    entry = {"name": [{"service": "s"}, {"service": "s"}]}
    with pytest.raises(InvalidConfig, match=r"field:methodConfig\[0\]\.name\[1\] error:multiple .* path /s/\]"):
        service_config.parse(json.dumps({"methodConfig": [entry]}))
