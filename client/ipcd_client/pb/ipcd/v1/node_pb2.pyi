from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    TRANSPORT_SHM: _ClassVar[Transport]
    TRANSPORT_UNIX: _ClassVar[Transport]
    TRANSPORT_TCP: _ClassVar[Transport]
TRANSPORT_UNSPECIFIED: Transport
TRANSPORT_SHM: Transport
TRANSPORT_UNIX: Transport
TRANSPORT_TCP: Transport

class Process(_message.Message):
    __slots__ = ("node", "pid", "uid", "gid", "pidfd_id", "daemon")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    PIDFD_ID_FIELD_NUMBER: _ClassVar[int]
    DAEMON_FIELD_NUMBER: _ClassVar[int]
    node: str
    pid: int
    uid: int
    gid: int
    pidfd_id: int
    daemon: bool
    def __init__(self, node: _Optional[str] = ..., pid: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., pidfd_id: _Optional[int] = ..., daemon: bool = ...) -> None: ...

class Server(_message.Message):
    __slots__ = ("id", "name", "process", "services", "weight", "spillover")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SPILLOVER_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    process: Process
    services: _containers.RepeatedScalarFieldContainer[str]
    weight: int
    spillover: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., process: _Optional[_Union[Process, _Mapping]] = ..., services: _Optional[_Iterable[str]] = ..., weight: _Optional[int] = ..., spillover: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "incarnation", "version", "pid", "listen", "uptime", "servers", "discovery", "insecure", "attached", "grpc", "cluster", "identity", "certificate_expires")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: str
    version: str
    pid: int
    listen: str
    uptime: float
    servers: int
    discovery: _containers.RepeatedScalarFieldContainer[str]
    insecure: bool
    attached: int
    grpc: _containers.RepeatedScalarFieldContainer[str]
    cluster: str
    identity: str
    certificate_expires: float
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[str] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ..., listen: _Optional[str] = ..., uptime: _Optional[float] = ..., servers: _Optional[int] = ..., discovery: _Optional[_Iterable[str]] = ..., insecure: bool = ..., attached: _Optional[int] = ..., grpc: _Optional[_Iterable[str]] = ..., cluster: _Optional[str] = ..., identity: _Optional[str] = ..., certificate_expires: _Optional[float] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("node", "incarnation", "state", "address", "version", "rtt", "age", "dialed", "error", "servers", "source", "clock_offset", "clock_error", "security", "certificate_expires")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[NodeInfo.State]
        STATE_SELF: _ClassVar[NodeInfo.State]
        STATE_CONNECTING: _ClassVar[NodeInfo.State]
        STATE_LINKED: _ClassVar[NodeInfo.State]
        STATE_SUSPECT: _ClassVar[NodeInfo.State]
    STATE_UNSPECIFIED: NodeInfo.State
    STATE_SELF: NodeInfo.State
    STATE_CONNECTING: NodeInfo.State
    STATE_LINKED: NodeInfo.State
    STATE_SUSPECT: NodeInfo.State
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RTT_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    DIALED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_FIELD_NUMBER: _ClassVar[int]
    CLOCK_ERROR_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: str
    state: NodeInfo.State
    address: str
    version: str
    rtt: float
    age: float
    dialed: bool
    error: str
    servers: int
    source: str
    clock_offset: float
    clock_error: float
    security: str
    certificate_expires: float
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[str] = ..., state: _Optional[_Union[NodeInfo.State, str]] = ..., address: _Optional[str] = ..., version: _Optional[str] = ..., rtt: _Optional[float] = ..., age: _Optional[float] = ..., dialed: bool = ..., error: _Optional[str] = ..., servers: _Optional[int] = ..., source: _Optional[str] = ..., clock_offset: _Optional[float] = ..., clock_error: _Optional[float] = ..., security: _Optional[str] = ..., certificate_expires: _Optional[float] = ...) -> None: ...

class ListNodesReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ...) -> None: ...

class ListCatalogRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class ListCatalogReply(_message.Message):
    __slots__ = ("servers",)
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedCompositeFieldContainer[Server]
    def __init__(self, servers: _Optional[_Iterable[_Union[Server, _Mapping]]] = ...) -> None: ...

class WatchChangesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Changed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("service", "node", "server", "transport", "server_id", "caller")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    service: str
    node: str
    server: str
    transport: Transport
    server_id: str
    caller: str
    def __init__(self, service: _Optional[str] = ..., node: _Optional[str] = ..., server: _Optional[str] = ..., transport: _Optional[_Union[Transport, str]] = ..., server_id: _Optional[str] = ..., caller: _Optional[str] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("server", "transport", "connections", "chosen", "reason", "preferred", "refusal")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    server: Server
    transport: Transport
    connections: int
    chosen: bool
    reason: str
    preferred: bool
    refusal: str
    def __init__(self, server: _Optional[_Union[Server, _Mapping]] = ..., transport: _Optional[_Union[Transport, str]] = ..., connections: _Optional[int] = ..., chosen: bool = ..., reason: _Optional[str] = ..., preferred: bool = ..., refusal: _Optional[str] = ...) -> None: ...

class ResolveReply(_message.Message):
    __slots__ = ("candidates", "node")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    node: str
    def __init__(self, candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., node: _Optional[str] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("target", "wait", "undialed")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    UNDIALED_FIELD_NUMBER: _ClassVar[int]
    target: ResolveRequest
    wait: bool
    undialed: Undialed
    def __init__(self, target: _Optional[_Union[ResolveRequest, _Mapping]] = ..., wait: bool = ..., undialed: _Optional[_Union[Undialed, _Mapping]] = ...) -> None: ...

class Undialed(_message.Message):
    __slots__ = ("node", "reason", "server_id")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    node: str
    reason: str
    server_id: str
    def __init__(self, node: _Optional[str] = ..., reason: _Optional[str] = ..., server_id: _Optional[str] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("choice", "address", "token", "preferred", "node", "identity", "tls")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    choice: Candidate
    address: str
    token: bytes
    preferred: int
    node: str
    identity: str
    tls: Tls
    def __init__(self, choice: _Optional[_Union[Candidate, _Mapping]] = ..., address: _Optional[str] = ..., token: _Optional[bytes] = ..., preferred: _Optional[int] = ..., node: _Optional[str] = ..., identity: _Optional[str] = ..., tls: _Optional[_Union[Tls, _Mapping]] = ...) -> None: ...

class Tls(_message.Message):
    __slots__ = ("chain", "key", "authorities", "peer")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    key: bytes
    authorities: bytes
    peer: str
    def __init__(self, chain: _Optional[bytes] = ..., key: _Optional[bytes] = ..., authorities: _Optional[bytes] = ..., peer: _Optional[str] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("name", "services", "weight", "spillover", "instance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SPILLOVER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    services: _containers.RepeatedScalarFieldContainer[str]
    weight: int
    spillover: int
    instance: str
    def __init__(self, name: _Optional[str] = ..., services: _Optional[_Iterable[str]] = ..., weight: _Optional[int] = ..., spillover: _Optional[int] = ..., instance: _Optional[str] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("registered", "grant")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    grant: Grant
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("server",)
    SERVER_FIELD_NUMBER: _ClassVar[int]
    server: Server
    def __init__(self, server: _Optional[_Union[Server, _Mapping]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("caller", "transport", "service", "address", "identity", "tls", "services")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    caller: Process
    transport: Transport
    service: str
    address: str
    identity: str
    tls: Tls
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, caller: _Optional[_Union[Process, _Mapping]] = ..., transport: _Optional[_Union[Transport, str]] = ..., service: _Optional[str] = ..., address: _Optional[str] = ..., identity: _Optional[str] = ..., tls: _Optional[_Union[Tls, _Mapping]] = ..., services: _Optional[_Iterable[str]] = ...) -> None: ...
