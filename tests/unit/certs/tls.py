"""Two ends that shake hands by TLS 1.3, in memory, with nothing but what `Credentials` has."""

from __future__ import annotations

import os
import ssl
from typing import Any

from ipcd_client.certs.identity import Credentials


def context(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    # As Python has it by itself from 3.13 on.
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=credentials.authorities.decode())
    fd = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(fd, credentials.chain + credentials.key)
        made.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return made


def shake(server: Credentials, client: Credentials) -> list[ssl.SSLObject]:
    """The client's end and the server's.

    Raises:
        ssl.SSLError: one of them does not accept the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context(client, server=False).wrap_bio(to_client, to_server),
        context(server, server=True).wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    # Hello; the server's flight; the client's, which ends it for both.
    for _ in range(3):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    assert all(end.version() == "TLSv1.3" for end in ends)
    return ends


def meet(server: Credentials, client: Credentials) -> tuple[Any, Any]:
    """The certificates that the two see of each other: the server's, as the client has it, and the client's."""
    ends = shake(server, client)
    return ends[0].getpeercert(), ends[1].getpeercert()


def accepts(server: Credentials, client: Credentials) -> bool:
    try:
        meet(server, client)
    except ssl.SSLCertVerificationError:
        return False
    return True
