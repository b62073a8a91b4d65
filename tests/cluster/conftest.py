"""Clusters for tests, where there can be any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from cluster.hosts import Cluster
from cluster.netns import NoNamespaces

MakeCluster = Callable[..., Cluster]


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
def make_cluster(_reason: str) -> Iterator[MakeCluster]:
    """Makes a cluster of hosts with these names, which ends with the test."""
    if _reason:
        pytest.skip(_reason)
    clusters: list[Cluster] = []

    def make(*names: str) -> Cluster:
        clusters.append(Cluster(*names))
        return clusters[-1]

    yield make
    wrong: list[str] = []
    for cluster in clusters:
        # Shown if the test fails.
        print(cluster.logs())
        wrong += cluster.close()
    assert not wrong, "\n".join(wrong)
