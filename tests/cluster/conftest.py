"""Clusters for tests, where there can be any."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator

import pytest
from cluster.hosts import Cluster
from cluster.netns import NoNamespaces

MakeCluster = Callable[..., Cluster]

_CLUSTERS = pytest.StashKey[list[Cluster]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the processes wrote, where a test fails."""
    report = yield
    if report.failed and report.when != "teardown":
        for cluster in item.stash.get(_CLUSTERS, []):
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
    clusters: list[Cluster] = []
    request.node.stash[_CLUSTERS] = clusters

    def make(*names: str) -> Cluster:
        clusters.append(Cluster(*names))
        return clusters[-1]

    yield make
    wrong: list[str] = []
    for cluster in clusters:
        # Shown if the teardown finds something wrong.
        print(cluster.logs())
        wrong += cluster.close()
    assert not wrong, "\n".join(wrong)
