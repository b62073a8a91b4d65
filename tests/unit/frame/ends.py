"""What the tests of verbs and frames share. They go case by case; that it holds in any order is for tests/property."""

from __future__ import annotations

import pytest
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, events
from ipcd_client.frame.settings import Settings
from ipcd_client.testing.pipe import End, join

EXHAUSTED = 8
SMALL = Settings(max_frame=4096)


def opened(caller: End, callee: End, **how: object) -> int:
    """A call that the callee knows."""
    stream_id, buffers = caller.core.open("/s/m", **how)  # type: ignore[arg-type]
    caller.send(buffers)
    (event,) = callee.deliver()
    assert isinstance(event, events.CallOpened)
    return stream_id


def violation(end: End, *buffers: codec.Buffer) -> str:
    """The name of what is wrong with the frames."""
    end.incoming += join(buffers)
    with pytest.raises(ProtocolError) as caught:
        end.deliver()
    return caught.value.violation
