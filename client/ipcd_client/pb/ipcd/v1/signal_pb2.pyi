from ipcd_client.pb.ipcd.v1 import node_pb2 as _node_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaiseRequest(_message.Message):
    __slots__ = ("name", "pid", "pid_node", "group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PID_NODE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    pid: int
    pid_node: str
    group: str
    def __init__(self, name: _Optional[str] = ..., pid: _Optional[int] = ..., pid_node: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class RaiseReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Told]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Told, _Mapping]]] = ...) -> None: ...

class Told(_message.Message):
    __slots__ = ("node", "listeners", "error")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    node: str
    listeners: int
    error: str
    def __init__(self, node: _Optional[str] = ..., listeners: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class Flag(_message.Message):
    __slots__ = ("name", "process", "identity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    process: _node_pb2.Process
    identity: str
    def __init__(self, name: _Optional[str] = ..., process: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., identity: _Optional[str] = ...) -> None: ...

class ListenRequest(_message.Message):
    __slots__ = ("name", "group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: str
    def __init__(self, name: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class ListenReply(_message.Message):
    __slots__ = ("listening", "raised")
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    listening: Listening
    raised: Flag
    def __init__(self, listening: _Optional[_Union[Listening, _Mapping]] = ..., raised: _Optional[_Union[Flag, _Mapping]] = ...) -> None: ...

class Listening(_message.Message):
    __slots__ = ("node", "listener")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LISTENER_FIELD_NUMBER: _ClassVar[int]
    node: str
    listener: str
    def __init__(self, node: _Optional[str] = ..., listener: _Optional[str] = ...) -> None: ...

class TakeRequest(_message.Message):
    __slots__ = ("name", "listener")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LISTENER_FIELD_NUMBER: _ClassVar[int]
    name: str
    listener: str
    def __init__(self, name: _Optional[str] = ..., listener: _Optional[str] = ...) -> None: ...

class TakeReply(_message.Message):
    __slots__ = ("raised",)
    RAISED_FIELD_NUMBER: _ClassVar[int]
    raised: Flag
    def __init__(self, raised: _Optional[_Union[Flag, _Mapping]] = ...) -> None: ...

class ListListenersRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListListenersReply(_message.Message):
    __slots__ = ("listeners",)
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    listeners: _containers.RepeatedCompositeFieldContainer[Listener]
    def __init__(self, listeners: _Optional[_Iterable[_Union[Listener, _Mapping]]] = ...) -> None: ...

class Listener(_message.Message):
    __slots__ = ("name", "group", "process", "node", "raised", "coalesced")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    COALESCED_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: str
    process: _node_pb2.Process
    node: str
    raised: int
    coalesced: int
    def __init__(self, name: _Optional[str] = ..., group: _Optional[str] = ..., process: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., node: _Optional[str] = ..., raised: _Optional[int] = ..., coalesced: _Optional[int] = ...) -> None: ...

class WatchExitRequest(_message.Message):
    __slots__ = ("name", "by", "pidfd_id")
    class By(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BY_PID: _ClassVar[WatchExitRequest.By]
        BY_SERVICE: _ClassVar[WatchExitRequest.By]
        BY_SERVER: _ClassVar[WatchExitRequest.By]
    BY_PID: WatchExitRequest.By
    BY_SERVICE: WatchExitRequest.By
    BY_SERVER: WatchExitRequest.By
    NAME_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    PIDFD_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    by: WatchExitRequest.By
    pidfd_id: int
    def __init__(self, name: _Optional[str] = ..., by: _Optional[_Union[WatchExitRequest.By, str]] = ..., pidfd_id: _Optional[int] = ...) -> None: ...

class WatchExitReply(_message.Message):
    __slots__ = ("watching", "exited")
    WATCHING_FIELD_NUMBER: _ClassVar[int]
    EXITED_FIELD_NUMBER: _ClassVar[int]
    watching: _node_pb2.Process
    exited: Exited
    def __init__(self, watching: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., exited: _Optional[_Union[Exited, _Mapping]] = ...) -> None: ...

class Exited(_message.Message):
    __slots__ = ("process", "ended", "code", "signal", "core_dumped", "source")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    process: _node_pb2.Process
    ended: float
    code: int
    signal: int
    core_dumped: bool
    source: str
    def __init__(self, process: _Optional[_Union[_node_pb2.Process, _Mapping]] = ..., ended: _Optional[float] = ..., code: _Optional[int] = ..., signal: _Optional[int] = ..., core_dumped: bool = ..., source: _Optional[str] = ...) -> None: ...

class TellExitRequest(_message.Message):
    __slots__ = ("name", "wait_status")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    wait_status: int
    def __init__(self, name: _Optional[str] = ..., wait_status: _Optional[int] = ...) -> None: ...

class TellExitReply(_message.Message):
    __slots__ = ("watches",)
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    watches: int
    def __init__(self, watches: _Optional[int] = ...) -> None: ...
