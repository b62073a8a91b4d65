"""A real systemd in namespaces of its own, which knows the units of a test and no others, and can change nothing of the
machine: what it sees of the file system is read-only, or in memory and its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from integration.daemons import LONG, eventually

BINARY = "/lib/systemd/systemd"
ROOT = Path(__file__).parents[2]
_TARGETS = ("test", "sysinit", "basic", "shutdown", "sockets", "network-online", "multi-user")

# $1 a directory to mount things on, $2 the name of its cgroup, $3 the units, then paths that have to be seen. Mounts
# are seen in here alone, and a command that fails ends it. /tmp and the like are new ones, in memory.
_ENTER = r"""
set -eu
root=$1 name=$2 units=$3; shift 3
mount --make-rprivate /
mount -t cgroup2 cgroup "$root"; mkdir "$root/$name"; echo $$ > "$root/$name/cgroup.procs"; umount "$root"
mount --bind / "$root"; mount -o remount,bind,ro "$root"
for each in dev run tmp var; do mount -t tmpfs -o mode=755 "$each" "$root/$each"; done
mkdir -p "$root/run/systemd" "$root/var/tmp" "$root/run/old"; chmod 1777 "$root/tmp" "$root/var/tmp"
cp -r "$units" "$root/run/systemd/system"
for path; do
    [ -d "$root$path" ] || mkdir -p "$root$path"
    mount --bind "$path" "$root$path"; mount -o remount,bind,ro "$root$path"
done
for each in pts shm mqueue hugepages; do mkdir "$root/dev/$each"; done
ln -s pts/ptmx "$root/dev/ptmx"; : > "$root/dev/console"
for each in null zero full random urandom tty; do : > "$root/dev/$each"; mount --bind /dev/$each "$root/dev/$each"; done
mount -t proc proc "$root/proc"; mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"; mount -t sysfs -o ro sysfs "$root/sys"
ip link set lo up
cd "$root"; pivot_root . run/old; umount -l /run/old
exec unshare --cgroup sh -c 'mount -t cgroup2 cgroup /sys/fs/cgroup && exec env -i PATH=/usr/bin:/bin \
    container=ipcd-test SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/nonexistent \
    /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no'
"""

# The same $1 and $2.
_LEAVE = """
set -eu
mount --make-rprivate /; mount -t cgroup2 cgroup "$1"; [ ! -d "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} +
"""


def missing() -> str:
    """Why there can be none here; empty if there can."""
    if not os.environ.get("IPCD_SYSTEMD"):
        return "a systemd of its own is booted only where IPCD_SYSTEMD is set"
    if os.geteuid() != 0:
        return "only root can make the namespaces that a systemd of its own needs"
    lacking = [tool for tool in (BINARY, "unshare", "nsenter", "ip", "systemctl") if not shutil.which(tool)]
    if lacking:
        return f"there is no {', '.join(lacking)}"
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        return "the kernel has no cgroup2"
    apart = [path for path in _seen() if not path.startswith(("/tmp/", "/var/")) and _device(path) != _device("/")]
    if apart:
        return f"{apart[0]} is on another file system than /, and would not be seen"
    tried = subprocess.run([*_unshared(), "mount", "--make-rprivate", "/"], capture_output=True, text=True)
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else ""


def _seen() -> list[str]:
    """Where the interpreter and the program are."""
    return sorted({str(ROOT), sys.prefix, sys.base_prefix} - {"/usr"})


def _device(path: str) -> int:
    return Path(path).stat().st_dev


def _unshared() -> list[str]:
    return ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]


class Systemd:
    """It runs. Its /run is its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = 0

    def up(self) -> None:
        """Waits until it is."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def forked() -> int:
            assert self._process.poll() is None, self._log.read_text()
            return int(children.read_text() or 0)

        def running() -> bool:
            return bool(forked()) and self.ctl("is-system-running", check=False) == "running"

        self.pid = eventually(forked, "systemd is forked")
        eventually(running, "systemd is up")

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Runs systemctl: what it prints."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-C", "systemctl", "--no-pager", *arguments],
            capture_output=True,
            text=True,
            timeout=LONG,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property."""
        return self.ctl("show", "--property", name, "--value", unit)

    def path(self, path: str) -> Path:
        """One of its files, from outside."""
        return Path(f"/proc/{self.pid}/root{path}")


@contextlib.contextmanager
def booted(units: Mapping[str, str]) -> Iterator[Systemd]:
    """One with these unit files (and drop-ins, as NAME.d/FILE)."""
    targets = {f"{name}.target": f"[Unit]\nDescription={name}\nDefaultDependencies=no\n" for name in _TARGETS}
    with tempfile.TemporaryDirectory(prefix="ipcd-s-") as made:
        folder = Path(made)
        for name, text in {**targets, **units}.items():
            file = folder / "units" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        root = folder / "root"
        root.mkdir()
        where = [str(root), folder.name]
        command = [*_unshared(), "sh", "-c", _ENTER, "sh", *where, str(folder / "units"), *_seen()]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            systemd = Systemd(process, folder / "log")
            systemd.up()
            yield systemd
        finally:
            # With it goes the first process of its PID namespace, and with that one all others.
            process.kill()
            process.wait(LONG)
            leave = ["unshare", "--mount", "sh", "-c", _LEAVE, "sh", *where]
            eventually(lambda: subprocess.run(leave, capture_output=True).returncode == 0, "its cgroup is empty")
