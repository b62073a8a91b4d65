from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration import daemons
from integration.nodejs import node


@pytest.fixture
def cluster() -> Iterator[daemons.Daemons]:
    """Daemons of this test, ended after it."""
    with daemons.daemons() as all_of_them:
        yield all_of_them


@pytest.fixture(scope="session")
def nodejs(tmp_path_factory: pytest.TempPathFactory) -> node.Node:
    """Node.js with gRPC's packages. The first test that needs it installs them, or is skipped with the reason."""
    return node.install(tmp_path_factory.mktemp("nodejs"))
