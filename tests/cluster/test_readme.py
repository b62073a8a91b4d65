"""What the README has people type, typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import parts
from cluster.eventually import LONG, eventually

if TYPE_CHECKING:
    from cluster.conftest import MakeCluster

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"in four commands:\n\n```\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"(\w+)\$ (.*?)(?:\s+#.*)?")


@pytest.mark.skipif(not README.exists(), reason="the documents are not beside an installed wheel")
def test_a_secured_cluster_in_four_commands(make_cluster: MakeCluster) -> None:
    block = BLOCK.search(README.read_text())
    assert block is not None
    typed = [COMMAND.fullmatch(line) for line in block[1].splitlines()]
    commands = [(match[1], shlex.split(match[2])) for match in typed if match is not None]
    assert len(commands) == len(typed) == 4
    cluster = make_cluster("host1", "host2")
    for where, command in commands:
        if where in cluster.hosts:
            cluster[where].run_typed(*command)
            continue
        assert command[0] == "ipcctl"
        subprocess.run(
            [sys.executable, "-m", "ipcd_client.cli", *command[1:]],
            cwd=cluster.folder,
            env=os.environ | {"HOME": str(cluster.folder), "XDG_CONFIG_HOME": str(cluster.folder / "config")},
            check=True,
            timeout=LONG,
        )
    cluster.all_linked()
    cluster["host1"].program("server").do(parts.serve, "one")
    eventually(lambda: cluster["host2"].node.serving() == {("host1", "one")})
    caller = cluster["host2"].program("caller")
    initial, _ = caller.do(parts.with_metadata, ())
    seen = dict(initial)
    assert seen["caller-transport_security_type"] == "tls"
    assert seen["caller-ipcd_identity"] == f"spiffe://lab/node/host2/uid/{os.getuid()}"
