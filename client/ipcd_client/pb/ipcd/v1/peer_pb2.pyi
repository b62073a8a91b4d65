from ipcd_client.pb.ipcd.v1 import names_pb2 as _names_pb2
from ipcd_client.pb.ipcd.v1 import node_pb2 as _node_pb2
from ipcd_client.pb.ipcd.v1 import signal_pb2 as _signal_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkMessage(_message.Message):
    __slots__ = ("hello", "update", "resync", "known", "clock_request", "clock_reply")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    CLOCK_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CLOCK_REPLY_FIELD_NUMBER: _ClassVar[int]
    hello: PeerHello
    update: CatalogUpdate
    resync: ResyncRequest
    known: KnownNodes
    clock_request: ClockRequest
    clock_reply: ClockReply
    def __init__(self, hello: _Optional[_Union[PeerHello, _Mapping]] = ..., update: _Optional[_Union[CatalogUpdate, _Mapping]] = ..., resync: _Optional[_Union[ResyncRequest, _Mapping]] = ..., known: _Optional[_Union[KnownNodes, _Mapping]] = ..., clock_request: _Optional[_Union[ClockRequest, _Mapping]] = ..., clock_reply: _Optional[_Union[ClockReply, _Mapping]] = ...) -> None: ...

class ClockRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("number", "received", "replied")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    REPLIED_FIELD_NUMBER: _ClassVar[int]
    number: int
    received: float
    replied: float
    def __init__(self, number: _Optional[int] = ..., received: _Optional[float] = ..., replied: _Optional[float] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("node", "incarnation", "cluster", "version", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: str
    cluster: str
    version: str
    address: str
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[str] = ..., cluster: _Optional[str] = ..., version: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class CatalogUpdate(_message.Message):
    __slots__ = ("revision", "full", "servers", "removed_ids", "names", "removed_names")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_IDS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_NAMES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    full: bool
    servers: _containers.RepeatedCompositeFieldContainer[_node_pb2.Server]
    removed_ids: _containers.RepeatedScalarFieldContainer[str]
    names: _containers.RepeatedCompositeFieldContainer[_names_pb2.Name]
    removed_names: _containers.RepeatedCompositeFieldContainer[NameKey]
    def __init__(self, revision: _Optional[int] = ..., full: bool = ..., servers: _Optional[_Iterable[_Union[_node_pb2.Server, _Mapping]]] = ..., removed_ids: _Optional[_Iterable[str]] = ..., names: _Optional[_Iterable[_Union[_names_pb2.Name, _Mapping]]] = ..., removed_names: _Optional[_Iterable[_Union[NameKey, _Mapping]]] = ...) -> None: ...

class NameKey(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ResyncRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KnownNodes(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[KnownNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[KnownNode, _Mapping]]] = ...) -> None: ...

class KnownNode(_message.Message):
    __slots__ = ("node", "incarnation", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: str
    address: str
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class IntroduceRequest(_message.Message):
    __slots__ = ("target", "caller", "called_for")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CALLED_FOR_FIELD_NUMBER: _ClassVar[int]
    target: _node_pb2.ResolveRequest
    caller: _node_pb2.Process
    called_for: str
    def __init__(self, target: _Optional[_Union[_node_pb2.ResolveRequest, _Mapping]] = ..., caller: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., called_for: _Optional[str] = ...) -> None: ...

class IntroduceReply(_message.Message):
    __slots__ = ("server", "token", "as_daemon")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_DAEMON_FIELD_NUMBER: _ClassVar[int]
    server: _node_pb2.Server
    token: bytes
    as_daemon: bool
    def __init__(self, server: _Optional[_Union[_node_pb2.Server, _Mapping]] = ..., token: _Optional[bytes] = ..., as_daemon: bool = ...) -> None: ...

class ConnectBackRequest(_message.Message):
    __slots__ = ("introduction", "token")
    INTRODUCTION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    introduction: bytes
    token: bytes
    def __init__(self, introduction: _Optional[bytes] = ..., token: _Optional[bytes] = ...) -> None: ...

class ConnectBackReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("holder",)
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    holder: str
    def __init__(self, holder: _Optional[str] = ...) -> None: ...

class PeerRaiseRequest(_message.Message):
    __slots__ = ("request", "process", "identity", "others")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    request: _signal_pb2.RaiseRequest
    process: _node_pb2.Process
    identity: str
    others: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request: _Optional[_Union[_signal_pb2.RaiseRequest, _Mapping]] = ..., process: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., identity: _Optional[str] = ..., others: _Optional[_Iterable[str]] = ...) -> None: ...

class ChaseRequest(_message.Message):
    __slots__ = ("origin", "chase", "hops", "steps")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CHASE_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    origin: ChaseWait
    chase: bytes
    hops: int
    steps: _containers.RepeatedCompositeFieldContainer[ChaseStep]
    def __init__(self, origin: _Optional[_Union[ChaseWait, _Mapping]] = ..., chase: _Optional[bytes] = ..., hops: _Optional[int] = ..., steps: _Optional[_Iterable[_Union[ChaseStep, _Mapping]]] = ...) -> None: ...

class ChaseStep(_message.Message):
    __slots__ = ("session", "last", "way")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    last: ChaseWait
    way: bytes
    def __init__(self, session: _Optional[bytes] = ..., last: _Optional[_Union[ChaseWait, _Mapping]] = ..., way: _Optional[bytes] = ...) -> None: ...

class ChaseWait(_message.Message):
    __slots__ = ("node", "number", "began")
    NODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    node: str
    number: int
    began: int
    def __init__(self, node: _Optional[str] = ..., number: _Optional[int] = ..., began: _Optional[int] = ...) -> None: ...

class ChaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
