"""All four kinds of calls, from a program in a container."""

from __future__ import annotations

import hashlib

from cluster import parts as calls
from cluster.program import Program


def all_four(caller: Program) -> None:
    """Each is answered rightly, with messages small and large."""
    chunk = bytes(range(256)) * 256  # 64 KiB
    # More than the window of a call, and than what the kernel takes at once.
    large = chunk * 40
    assert caller.do(calls.digest, large) == hashlib.sha256(large).hexdigest()
    assert caller.do(calls.digest_stream, chunk, 300) == (hashlib.sha256(chunk * 300).hexdigest(), 300 << 16)
    assert len(caller.do(calls.search, "import", "**/*.py", 3000)) == 3000
    session = caller.do(calls.open_session)
    assert caller.do(calls.ask, session, "cd json")
    assert "decoder.py" in " ".join(caller.do(calls.ask, session, "ls"))
    assert caller.do(calls.end_session, session) == "OK"
