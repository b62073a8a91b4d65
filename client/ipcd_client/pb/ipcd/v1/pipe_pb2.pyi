from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PipeSide(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIPE_SIDE_UNSPECIFIED: _ClassVar[PipeSide]
    PIPE_SIDE_READ: _ClassVar[PipeSide]
    PIPE_SIDE_WRITE: _ClassVar[PipeSide]
PIPE_SIDE_UNSPECIFIED: PipeSide
PIPE_SIDE_READ: PipeSide
PIPE_SIDE_WRITE: PipeSide

class PipeAddress(_message.Message):
    __slots__ = ("node", "server", "key")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    node: str
    server: str
    key: bytes
    def __init__(self, node: _Optional[str] = ..., server: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class PipeOpen(_message.Message):
    __slots__ = ("name", "side", "wait", "reader", "again")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    side: PipeSide
    wait: float
    reader: PipeAddress
    again: bool
    def __init__(self, name: _Optional[str] = ..., side: _Optional[_Union[PipeSide, str]] = ..., wait: _Optional[float] = ..., reader: _Optional[_Union[PipeAddress, _Mapping]] = ..., again: bool = ...) -> None: ...

class PipeNews(_message.Message):
    __slots__ = ("others", "readers", "node")
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    others: int
    readers: _containers.RepeatedCompositeFieldContainer[PipeAddress]
    node: str
    def __init__(self, others: _Optional[int] = ..., readers: _Optional[_Iterable[_Union[PipeAddress, _Mapping]]] = ..., node: _Optional[str] = ...) -> None: ...

class PipeMake(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PipeEnd(_message.Message):
    __slots__ = ("name", "side")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    name: str
    side: PipeSide
    def __init__(self, name: _Optional[str] = ..., side: _Optional[_Union[PipeSide, str]] = ...) -> None: ...

class PipeMade(_message.Message):
    __slots__ = ("name", "node")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class PipeName(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PipeFacts(_message.Message):
    __slots__ = ("name", "node", "readers", "writers", "waiting", "stays")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STAYS_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    readers: int
    writers: int
    waiting: int
    stays: bool
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., readers: _Optional[int] = ..., writers: _Optional[int] = ..., waiting: _Optional[int] = ..., stays: bool = ...) -> None: ...

class PipeRemoved(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PipeWrite(_message.Message):
    __slots__ = ("name", "wait", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    wait: float
    data: bytes
    def __init__(self, name: _Optional[str] = ..., wait: _Optional[float] = ..., data: _Optional[bytes] = ...) -> None: ...

class PipeWritten(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class PipeRead(_message.Message):
    __slots__ = ("name", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    wait: float
    def __init__(self, name: _Optional[str] = ..., wait: _Optional[float] = ...) -> None: ...

class PipeData(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class PipeGive(_message.Message):
    __slots__ = ("key", "data")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    data: bytes
    def __init__(self, key: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class PipeCredit(_message.Message):
    __slots__ = ("taken", "window", "closed")
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    taken: int
    window: int
    closed: bool
    def __init__(self, taken: _Optional[int] = ..., window: _Optional[int] = ..., closed: bool = ...) -> None: ...
