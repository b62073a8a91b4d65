from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration import daemons


@pytest.fixture
def cluster() -> Iterator[daemons.Daemons]:
    """Daemons of this test, ended after it."""
    with daemons.daemons() as all_of_them:
        yield all_of_them
