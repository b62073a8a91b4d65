"""Certificates: those of a cluster's authority, of its nodes, and of what runs on them.

::

    authority (10 years)                 signs nodes; the operator keeps its key
      └── node NODE (1 year)             signs what runs on its node; its key is in the node's identity file
            └── daemon, process (1 h)    what TLS shows; the key is never on a disk

`authority` is the operator's side, `identity` the daemon's. They need `cryptography`, which takes a while to import, so
nothing of this package is imported but where there are certificates.
"""
