"""What holds for every test: no outside daemon or setting is seen, nothing is left behind."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest
from ipcd_client.sync import waker

# Whoever starts the tests in the background of a script has SIGINT ignored, and what they start inherits that: but some
# tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A thread that waits has one eventfd for its life, and this thread lives as long as pytest: it is no test's leak.
waker.mine()

# The assertions of the contract suites explain themselves as those of test modules do. Said here, before any of them is
# imported.
pytest.register_assert_rewrite("ipcd_client.testing", "conformance.interop")

# pytester is for the tests of the plugins; it has to be named in the top conftest.
pytest_plugins = ["plugins.leaks", "pytester"]

# A deadline per example measures the machine. The number of examples bounds the time instead.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings() -> None:
    """A daemon that the person at the machine runs, and settings meant for it, are none of a test's business.

    For the whole run, and not restored: pytest ends with it.
    """
    for name in [name for name in os.environ if name.startswith("IPCD_")]:
        del os.environ[name]
    os.environ["XDG_RUNTIME_DIR"] = str(Path(tempfile.gettempdir()))
