"""packaging/systemd: what systemd itself says of the units."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from integration.daemons import LONG

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
