"""Certificates of a cluster that is made for tests, in memory."""

from __future__ import annotations

import functools
import time

from ipcd_client.access import identity as identities
from ipcd_client.certs import making
from ipcd_client.certs.identity import Credentials

CLUSTER = "tests"


class TestAuthority:
    """Of a cluster of nodes whose keys nobody keeps."""

    __test__ = False

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.cluster = cluster
        self._key = making.new_key()
        self._own = making.authority(cluster, self._key, time.time())
        self.pem = making.pem(self._own)

    def credentials(self, uri: str, node: str, *, since: float = 0.0) -> Credentials:
        """Of a process that is called `uri`, made by `node`, as if that had been `since` seconds ago."""
        now = time.time() - since
        key = making.new_key()
        signer = making.node(self.cluster, node, key.public_key(), self._own, self._key, now, 1)
        own = making.new_key()
        made = making.Leaves(signer, key).make(uri, "test", own.public_key(), now)
        chain = making.pem(made) + making.pem(signer)
        return Credentials(chain, making.key_pem(own), self.pem, made.not_valid_after_utc.timestamp())

    def of_process(self, node: str, uid: int) -> Credentials:
        """Of an ordinary process."""
        return self.credentials(identities.of_uid(self.cluster, node, uid), node)


@functools.cache
def authority() -> TestAuthority:
    """The one that is good for all that only needs some certificate."""
    return TestAuthority()
