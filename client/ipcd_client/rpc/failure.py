"""A call that ended with a status other than OK, as an exception of our own."""

from __future__ import annotations

import grpc

from ipcd_client.errors import NodeError
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.call import ClientCall


class CallFailed(NodeError):
    """What a call of our own control traffic ended with. The facades raise `grpc.RpcError`s instead, whose details are
    this error's text."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailing: md.Metadata = (), *, refused: bool = False
    ) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailing = trailing
        self.refused = refused  # never reached a handler: may be tried elsewhere

    @classmethod
    def of(cls, call: ClientCall) -> CallFailed:
        """Of a call that has ended."""
        code = call.code if call.code is not None else grpc.StatusCode.UNKNOWN
        return cls(code, call.details, call.trailing_metadata, refused=call.refused)
