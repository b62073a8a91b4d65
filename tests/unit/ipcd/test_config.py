from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ipcd_client.access.rules import VERBS, Rule
from ipcd_client.errors import ConfigError

from ipcd.config import Config, load


def write(path: Path, text: str) -> str:
    file = path / "ipcd.toml"
    file.write_text(text)
    return str(file)


def test_defaults() -> None:
    config = load({}, environ={})
    assert config == Config(node=socket.gethostname(), socket="/run/ipcd/ipcd.sock")
    assert load({}, environ={"XDG_RUNTIME_DIR": "/run/user/7"}).socket == "/run/user/7/ipcd/ipcd.sock"
    assert load({}, environ={"XDG_RUNTIME_DIR": "relative"}).socket == "/run/ipcd/ipcd.sock"


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'node = "file"\nlog_level = "debug"\npeers = ["h:1"]\ndiscovery = false\ncluster = "f"\n')
    environ = {"IPCD_NODE": "environment", "IPCD_LOG_LEVEL": "error", "IPCD_PEER": "h:2, h:3"}
    config = load({"node": "flag"}, environ=environ, file=file)
    assert (config.node, config.log_level, config.peers) == ("flag", "error", ("h:2", "h:3"))
    assert (config.discovery, config.cluster, config.log_format) == (False, "f", "text")
    assert load({}, environ={"IPCD_CONFIG": file}).node == "file"
    assert load({"discovery": False}, environ={"IPCD_NO_DISCOVERY": "0"}).discovery is False
    assert load({}, environ={"IPCD_NO_DISCOVERY": "yes"}).discovery is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes = 1", r"^nodes in .*ipcd\.toml: no such setting"),
        ("node = 1", r"^node in .*ipcd\.toml: 1 is not a text"),
        ('node = "a b"', r"^node in .*space"),
        ('listen = "127.0.0.1"', r"^listen in .*not HOST:PORT"),
        ('listen = "192.0.2.1:7"', r"^listen in .*--insecure"),
        ('grpc_listen = "192.0.2.1:7"', r"^grpc_listen in .*--insecure"),
        ('grpc_listen = "127.0.0.1"', r"^grpc_listen in .*not HOST:PORT"),
        ('grpc_socket = "@abstract"', r"^grpc_socket in .*path"),
        ('socket = "/x/s"\ngrpc_socket = "/x/s"', r"^grpc_socket in .*where processes attach"),
        ('peers = "h:1"', r"^peers in .*not a list"),
        ('peers = ["h:0"]', r"^peers in .*port 0"),
        ("discovery = 1", r"^discovery in .*neither"),
        ('interfaces = "eth0"', r"^interfaces in .*not a list"),
        ('interfaces = ["eth0", "an-interface-of-16"]', r"^interfaces in .*'an-interface-of-16' is neither"),
        ('interfaces = ["eth/0"]', r"^interfaces in .*'eth/0' is neither the name of an interface nor an IP address"),
        ('interfaces = [""]', r"^interfaces in .*'' is neither"),
        ("interfaces = [1]", r"^interfaces in .*1 is not a text"),
        ('log_level = "loud"', r"^log_level in .*none of debug"),
        ('socket = "@abstract"', r"^socket in .*path"),
        ("node = ", r"ipcd\.toml: Invalid"),
        (f"shm_uids = [{'1' * 5000}]", r"ipcd\.toml: Exceeds the limit"),
        (f"peers = {'[' * 5000}", r"ipcd\.toml: it is nested too deep"),
        ('listen = "a..b:7"', r"^listen in .*'a\.\.b' is no host name"),
    ],
)
def test_bad_values_name_key_and_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load({}, environ={}, file=write(tmp_path, text))


def test_interfaces_are_names_or_addresses() -> None:
    assert load({}, environ={"IPCD_INTERFACE": "eth0, 192.0.2.1,fd00::1"}).interfaces == (
        "eth0",
        "192.0.2.1",
        "fd00::1",
    )
    assert load({"interfaces": ("wlan0",)}, environ={"IPCD_INTERFACE": "eth0"}).interfaces == ("wlan0",)


def test_bad_values_name_variable_or_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^IPCD_SHM_UIDS: .* is not a list of user ids"):
        load({}, environ={"IPCD_SHM_UIDS": f"1,{'1' * 5000}"})
    with pytest.raises(ConfigError, match=r"^IPCD_INSECURE='maybe'"):
        load({}, environ={"IPCD_INSECURE": "maybe"})
    with pytest.raises(ConfigError, match=r"^IPCD_PEER: 'x' is not HOST:PORT"):
        load({}, environ={"IPCD_PEER": "x"})
    with pytest.raises(ConfigError, match=r"^--log-level: "):
        load({"log_level": "loud"}, environ={})
    with pytest.raises(ConfigError, match=r"^--peer: "):
        load({"peers": ("x",)}, environ={})
    with pytest.raises(ConfigError, match="No such file"):
        load({}, environ={}, file=str(tmp_path / "none"))


def test_only_loopback_unless_insecure() -> None:
    for listen in ("127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "localhost:0"):
        assert load({"listen": listen}, environ={}).listen == listen
    with pytest.raises(ConfigError, match="--insecure"):
        load({"listen": "0.0.0.0:0"}, environ={})
    assert load({"listen": "0.0.0.0:0", "insecure": True}, environ={}).insecure
    assert load({"listen": "0.0.0.0:0", "insecure": True, "advertise": "10.0.0.1"}, environ={}).advertise == "10.0.0.1"


def test_rules(tmp_path: Path) -> None:
    text = """
node = "a"
[[rules]]
effect = "allow"
who = "node/*/uid/1001"
may = ["call", "register"]
what = "lab.*"

[[rules]]
name = "not this"
effect = "deny"
who = ["node/b/**", "spiffe://default/node/c/**"]
may = "*"
what = "lab.secret.*"
"""
    assert load({}, environ={}, file=write(tmp_path, text)).rules == (
        Rule("rule 1", "allow", ("node/*/uid/1001",), ("register", "call"), ("lab.*",)),
        Rule("not this", "deny", ("node/b/**", "spiffe://default/node/c/**"), VERBS, ("lab.secret.*",)),
    )
    with pytest.raises(ConfigError, match=r"^rules in .*ipcd\.toml, rule 2 \(not this\), what: 'a b': it has a space"):
        load({}, environ={}, file=write(tmp_path, text.replace("lab.secret.*", "a b")))
    with pytest.raises(ConfigError, match=r"^rules in .*ipcd\.toml: it is not a list of tables"):
        load({}, environ={}, file=write(tmp_path, '[rules]\neffect = "allow"\n'))
