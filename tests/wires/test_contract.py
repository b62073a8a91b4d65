"""Every wire keeps the contract."""

from __future__ import annotations

from ipcd_client.testing.fd_contract import FdContract
from ipcd_client.testing.process_contract import ProcessContract
from ipcd_client.testing.wire_contract import WireContract
from ipcd_client.testing.wire_factories import MemoryFactory, ShmFactory, TcpFactory, TlsFactory, UnixFactory


class TestMemory(WireContract):
    factory = MemoryFactory()


class TestUnix(WireContract):
    factory = UnixFactory()


class TestTcp(WireContract):
    factory = TcpFactory()


class TestTls(WireContract):
    factory = TlsFactory()


class TestShm(WireContract):
    factory = ShmFactory()


class TestUnixProcesses(ProcessContract):
    factory = UnixFactory()


class TestTcpProcesses(ProcessContract):
    factory = TcpFactory()


class TestShmProcesses(ProcessContract):
    factory = ShmFactory()


class TestMemoryDescriptors(FdContract):
    factory = MemoryFactory()


class TestUnixDescriptors(FdContract):
    factory = UnixFactory()
