"""The daemon's settings: flag over environment over file over default."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ipcd_client.access import tables
from ipcd_client.access.rules import Rule
from ipcd_client.errors import ConfigError, IpcdError
from ipcd_client.node.paths import default_socket
from ipcd_client.wire.tcp import split_address

from ipcd import activation, limits
from ipcd.log import FORMATS, LEVELS
from ipcd.state.reach import AUTO, POLICIES

DEFAULT_LISTEN: Final = "127.0.0.1:0"
_HOST: Final = "the host's name"
_NO_UID: Final = 0xFFFF_FFFF  # (uid_t) -1
_IFNAMSIZ: Final = 16  # net/if.h
_INTERFACE: Final = re.compile(r"[^\s/:]+")
_TRUE: Final = {"1": True, "true": True, "yes": True, "on": True}
_FALSE: Final = {"0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Config:
    """Checked settings. The names of the fields are the keys of the file; see `ipcd run --help` for what they mean."""

    node: str
    socket: str
    listen: str = DEFAULT_LISTEN
    grpc_socket: str = ""  # empty: none
    grpc_listen: str = ""  # HOST:PORT; empty: none
    advertise: str = ""  # HOST or HOST:PORT; empty: what is listened on
    peers: tuple[str, ...] = ()
    discovery: bool = True
    interfaces: tuple[str, ...] = ()  # names or addresses, where nodes are looked for; empty: what is listened on
    state_dir: str = ""  # empty: nothing is kept
    insecure: bool = False
    log_format: str = "text"
    log_level: str = "info"
    cluster: str = "default"
    shm_uids: tuple[int, ...] = ()  # share memory with one another, though they are different users
    reach: str = AUTO  # one of state.reach.POLICIES
    identity: str = ""  # path of the file that `ipcctl cert issue` has made; empty: no certificate
    rules: tuple[Rule, ...] = ()  # of the file alone


# Name of the environment variable, for each field that has one. `discovery` is the odd one: its flag says the opposite.
VARIABLES: Final = {
    "node": "IPCD_NODE",
    "socket": "IPCD_SOCKET",
    "listen": "IPCD_LISTEN",
    "grpc_socket": "IPCD_GRPC_SOCKET",
    "grpc_listen": "IPCD_GRPC_LISTEN",
    "advertise": "IPCD_ADVERTISE",
    "peers": "IPCD_PEER",
    "discovery": "IPCD_NO_DISCOVERY",
    "interfaces": "IPCD_INTERFACE",
    "state_dir": "IPCD_STATE_DIR",
    "insecure": "IPCD_INSECURE",
    "log_format": "IPCD_LOG_FORMAT",
    "log_level": "IPCD_LOG_LEVEL",
    "cluster": "IPCD_CLUSTER",
    "shm_uids": "IPCD_SHM_UIDS",
    "reach": "IPCD_REACH",
    "identity": "IPCD_IDENTITY",
}

# Flags that are not named after their field.
FLAGS: Final = {"peers": "--peer", "interfaces": "--interface", "shm_uids": "--shm-uid", "discovery": "--no-discovery"}


def load(flags: Mapping[str, object], environ: Mapping[str, str] | None = None, file: str | None = None) -> Config:
    """The settings. `flags` has those fields of Config that were given on the command line. `file`: the path of a TOML
    file, else $IPCD_CONFIG, else none.

    Raises:
        ConfigError: naming the setting and where it came from.
    """
    environ = os.environ if environ is None else environ
    chosen: dict[str, tuple[object, str]] = {
        "node": (socket.gethostname(), _HOST),
        "socket": (default_socket(environ), "the default"),
    }
    path = file or environ.get("IPCD_CONFIG")
    if path:
        chosen |= {key: (value, f"{key} in {path}") for key, value in _read(path).items()}
    for key, variable in VARIABLES.items():
        raw = environ.get(variable)
        if raw is not None and raw != "":
            chosen[key] = (_from_text(key, raw, variable), variable)
    chosen |= {key: (value, FLAGS.get(key, f"--{key.replace('_', '-')}")) for key, value in flags.items()}
    values = {key: _CHECKS[key](value, source) for key, (value, source) in chosen.items()}
    if values.get("identity"):
        _take_identity(values, chosen)
    config = Config(**values)
    for key in ("listen", "grpc_listen"):
        address = getattr(config, key)
        # With a certificate, who comes to `listen` proves who it is. The gateway's callers never do.
        if address and not config.insecure and not (config.identity and key == "listen"):
            _check_loopback(address, chosen.get(key, ("", "the default"))[1])
    if config.grpc_socket and Path(config.grpc_socket).absolute() == Path(config.socket).absolute():
        raise ConfigError(f"{chosen['grpc_socket'][1]}: {config.grpc_socket} is where processes attach")
    return config


def _take_identity(values: dict[str, Any], chosen: Mapping[str, tuple[object, str]]) -> None:
    """Node and cluster are those of the certificate."""
    if values.get("insecure"):
        raise ConfigError(
            f"{chosen['insecure'][1]}: {chosen['identity'][1]} gives the node a certificate, and so a proof of "
            "identity on every connection; choose one of the two"
        )
    from ipcd_client.certs.identity import Identity  # only where there are certificates

    identity = Identity.load(values["identity"])
    for key, certified in (("node", identity.node), ("cluster", identity.cluster)):
        given = chosen.get(key)
        if given is not None and given[1] != _HOST and values[key] != certified:
            raise ConfigError(f"{given[1]}: {values[key]} is not what {values['identity']} is for: {certified}")
        values[key] = certified


def check_passed(config: Config, socket_path: str, listen: str) -> None:
    """Whether sockets that a service manager has opened are at the places that are set. Empty: it opened none.

    Raises:
        ConfigError: naming the setting.
    """
    if socket_path and not activation.same_path(socket_path, config.socket):
        raise ConfigError(
            f"socket: {config.socket} is set, but the service manager listens at {socket_path}: programs would look "
            "for the daemon where it is not"
        )
    if listen and config.listen not in {DEFAULT_LISTEN, listen}:
        raise ConfigError(f"listen: {config.listen} is set, but the service manager listens at {listen}")
    if listen and not config.insecure and not config.identity:
        _check_loopback(listen, "the passed socket 'listen'")


def _read(path: str) -> dict[str, object]:
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        # Not TOML, not UTF-8, or a number of more digits than Python converts.
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: it is nested too deep") from error
    known = [field.name for field in fields(Config)]
    for key in table:
        if key not in known:
            raise ConfigError(f"{key} in {path}: no such setting; there are {', '.join(known)}")
    return table


def _from_text(key: str, raw: str, variable: str) -> object:
    if key == "shm_uids":
        return [_number(part) for part in raw.split(",") if part.strip()]
    if key in {"peers", "interfaces"}:
        return [part.strip() for part in raw.split(",") if part.strip()]
    if key in {"discovery", "insecure"}:
        value = (_TRUE | _FALSE).get(raw.lower())
        if value is None:
            raise ConfigError(f"{variable}={raw!r}: neither true nor false")
        return not value if key == "discovery" else value
    return raw


def _number(text: str) -> int | str:
    """As what it is refused, where it is none."""
    try:
        return int(text) if text.strip().isdecimal() else text
    except ValueError:  # more digits than Python converts
        return text


def _text(value: object, source: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{source}: {value!r} is not a text")
    return value


def _name(value: object, source: str) -> str:
    try:
        return limits.check_name(source, _text(value, source))
    except (limits.LimitReached, limits.InvalidRequest) as error:
        raise ConfigError(f"{source}: {error}") from error


def _flag(value: object, source: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{source}: {value!r} is neither true nor false")
    return value


def _address(value: object, source: str) -> str:
    text = _text(value, source)
    try:
        split_address(text)
    except IpcdError as error:
        raise ConfigError(f"{source}: {error}") from error
    return text


def _advertised(value: object, source: str) -> str:
    text = _text(value, source)
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return _address(text, source) if ":" in text else text
    return text.strip("[]")


def _addresses(value: object, source: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{source}: {value!r} is not a list of HOST:PORT")
    addresses = tuple(_address(item, source) for item in value)
    for address in addresses:
        if not split_address(address)[1]:
            raise ConfigError(f"{source}: {address}: a peer has no port 0")
    return addresses


def _interfaces(value: object, source: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{source}: {value!r} is not a list of interfaces")
    for item in value:
        text = _text(item, source)
        try:
            ipaddress.ip_address(text)
        except ValueError:
            # As the kernel has it: dev_valid_name() in net/core/dev.c.
            if not 0 < len(os.fsencode(text)) < _IFNAMSIZ or text in {".", ".."} or not _INTERFACE.fullmatch(text):
                raise ConfigError(f"{source}: {text!r} is neither the name of an interface nor an IP address") from None
    return tuple(value)


def _uids(value: object, source: str) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < _NO_UID for item in value
    ):
        raise ConfigError(f"{source}: {value!r} is not a list of user ids (numbers)")
    return tuple(value)


def _path(value: object, source: str) -> str:
    text = _text(value, source)
    if not text or "\0" in text or text.startswith("@"):
        raise ConfigError(f"{source}: {text!r} is not the path of a file")
    return text


def _one_of(words: tuple[str, ...]) -> Callable[[object, str], str]:
    def check(value: object, source: str) -> str:
        if value not in words:
            raise ConfigError(f"{source}: {value!r} is none of {', '.join(words)}")
        return str(value)

    return check


_CHECKS: Final[dict[str, Callable[[object, str], Any]]] = {
    "node": _name,
    "socket": _path,
    "listen": _address,
    "grpc_socket": _path,
    "grpc_listen": _address,
    "advertise": _advertised,
    "peers": _addresses,
    "discovery": _flag,
    "interfaces": _interfaces,
    "state_dir": _path,
    "insecure": _flag,
    "log_format": _one_of(FORMATS),
    "log_level": _one_of(LEVELS),
    "cluster": _name,
    "shm_uids": _uids,
    "reach": _one_of(POLICIES),
    "identity": _path,
    "rules": tables.checked,
}


def _check_loopback(listen: str, source: str) -> None:
    """Where nobody proves who they are, it stays on this machine unless it is said otherwise."""
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{source}: {listen}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise ConfigError(f"{source}: {listen}: {host!r} is no host name") from error
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise ConfigError(
                f"{source}: {listen} can be reached from other machines, where connections carry no proof of "
                "identity; give the node a certificate (ipcctl cert, --identity), listen on a loopback address, or add "
                "--insecure"
            )
