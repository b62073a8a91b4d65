"""What a health service says, and what is made of it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from ipcd_client.expose.health import Health, Monitor
from ipcd_client.pb.ipcd.grpc.health_pb2 import HealthCheckRequest, HealthCheckResponse

LONG = 20.0  # seconds: far more than anything here takes

HEALTH = "grpc.health.v1.Health"
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = (HealthCheckResponse.ServingStatus.values())[:4]


class Statuses:
    """A health service whose watches are ended by the test: each gives the name's status, and waits."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.watches: queue.Queue[queue.Queue[bool]] = queue.Queue()

    def watch(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:
        if not request.service:
            # Of the whole server nothing ends it but the caller.
            yield self._status("whole")
            gone: queue.Queue[None] = queue.Queue()
            context.add_callback(lambda: gone.put(None))
            gone.get(timeout=LONG)
            return
        end: queue.Queue[bool] = queue.Queue()
        context.add_callback(lambda: end.put(True))
        if not self.statuses.get("silent"):
            yield self._status("service")
        self.watches.put(end)
        end.get(timeout=LONG)

    def _status(self, name: str) -> HealthCheckResponse:
        return HealthCheckResponse(status=self.statuses.get(name, SERVICE_UNKNOWN))  # type: ignore[arg-type]

    def handlers(self) -> dict[str, dict[str, Any]]:
        """As a server takes them."""
        made = grpc.unary_stream_rpc_method_handler(
            self.watch, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )
        return {HEALTH: {"Watch": made}}


@pytest.fixture
def told(serve: Any) -> Iterator[Callable[[Statuses], queue.Queue[Health]]]:
    """Follows a health service; gives what is told of p.Service."""
    monitors: list[Monitor] = []

    def begin(statuses: Statuses) -> queue.Queue[Health]:
        news: queue.Queue[Health] = queue.Queue()
        monitor = Monitor(serve(statuses.handlers()), ["p.Service"], news.put)
        monitors.append(monitor)
        monitor.start()
        return news

    yield begin
    while monitors:
        monitors.pop().close()


Told = Callable[[Statuses], "queue.Queue[Health]"]
SAYS = "the server's health service says "


@pytest.mark.parametrize(
    ("statuses", "serving", "why"),
    [
        ({"service": SERVING}, True, f"{SAYS}SERVING"),
        ({"service": NOT_SERVING}, False, f"{SAYS}NOT_SERVING"),
        ({"service": UNKNOWN}, False, f"{SAYS}UNKNOWN"),
        ({"service": 17}, False, f"{SAYS}17"),
        # A service that it knows is not judged by the whole.
        ({"service": NOT_SERVING, "whole": SERVING}, False, f"{SAYS}NOT_SERVING"),
        ({"service": SERVING, "whole": NOT_SERVING}, True, f"{SAYS}SERVING"),
        ({"whole": SERVING}, True, f"{SAYS}SERVING of the whole server, and does not know this service"),
        ({"whole": NOT_SERVING}, False, f"{SAYS}NOT_SERVING of the whole server, and does not know this service"),
        ({}, False, "the server's health service knows neither it nor the whole server"),
    ],
)
def test_what_it_says_is_what_counts(told: Told, statuses: dict[str, int], serving: bool, why: str) -> None:
    assert told(Statuses(**statuses)).get(timeout=LONG) == Health("p.Service", serving, why)


def test_a_watch_that_ends_is_begun_again_and_changes_nothing(told: Told) -> None:
    statuses = Statuses(service=SERVING)
    news = told(statuses)
    assert news.get(timeout=LONG).serving
    for _ in range(3):
        statuses.watches.get(timeout=LONG).put(True)
    statuses.statuses["service"] = NOT_SERVING
    statuses.watches.get(timeout=LONG).put(True)
    # The next news is this, and not that a watch had ended.
    assert news.get(timeout=LONG) == Health("p.Service", False, f"{SAYS}NOT_SERVING")


def test_a_watch_that_never_answers_is_no_health(told: Told) -> None:
    statuses = Statuses(silent=1)
    news = told(statuses)
    statuses.watches.get(timeout=LONG).put(True)
    assert news.get(timeout=LONG) == Health("p.Service", False, "its health service ends every watch")
