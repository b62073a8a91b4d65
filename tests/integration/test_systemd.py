"""packaging/systemd: what systemd itself says of the units, and whether a daemon works in them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.daemons import LONG, eventually
from integration.ipcctl.runs import LAB, SERVER, ctl
from integration.systemd import ROOT, Systemd, booted, missing

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
# Of 100, as systemd-analyze counts: "OK" ends at 49, and a service without any hardening has 96.
EXPOSED_MOST = 20

pytestmark = pytest.mark.skipif(
    not UNITS.exists(), reason="the units are not where the tests are, as when an installed wheel is tested"
)
needs_analyze = pytest.mark.skipif(not ANALYZE, reason="there is no systemd-analyze")


def runnable(text: str) -> str:
    """A unit as it is, but for where the program lies, and whose it is."""
    here = f"ExecStart={sys.executable} -m ipcd run"
    return (
        text.replace("ExecStart=ipcd run", here)
        .replace("ExecStart=%h/.local/bin/ipcd run", here)
        .replace("User=ipcd", "User=root")
        .replace("Group=ipcd", "Group=root")
    )


@needs_analyze
@pytest.mark.parametrize("scope", ["system", "user"])
def test_units_parse(scope: str, tmp_path: Path) -> None:
    folder = UNITS if scope == "system" else UNITS / "user"
    files = [file for file in folder.iterdir() if file.suffix in {".service", ".socket"}]
    assert files
    for file in files:
        (tmp_path / file.name).write_text(runnable(file.read_text()))
    done = subprocess.run(
        [str(ANALYZE), "verify", f"--{scope}", "--man=no", *(str(tmp_path / file.name) for file in files)],
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    # It speaks of every unit that it finds on the machine; ours are those in the temporary folder.
    said = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or "ipcd" in line]
    assert said == []


@needs_analyze
def test_service_is_hardened() -> None:
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=yes", f"--threshold={EXPOSED_MOST}", str(UNITS / "ipcd.service")],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    """With the units for the system, and the gateway, whose runtime has more to be allowed."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    units = {file.name: runnable(file.read_text()) for file in UNITS.glob("ipcd*.s[eo]*")}
    # The interpreter may lie in somebody's home, which is hidden else.
    units["ipcd.service.d/test.conf"] = (
        f"[Service]\nEnvironment=IPCD_GRPC_LISTEN=127.0.0.1:50051 IPCD_NODE=a PYTHONPATH={ROOT}:{ROOT}/client\n"
        "StandardError=append:/var/ipcd.log\nProtectHome=read-only\nWatchdogSec=2\n"
    )
    with booted(units) as running:
        running.ctl("start", "ipcd.socket", "ipcd-listen.socket")
        yield running


def test_daemon_works_below_systemd(systemd: Systemd) -> None:
    socket, log = systemd.path("/run/ipcd/ipcd.sock"), systemd.path("/var/ipcd.log")
    assert systemd.show("ipcd.service", "ActiveState") == "inactive"
    # The first who attaches starts it.
    with subprocess.Popen([sys.executable, SERVER, str(socket), "lab"], stderr=subprocess.DEVNULL) as server:
        try:
            first = _daemon(systemd)
            assert re.search("listen=127.0.0.1:7319 grpc=127.0.0.1:50051", log.read_text())
            status = systemd.path(f"/proc/{first}/status").read_text()
            for line in ("NoNewPrivs:\t1", "Seccomp:\t2", f"CapEff:\t{0:016x}", f"CapBnd:\t{0:016x}"):
                assert line in status

            inode = socket.stat().st_ino
            systemd.ctl("restart", "ipcd.service")
            second = _daemon(systemd)
            assert second != first
            assert socket.stat().st_ino == inode

            systemd.ctl("reload", "ipcd.service")
            eventually(lambda: "reloaded" in log.read_text(), "the settings are read again")

            # One that does not turn any more is replaced.
            systemd.ctl("kill", f"--signal={signal.SIGSTOP:d}", "ipcd.service")
            eventually(lambda: systemd.show("ipcd.service", "NRestarts") == "1", "the watchdog bites")
            assert _daemon(systemd) != second

            systemd.ctl("stop", "ipcd.socket", "ipcd-listen.socket", "ipcd.service")
            assert systemd.show("ipcd.service", "Result") == "success"
            assert not socket.exists()
            assert not re.search("ERROR|WARNING|Traceback", log.read_text())
        finally:
            server.kill()


def _daemon(systemd: Systemd) -> str:
    """Its pid, as systemd sees it, once it has introduced somebody to the server."""

    def called() -> bool:
        done = ctl("explain", LAB, "-o", "json", "-s", str(systemd.path("/run/ipcd/ipcd.sock")))
        return done.code == 0 and done.json["transport"] == "shm"

    eventually(called, "the server answers over shared memory")
    return systemd.show("ipcd.service", "MainPID")
