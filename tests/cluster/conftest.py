"""Clusters for tests, where there can be any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest
from cluster import parts
from cluster.hosts import Cluster
from cluster.netns import NoNamespaces
from cluster.program import Program


@dataclass
class Five:
    """Hosts a to e with their daemons, a server on each, and a caller on a."""

    cluster: Cluster
    servers: dict[str, Program]
    caller: Program


MakeCluster = Callable[..., Cluster]

_CLUSTERS = pytest.StashKey[list[Cluster]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the processes wrote, where a test fails."""
    report = yield
    if report.failed and report.when != "teardown":
        for cluster in [one for node in item.listchain() for one in node.stash.get(_CLUSTERS, [])]:
            report.sections.append(("logs of the cluster", cluster.logs()))
    return report


@pytest.fixture(scope="session")
def _reason() -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        Cluster("probe").close()
    except NoNamespaces as error:
        return str(error)
    return ""


@pytest.fixture
def make_cluster(_reason: str, request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Makes a cluster of hosts with these names, which ends with the test."""
    if _reason:
        pytest.skip(_reason)
    with _closing(request.node) as clusters:

        def make(*names: str) -> Cluster:
            clusters.append(Cluster(*names))
            return clusters[-1]

        yield make


@pytest.fixture(scope="module")
def five(_reason: str, request: pytest.FixtureRequest) -> Iterator[Five]:
    """Five hosts, which all tests of a module share. There can be weather on their cables, which each test clears."""
    if _reason:
        pytest.skip(_reason)
    with _closing(request.node) as clusters:
        try:
            clusters.append(Cluster("a", "b", "c", "d", "e", weather=True))
        except NoNamespaces as error:
            pytest.skip(str(error))
        [cluster] = clusters
        for host in cluster:
            host.run_daemon()
        servers = {host.name: host.program("server") for host in cluster}
        for name, server in servers.items():
            server.do(parts.serve, name)
        yield Five(cluster, servers, cluster["a"].program("caller"))


@contextlib.contextmanager
def _closing(node: pytest.Item | pytest.Module) -> Iterator[list[Cluster]]:
    """The clusters in the list end at the end."""
    clusters: list[Cluster] = []
    node.stash[_CLUSTERS] = clusters
    yield clusters
    wrong: list[str] = []
    for cluster in clusters:
        # Shown if the teardown finds something wrong.
        print(cluster.logs())
        wrong += cluster.close()
    assert not wrong, "\n".join(wrong)
