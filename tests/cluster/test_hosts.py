"""The hosts themselves: apart from the machine, joined by their cables alone, and gone without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.conftest import MakeCluster
from cluster.eventually import LONG, eventually
from cluster.hosts import PYTHONPATH, Host
from cluster.parts import hostname

LISTEN = """
import socket, struct, sys
group, mine = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((group, 5353))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(mine))
    sock.settimeout(30)
    print("ready", flush=True)
    print(sock.recvfrom(100), flush=True)
"""
SEND = """
import socket, sys
group, mine = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(mine))
    sock.sendto(b"hello", (group, 5353))
"""
REACH = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as sock:
    sock.settimeout(1)
    # Nobody listens there: that it is refused is an answer.
    print(sock.connect_ex(socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_STREAM)[0][4]))
"""
OWNER = """
import sys, time
from cluster.hosts import Cluster
from cluster.parts import hostname
cluster = Cluster("a", "b")
try:
    a = cluster["a"]
    a.run_daemon("--no-discovery").status()
    a.program("caller").do(hostname)
    print(cluster.folder, *[pid for host in cluster for pid in host.network.processes()], flush=True)
    time.sleep(60)
finally:
    print(cluster.close(), flush=True)
"""


def reaches(host: Host, address: str) -> bool:
    return host.python(REACH, address).strip() == "111"  # ECONNREFUSED


def links_of_the_machine() -> list[str]:
    return sorted(link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"], timeout=LONG)))


def test_hosts_are_apart_from_the_machine_and_reach_each_other(make_cluster: MakeCluster) -> None:
    before = links_of_the_machine()
    cluster = make_cluster("a", "b")
    assert links_of_the_machine() == before
    for host, other in ((cluster["a"], cluster["b"]), (cluster["b"], cluster["a"])):
        links = json.loads(host.network.run("ip", "-j", "link"))
        assert {link["ifname"] for link in links} == {"lo", "eth0"}
        assert reaches(host, other.address)
        assert reaches(host, "127.0.0.1")
        assert not reaches(host, "10.78.0.1")
        if host.routed:
            assert reaches(host, other.routed)
            assert reaches(host, f"{other.link_local}%eth0")
        assert host.program("any").do(hostname) == host.name


def test_multicast_passes_and_stops_with_the_cable(make_cluster: MakeCluster) -> None:
    cluster = make_cluster("a", "b")
    a, b = cluster["a"], cluster["b"]
    group = "224.0.0.251"
    listener = b.network.start([sys.executable, "-c", LISTEN, group, b.address], stdout=subprocess.PIPE)
    with listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        b.pull_cable()
        a.python(SEND, group, a.address)
        assert not reaches(a, b.address)
        assert listener.poll() is None
        b.plug_cable()
        eventually(lambda: reaches(a, b.address))

        def sent_and_arrived() -> bool:
            a.python(SEND, group, a.address)
            return listener.poll() is not None

        eventually(sent_and_arrived)
        assert a.address.encode() in listener.stdout.read()


def runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may wait for it where process 1 does not


@pytest.mark.usefixtures("make_cluster")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_who_made_it(number: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment)
    with owner:
        assert owner.stdout is not None
        try:
            folder, *pids = owner.stdout.readline().split()
            assert len(pids) == 2
            owner.send_signal(number)
            rest = owner.stdout.read()
        finally:
            owner.kill()
    eventually(lambda: not any(map(runs, pids)), what=pids)
    if number == signal.SIGINT:
        assert rest == "[]\n"
        assert not Path(folder).exists()
    else:
        # Nobody was there to remove the folder.
        shutil.rmtree(folder)
