"""Where discovery speaks, and what it announces there."""

from __future__ import annotations

import asyncio
from ipaddress import ip_interface

import pytest

from ipcd.discovery import interfaces
from ipcd.discovery.interfaces import Changes, Interface, Plan, nearest, plan
from ipcd.listener import where_from


def interface(name: str, index: int, *addresses: str) -> Interface:
    return Interface(name, index, tuple(map(ip_interface, addresses)))


LO = interface("lo", 1, "127.0.0.1/8", "::1/128")
ETH0 = interface("eth0", 2, "192.0.2.2/24", "fd00::2/64", "fe80::2/64")
ETH1 = interface("eth1", 3, "198.51.100.7/24")
VETH = interface("veth7", 9, "fe80::7/64")
ALL = [LO, ETH0, ETH1, VETH]
EVERY_IPV4 = ((1, "127.0.0.1"), (2, "192.0.2.2"), (3, "198.51.100.7"))


@pytest.mark.parametrize(
    ("listen", "chosen", "expected"),
    [
        ("127.0.0.1", (), Plan(((1, "127.0.0.1"),), (), ("127.0.0.1",))),
        ("192.0.2.2", (), Plan(((2, "192.0.2.2"),), (), ("192.0.2.2",))),
        ("fd00::2", (), Plan((), ((2, "eth0"),), ("fd00::2",))),
        ("fe80::7%veth7", (), Plan((), ((9, "veth7"),), ("fe80::7",))),
        ("0.0.0.0", (), Plan(EVERY_IPV4, (), ("192.0.2.2", "198.51.100.7"))),
        ("::", (), Plan(EVERY_IPV4, ((2, "eth0"),), ("192.0.2.2", "fd00::2", "198.51.100.7"))),
        ("0.0.0.0", ("eth1",), Plan(((3, "198.51.100.7"),), (), ("198.51.100.7",))),
        ("::", ("eth0",), Plan(((2, "192.0.2.2"),), ((2, "eth0"),), ("192.0.2.2", "fd00::2"))),
        ("::", ("192.0.2.2",), Plan(((2, "192.0.2.2"),), (), ("192.0.2.2",))),
        ("::", ("veth7",), Plan((), ((9, "veth7"),), ("fe80::7",))),
        # It listens on one and is told to speak on another: it is reached where it listens.
        ("192.0.2.2", ("eth1",), Plan(((3, "198.51.100.7"),), (), ("192.0.2.2",))),
        ("0.0.0.0", ("eth5",), Plan()),
        ("203.0.113.1", (), Plan((), (), ("203.0.113.1",))),
    ],
)
def test_the_plan(listen: str, chosen: tuple[str, ...], expected: Plan) -> None:
    assert plan(ALL, [listen], chosen) == expected


def test_a_machine_without_any_network_has_its_loopback() -> None:
    assert plan([LO], ["0.0.0.0"]) == Plan(((1, "127.0.0.1"),), (), ("127.0.0.1",))


def test_an_interface_that_comes_back_as_another_is_a_change() -> None:
    again = interface("eth1", 17, "198.51.100.7/24")
    assert plan([ETH1], ["0.0.0.0"]) != plan([again], ["0.0.0.0"])


def test_addresses_of_our_own_networks_are_dialed_first() -> None:
    told = ["172.17.0.1", "198.51.100.9", "fd99::1", "fd00::9"]
    assert nearest(told, ALL) == ["198.51.100.9", "fd00::9", "172.17.0.1", "fd99::1"]
    assert nearest(["fe80::9%eth0", "10.1.1.1"], ALL) == ["fe80::9%eth0", "10.1.1.1"]


def test_this_machine_has_some() -> None:
    found = {str(one.ip) for interface in interfaces.every() for one in interface.addresses}
    assert "127.0.0.1" in found


def test_waiting_for_changes_ends_without_any() -> None:
    async def main() -> None:
        changes = Changes()
        try:
            await changes.wait(0.01)
        finally:
            changes.close()
        changes.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "where"),
    [
        (("192.0.2.2", 7), "192.0.2.2:7"),
        (("fd00::2", 7, 0, 0), "[fd00::2]:7"),
        (("::ffff:192.0.2.2", 7, 0, 0), "192.0.2.2:7"),
        (("fe80::2", 7, 0, 1), "[fe80::2%lo]:7"),
    ],
)
def test_where_a_connection_is_from(address: tuple[object, ...], where: str) -> None:
    assert where_from(address) == where
