"""A server's own health service, heeded on an event loop. See `facade.health`."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from ipcd_client.facade.health import States, request
from ipcd_client.facade.shapes import Handler

log = logging.getLogger("ipcd_client")


class _Context:
    """All that `Watch` may ask for."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell

    async def write(self, response: Any) -> None:
        self._tell(response)

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return False


class Health:
    """Watches for a server on the running loop. `changed` gets what is to be registered, whenever that is something
    else."""

    def __init__(self, handler: Handler | None, states: States, changed: Callable[[list[str]], None]) -> None:
        self.states = states
        self._changed = changed
        behavior = handler.unary_stream if handler is not None else None
        self._watches: list[asyncio.Task[None]] = []
        if handler is None or not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
            return
        loop = asyncio.get_running_loop()
        self._watches = [
            loop.create_task(self._watch(behavior, request(handler, service), service), name="ipcd-health")
            for service in states.asked
        ]

    async def close(self) -> None:
        """Watches no more."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _watch(self, behavior: Any, asked: Any, service: str) -> None:
        def tell(response: Any) -> None:
            if self.states.put(service, response.status):
                self._changed(self.states.serving())

        try:
            if inspect.isasyncgenfunction(behavior):
                async for response in behavior(asked, _Context(tell)):
                    tell(response)
            else:
                await behavior(asked, _Context(tell))
        except Exception:
            log.exception("the health of %s cannot be watched", service or "the server")
