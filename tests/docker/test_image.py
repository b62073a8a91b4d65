"""The image by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster.eventually import eventually
from docker.stack import base_image, docker

pytestmark = pytest.mark.timeout(180)

Start = Callable[..., str]


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Starts a container without a network, which ends with the test; its id."""
    containers: list[str] = []

    def run(*arguments: str, options: tuple[str, ...] = ()) -> str:
        containers.append(docker("run", "--detach", "--network", "none", *options, image, *arguments).strip())
        return containers[-1]

    yield run
    for container in containers:
        docker("rm", "--force", "--volumes", container)


def inspect(container: str) -> dict[str, Any]:
    [found] = json.loads(docker("inspect", container))
    return dict(found)


def size(image: str) -> int:
    [found] = json.loads(docker("image", "inspect", image))
    return int(found["Size"])


def test_it_is_one_users_and_has_nothing_to_install_with(start: Start) -> None:
    container = start("sleep", "infinity")
    assert docker("exec", container, "id", "-u").strip() not in {"", "0"}
    assert docker("exec", container, "sh", "-c", "command -v pip gcc || true") == ""
    assert docker("exec", container, "sh", "-c", "ls / | grep wheelhouse || true") == ""
    # Of what it has got beside its base, nothing can be changed by that user, but for the socket's directory.
    assert docker("exec", container, "find", "/opt/ipcd", "-writable", "-not", "-type", "l") == ""


def test_it_is_not_much_larger_than_its_base(image: str) -> None:
    assert size(image) - size(base_image()) < 80_000_000  # bytes; grpcio and protobuf are most of it


def test_its_health_is_the_daemons(start: Start) -> None:
    often = ("--health-interval", "1s", "--health-start-period", "0s", "--health-retries", "1")
    good, bad = start(options=often), start("sleep", "infinity", options=often)
    eventually(lambda: [inspect(c)["State"]["Health"]["Status"] for c in (good, bad)] == ["healthy", "unhealthy"])
    [*_, last] = inspect(bad)["State"]["Health"]["Log"]
    assert last["ExitCode"] == 3
    assert "no ipcd daemon at /run/ipcd/ipcd.sock" in last["Output"]


def test_it_ends_in_order_when_it_is_stopped(start: Start) -> None:
    container = start()
    eventually(lambda: docker("exec", container, "sh", "-c", "ls /run/ipcd") != "")
    docker("stop", "--time", "20", container)
    assert inspect(container)["State"]["ExitCode"] == 0


def test_it_refuses_to_listen_openly_unless_it_is_told_to(start: Start) -> None:
    container = start("ipcd", "run", "--listen", "0.0.0.0:7319")
    assert docker("wait", container).strip() == "2"
