"""The benchmark of many nodes: its cluster is one, and its arithmetic is right."""

from __future__ import annotations

import random

import pytest

from benchmarks import mesh
from benchmarks.cluster import slope


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_slope(power: float) -> None:
    assert slope([(x, 7 * x**power) for x in (10, 30, 100)]) == pytest.approx(power)


def test_all_nodes_are_linked_and_equal() -> None:
    cluster = mesh.Mesh(5)
    mesh.change(cluster, 7, random.Random(1))
    mesh.join(cluster)
    owned = {node.members.node: node.catalog.count(node.members.node) for node in cluster.nodes}
    for node in cluster.nodes:
        assert len(node.members.links) == 5, "the others, and the one that joined"
        assert {name: node.catalog.count(name) for name in owned} == owned


def test_a_change_costs_every_link_the_same() -> None:
    few, many = (mesh.change(mesh.Mesh(count), 9, random.Random(1)) for count in (4, 12))
    assert few["change_bytes_per_link"] == many["change_bytes_per_link"]
    assert few["change_bytes"] == 3 * few["change_bytes_per_link"]
