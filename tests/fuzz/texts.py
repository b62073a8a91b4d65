"""What people and files say: JSON, TOML, addresses, targets, metadata."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from fuzz.registry import target
from fuzz.script import Script, blocks
from hypothesis import strategies as st
from ipcd_client.cli import jsontext
from ipcd_client.cli.jsontext import BadJson, Splitter
from ipcd_client.errors import ConfigError, UsageError
from ipcd_client.expose import upstream
from ipcd_client.node import target as targets
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import service_config
from ipcd_client.rpc.service_config import InvalidConfig
from ipcd_client.wire.tcp import join_address, split_address

from ipcd import config, limits
from ipcd.gateway.metadata import inbound, outbound
from ipcd.peer import reachable

JSON_WORDS = tuple(
    word.encode()
    for word in (
        *(
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            '"',
            "\\",
            "\\u0000",
            "\\ud800",
            "null",
            "true",
            "NaN",
            "-Infinity",
            "1e999",
        ),
        *("1e306", "-0", "1.5", "9" * 40, "9" * 5000, "[" * 300, '{"a":' * 150, "\n", "\t", "\ufeff", "\u00e9", "0x1"),
    )
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
_json = st.lists(st.one_of(json_values.map(json.dumps), st.text(max_size=6)), max_size=4).map(
    lambda parts: "\n".join(parts).encode("utf-8", "replace")
)

_CONFIG_KEYS = (
    *("methodConfig", "name", "service", "method", "timeout", "waitForReady", "maxRequestMessageBytes", "retryPolicy"),
    *("maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes", "retryThrottling"),
    *("maxTokens", "tokenRatio", "maxResponseMessageBytes"),
)
_config_values = st.recursive(
    st.one_of(
        st.sampled_from(
            [None, True, 0, 1, 2.5, -1, 10**40, "1s", "0.1s", "-1s", "x", "UNAVAILABLE", "1.0000000001s", "5"]
        ),
        st.integers(),
        st.floats(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_CONFIG_KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)


_plain_values = st.one_of(
    st.sampled_from([None, True, 0, 1, 5, 0.5, -1, 10**40, 1e-9, 1e306, 1e308, "1s", "0.1s", "x", "UNAVAILABLE", "5"]),
    st.floats(),
)


def _object(*keys: str, **inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """With some of these keys, whose values are nearly right."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(keys, _plain_values), **inner})


_service_configs = _object(
    methodConfig=st.lists(
        _object(
            *("timeout", "waitForReady", "maxRequestMessageBytes", "maxResponseMessageBytes"),
            name=st.lists(_object("service", "method"), max_size=2),
            retryPolicy=_object(
                *("maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier"),
                retryableStatusCodes=st.lists(_plain_values, max_size=2),
            ),
        ),
        max_size=2,
    ),
    retryThrottling=_object("maxTokens", "tokenRatio"),
)


@target("json-text", _json, raises=(BadJson,), words=JSON_WORDS, largest=8192)
def _json_text(data: bytes) -> object:
    """Values are found alike, however the text is cut."""
    text = data.decode("utf-8", "replace")

    def read(step: int) -> tuple[list[Any], str]:
        splitter, found = Splitter("test"), []
        try:
            for at in range(0, len(text), step):
                found += splitter.feed(text[at : at + step])
            found += splitter.finish()
        except BadJson as error:
            return found, str(error)
        return found, ""

    whole = read(max(1, len(text)))
    # Before the text goes wrong the good values of this piece are not given, as what comes of them is an error anyway.
    pieces = read(max(1, len(text) // 7))
    assert whole[1] == pieces[1]
    assert whole[1] or whole == pieces
    assert len(text) > 200 or whole[1] or read(1) == whole
    values = jsontext.loads(text, "test")
    assert len(values) == len(whole[0])
    return len(values)


@target(
    "service-config",
    st.one_of(
        st.dictionaries(st.sampled_from(_CONFIG_KEYS), _config_values, max_size=4).map(
            lambda one: json.dumps(one).encode()
        ),
        _service_configs.map(lambda one: json.dumps(one).encode()),
        _json,
    ),
    raises=(InvalidConfig,),
    words=(*JSON_WORDS, *(json.dumps(key).encode() + b":" for key in _CONFIG_KEYS)),
    largest=8192,
)
def _service_config(data: bytes) -> object:
    given = service_config.given(data, "t")
    parsed = service_config.parse(data)
    assert parsed == given
    for method in ("/s/m", "/s/", "", "x"):
        one = parsed.of(method)
        if one is not None:
            one.within(1.0), one.sends(-1), one.receives(4), one.waits(None)
            assert one.timeout is None or one.timeout >= 0
            assert one.retry is None or 2 <= one.retry.attempts <= service_config.MOST_ATTEMPTS
    return parsed


@target(
    "target",
    st.one_of(
        st.text(max_size=30),
        st.text(max_size=20).map(lambda one: f"ipcd:{one}"),
        st.text(max_size=20).map(lambda one: f"ipcd://{one}"),
    ).map(lambda one: one.encode("utf-8", "replace")),
    raises=(ConfigError,),
    words=(b"ipcd:", b"ipcd://", b"ipcd:///", b"/", b"%2f", b"%00", b"%ff", b":", b"ipcd-node:"),
)
def _target(data: bytes) -> object:
    return targets.parse(data.decode("utf-8", "surrogateescape"))


_hosts = st.one_of(
    st.sampled_from(["a", "::1", "[::1]", "127.0.0.1", "0.0.0.0", "unix", "fe80::1%lo", "x" * 80]), st.text(max_size=12)
)
_addresses = st.one_of(
    st.text(max_size=30),
    st.builds(lambda host, port: f"{host}:{port}", _hosts, st.one_of(st.integers(-1, 70000), st.text(max_size=4))),
)
_ADDRESS_WORDS = (
    b"[::1]:",
    b":",
    b"]",
    b"[",
    b":65535",
    b":65536",
    b":0",
    b"9" * 5000,
    "\u0663".encode(),
    b"\0",
    b"unix:",
    b"%",
)


@target(
    "address",
    _addresses.map(lambda one: one.encode("utf-8", "replace")),
    raises=(ConfigError,),
    words=_ADDRESS_WORDS,
    largest=8192,
)
def _address(data: bytes) -> object:
    text = data.decode("utf-8", "surrogateescape")
    told = reachable(text, "10.0.0.1:7")
    assert not told or split_address(told)
    with contextlib.suppress(ConfigError):
        upstream.checked(text)
    host, port = split_address(text)
    assert 0 <= port <= 65535
    assert host
    # Only in brackets may a host have a colon.
    assert split_address(join_address(host, port)) == (host, port) or host.startswith("[")
    return host, port


@target(
    "gateway-metadata",
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(["ipcd-target", "k", "k-bin", "te", ":path", "grpc-timeout", "K"]), st.text(max_size=5)
            ),
            st.text(max_size=10),
        ),
        max_size=6,
    ).map(lambda entries: blocks(*(part.encode("utf-8", "replace") for entry in entries for part in entry))),
    raises=(ConfigError, UsageError, md.InvalidMetadata),
    words=tuple(
        map(blocks, (b"ipcd-target", b"ipcd:", b"ipcd://b", b"ipcd:///c", b"k-bin", b"grpc-status-details-bin", b"k"))
    ),
)
def _gateway_metadata(data: bytes) -> object:
    """As grpcio gives it: a key is text, a value is text, or bytes for a -bin key."""
    script = Script(data)
    entries: list[tuple[str, str | bytes]] = []
    while script:
        key, value = script.block().decode("latin-1"), script.block()
        entries.append((key, value if key.endswith("-bin") else value.decode("utf-8", "replace")))
    outbound(entries)
    kept, where = inbound(entries)
    checked = md.checked(kept, 16 << 10)
    assert sum(len(key) + len(value) + 32 for key, value in checked) <= 16 << 10
    return checked, where


@contextlib.contextmanager
def _no_lookups() -> Iterator[None]:
    """Names are not asked of any server: only numeric addresses and what Python itself refuses are judged."""
    real = socket.getaddrinfo

    def numeric(host: Any, port: Any, **options: Any) -> Any:
        return real(host, port, flags=socket.AI_NUMERICHOST, **options)

    with mock.patch.object(socket, "getaddrinfo", numeric):
        yield


_SETTINGS = tuple(config.VARIABLES)
_settings = st.dictionaries(
    st.one_of(st.sampled_from(_SETTINGS), st.text(max_size=6)),
    st.one_of(
        st.booleans().map(lambda one: str(one).lower()),
        st.integers().map(str),
        st.one_of(_addresses, st.sampled_from(["auto", "json", "info", "127.0.0.1:0", "a/b", "/run/x"])).map(
            json.dumps
        ),
        st.lists(_addresses.map(json.dumps), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.integers(-1, 1 << 33).map(str), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    ),
    max_size=5,
)


@target(
    "config",
    _settings.map(
        lambda table: "\n".join(f"{key} = {value}" for key, value in table.items()).encode("utf-8", "replace")
    ),
    raises=(ConfigError,),
    words=(
        *(f"\n{key} = ".encode() for key in _SETTINGS),
        *_ADDRESS_WORDS,
        b'"127.0.0.1:0"',
        b"true",
        b"[",
        b"[[",
        b"1" * 5000,
        b"[" * 2000,
        b"1979-05-27T07:32:00Z",
        b"'''",
        b'\\ud800"',
    ),
    largest=8192,
)
def _config(data: bytes) -> object:
    """A file; and what is in it as the environment has it."""
    with tempfile.NamedTemporaryFile(prefix="ipcd-fuzz-") as file, _no_lookups():
        Path(file.name).write_bytes(data)
        environ = {}
        for line in data.split(b"\n"):
            key, _, value = line.partition(b"=")
            variable = config.VARIABLES.get(key.strip().decode("latin-1"))
            if variable is not None and b"\0" not in value:
                environ[variable] = os.fsdecode(value.strip())
        results: list[object] = []
        for given, path in ((environ, None), ({}, file.name)):
            try:
                loaded = config.load({}, {"XDG_RUNTIME_DIR": "/run", **given}, path)
                config.check_passed(loaded, loaded.socket, "127.0.0.1:1")
            except ConfigError as error:
                results.append(str(error).replace(file.name, ""))
            else:
                assert len(loaded.node) <= limits.NAME
                results.append(loaded)
        return results
