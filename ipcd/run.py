"""`ipcd run`: the daemon as a process, with its signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable

from ipcd_client.errors import ConfigError

from ipcd import log as logs
from ipcd.activation import Passed, passed
from ipcd.config import Config
from ipcd.node import Node
from ipcd.notify import Watchdog, notify, notify_reloading, watchdog_interval


def run(config: Config, reload: Callable[[], Config]) -> int:
    """Runs a node until SIGTERM or SIGINT; the exit code. `reload` reads the settings again, for SIGHUP."""
    logs.set_up(config.log_format, config.log_level)
    _raise_descriptor_limit()
    try:
        # Before anything else is opened, so that what is taken for a passed socket is no descriptor of our own.
        sockets = passed()
        return asyncio.run(_serve(config, reload, sockets))
    except ConfigError as error:
        print(f"ipcd: {error}", file=sys.stderr)  # noqa: T201  # the answer to who started it, not a log
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # before the handlers were in place, so that nothing had been opened


async def _serve(config: Config, reload: Callable[[], Config], sockets: Passed) -> int:
    loop = asyncio.get_running_loop()
    node = Node(config, sockets)
    watchdog = Watchdog(watchdog_interval(os.environ))
    stop = asyncio.Event()
    interrupted = False

    def on_signal(number: int) -> None:
        nonlocal interrupted
        if stop.is_set():
            # The second time at once: whoever asks twice does not want to wait.
            node.log.warning("stopped at once", signal=signal.Signals(number).name)
            node.abandon()
            raise SystemExit(128 + number)
        interrupted = number == signal.SIGINT
        node.log.info("signal", signal=signal.Signals(number).name)
        stop.set()

    def on_hangup() -> None:
        notify_reloading()
        try:
            node.reload(reload())
        except ConfigError as error:
            node.log.error("reload failed, the settings stay as they were", reason=error)
        notify("READY=1")

    # Before there is a socket file: whoever sees it may already ask for the end of this process. `start` does not wait
    # for anything, so that none of these runs in the middle of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    await node.start()
    # What is here now stays for as long as the daemon: the collector, which stops everything while it looks through old
    # objects, has only those to look through that come from now on.
    gc.collect()
    gc.freeze()
    notify("READY=1")
    watchdog.start()
    await stop.wait()
    notify("STOPPING=1")
    await node.stop()
    watchdog.stop()
    return 130 if interrupted else 0


def _raise_descriptor_limit() -> None:
    """Each attached process is a descriptor, and the usual soft limit is a relic of select()."""
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
