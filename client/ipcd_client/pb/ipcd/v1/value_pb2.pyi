from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ValueAllotRequest(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ValueAllotReply(_message.Message):
    __slots__ = ("ticket",)
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    def __init__(self, ticket: _Optional[bytes] = ...) -> None: ...

class ValueInfo(_message.Message):
    __slots__ = ("version", "epoch", "node", "size", "ttl", "held")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    version: int
    epoch: str
    node: str
    size: int
    ttl: float
    held: bool
    def __init__(self, version: _Optional[int] = ..., epoch: _Optional[str] = ..., node: _Optional[str] = ..., size: _Optional[int] = ..., ttl: _Optional[float] = ..., held: bool = ...) -> None: ...

class ValueGetRequest(_message.Message):
    __slots__ = ("name", "version", "epoch", "head")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    epoch: str
    head: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[str] = ..., head: bool = ...) -> None: ...

class ValueReply(_message.Message):
    __slots__ = ("info", "data", "more")
    INFO_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    info: ValueInfo
    data: bytes
    more: bool
    def __init__(self, info: _Optional[_Union[ValueInfo, _Mapping]] = ..., data: _Optional[bytes] = ..., more: bool = ...) -> None: ...

class ValueSetRequest(_message.Message):
    __slots__ = ("name", "data", "size", "version", "epoch", "ttl", "holder", "ticket")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    size: int
    version: int
    epoch: str
    ttl: float
    holder: int
    ticket: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ..., size: _Optional[int] = ..., version: _Optional[int] = ..., epoch: _Optional[str] = ..., ttl: _Optional[float] = ..., holder: _Optional[int] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class ValueSetReply(_message.Message):
    __slots__ = ("refused", "info")
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    refused: bool
    info: ValueInfo
    def __init__(self, refused: bool = ..., info: _Optional[_Union[ValueInfo, _Mapping]] = ...) -> None: ...

class ValueAddRequest(_message.Message):
    __slots__ = ("name", "amount")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    amount: int
    def __init__(self, name: _Optional[str] = ..., amount: _Optional[int] = ...) -> None: ...

class ValueAddReply(_message.Message):
    __slots__ = ("number", "info")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    number: int
    info: ValueInfo
    def __init__(self, number: _Optional[int] = ..., info: _Optional[_Union[ValueInfo, _Mapping]] = ...) -> None: ...

class ValueDeleteRequest(_message.Message):
    __slots__ = ("name", "version", "epoch", "holder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    epoch: str
    holder: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[str] = ..., holder: _Optional[int] = ...) -> None: ...

class ValueNextRequest(_message.Message):
    __slots__ = ("name", "version", "epoch", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    epoch: str
    wait: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[str] = ..., wait: _Optional[float] = ...) -> None: ...

class ValueHoldRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ValueHoldReply(_message.Message):
    __slots__ = ("holder", "epoch", "node")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    holder: int
    epoch: str
    node: str
    def __init__(self, holder: _Optional[int] = ..., epoch: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...
