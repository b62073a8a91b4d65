"""The contract that every wire keeps, as tests.

A kind of wire is held to it by a subclass in a test module::

    class TestUnix(WireContract):
        factory = UnixFactory()

Its parts are in the modules beside this one, each named for its class. Two are not for every kind: `FdContract` is for
those that carry descriptors, `ProcessContract` for those that cross processes.
"""

from __future__ import annotations

from ipcd_client.testing.end_contract import EndContract
from ipcd_client.testing.flow_contract import FlowContract
from ipcd_client.testing.shortcut_contract import ShortcutContract


class WireContract(FlowContract, EndContract, ShortcutContract):
    """All that holds for wires of every kind."""
