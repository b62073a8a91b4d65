"""The command `ipcd`."""

from __future__ import annotations

import sys
from typing import Any

import click
from ipcd_client import __version__
from ipcd_client.errors import ConfigError

from ipcd import config as settings
from ipcd import log as logs
from ipcd.state.reach import POLICIES


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog='Completion in the shell: eval "$(_IPCD_COMPLETE=bash_source ipcd)" (or zsh_source, fish_source).',
)
@click.version_option(__version__, prog_name="ipcd")
def main() -> None:
    """The node daemon of ipcd: knows who serves what, finds the other nodes, and introduces callers to servers."""


@main.command(context_settings={"auto_envvar_prefix": None})
@click.option(
    "--config",
    "file",
    metavar="F",
    type=click.Path(dir_okay=False),
    help="TOML file with these settings. [$IPCD_CONFIG]",
)
@click.option("--node", metavar="NAME", help="Name of this node. [the host's name; $IPCD_NODE]")
@click.option(
    "--socket",
    metavar="PATH",
    type=click.Path(),
    help="Where processes of this machine attach. "
    "[$IPCD_SOCKET, else $XDG_RUNTIME_DIR/ipcd/ipcd.sock, else /run/ipcd/ipcd.sock]",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where other nodes and their callers arrive; port 0: any free one. [127.0.0.1:0; $IPCD_LISTEN]",
)
@click.option(
    "--grpc-socket",
    metavar="PATH",
    type=click.Path(),
    help="Where gRPC clients of this machine arrive, as unix:PATH; they reach every service there is. "
    "[none; $IPCD_GRPC_SOCKET]",
)
@click.option(
    "--grpc-listen",
    metavar="HOST:PORT",
    help="The same over TCP; port 0: any free one. [none; $IPCD_GRPC_LISTEN]",
)
@click.option(
    "--advertise",
    metavar="ADDR",
    help="HOST or HOST:PORT that other nodes are told instead of --listen. [$IPCD_ADVERTISE]",
)
@click.option(
    "--peer",
    "peers",
    metavar="HOST:PORT",
    multiple=True,
    help="Another node; may be given more than once. [$IPCD_PEER, separated by commas]",
)
@click.option(
    "--interface",
    "interfaces",
    metavar="NAME|ADDR",
    multiple=True,
    help="Look for nodes with zeroconf here only, as soon as there is such an interface; may be given more than once. "
    "[those of --listen; $IPCD_INTERFACE, separated by commas]",
)
@click.option(
    "--no-discovery",
    "discovery",
    flag_value=False,
    default=None,
    type=bool,
    help="Do not look for nodes with zeroconf, and do not announce this one. [$IPCD_NO_DISCOVERY]",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Remember the other nodes here over a restart. [nothing is kept; $IPCD_STATE_DIR]",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Listen on more than loopback although connections from other machines carry no proof of identity. "
    "[$IPCD_INSECURE]",
)
@click.option(
    "--identity",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="This node's certificate, made by `ipcctl cert issue`: other nodes and their processes have to show one of "
    "the same cluster, and connections between nodes are TLS. [no certificate; $IPCD_IDENTITY]",
)
@click.option("--cluster", metavar="NAME", help="Nodes of other clusters are left alone. [default; $IPCD_CLUSTER]")
@click.option(
    "--shm-uid",
    "shm_uids",
    metavar="UID",
    type=int,
    multiple=True,
    help="Processes of these users share memory with one another. [only those of one user do; $IPCD_SHM_UIDS]",
)
@click.option(
    "--reach",
    type=click.Choice(POLICIES),
    help="Who connects a caller here with a server over TCP: the caller and, where it cannot, the nodes (auto); only "
    "the caller (direct); only the nodes (node). [auto; $IPCD_REACH]",
)
@click.option("--log-format", type=click.Choice(logs.FORMATS), help="[text; $IPCD_LOG_FORMAT]")
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="[info; $IPCD_LOG_LEVEL]")
def run(file: str | None, **flags: Any) -> None:
    """Run a node until SIGTERM or SIGINT.

    A flag is stronger than the environment, that than the file, that than the default. The file has the long names
    with underscores: node, socket, listen, grpc_socket, grpc_listen, advertise, peers (a list), discovery (true or
    false), interfaces (a list), state_dir, insecure, identity, cluster, shm_uids (a list), reach, log_format,
    log_level; and rules (tables), which it alone has. SIGHUP reads it again: peers, rules, log_level and what is in the
    identity file change at once, the others at the next start.

    \b
    Examples:
      ipcd run
      ipcd run --node a --socket /tmp/a.sock --listen 127.0.0.1:7319
      ipcd run --node b --socket /tmp/b.sock --peer 127.0.0.1:7319 --no-discovery
      ipcd run --listen 0.0.0.0:7319 --identity a.pem
      ipcd run --listen 0.0.0.0:7319 --insecure --log-format json
      ipcd run --grpc-listen 127.0.0.1:50051
    """
    from ipcd import run as daemon

    given = {key: value for key, value in flags.items() if value is not None and value != ()}

    def load() -> settings.Config:
        return settings.load(given, file=file)

    try:
        config = load()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(daemon.run(config, load))


@main.command()
@click.option("--quick", is_flag=True, help="Measure for two seconds only.")
@click.option("-o", "output", type=click.Choice(("text", "json")), default="text", help="What is printed. [text]")
def demo(quick: bool, output: Any) -> None:
    """Two nodes on this machine, one service, the same calls over every transport, beside grpcio.

    \b
    Examples:
      ipcd demo
      ipcd demo --quick -o json
    """
    import ipcd.demo

    sys.exit(ipcd.demo.run(quick=quick, output=output))
