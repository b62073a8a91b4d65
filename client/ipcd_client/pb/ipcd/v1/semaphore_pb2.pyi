from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SemaphoreOperation(_message.Message):
    __slots__ = ("name", "delta", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    delta: int
    value: int
    def __init__(self, name: _Optional[str] = ..., delta: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...

class SemaphoreRequest(_message.Message):
    __slots__ = ("name", "value", "operations", "wait", "party")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    operations: _containers.RepeatedCompositeFieldContainer[SemaphoreOperation]
    wait: float
    party: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[SemaphoreOperation, _Mapping]]] = ..., wait: _Optional[float] = ..., party: _Optional[str] = ...) -> None: ...

class SemaphoreReply(_message.Message):
    __slots__ = ("token", "values")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    token: int
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token: _Optional[int] = ..., values: _Optional[_Iterable[int]] = ...) -> None: ...

class SemaphoreLookRequest(_message.Message):
    __slots__ = ("name", "all")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    name: str
    all: bool
    def __init__(self, name: _Optional[str] = ..., all: bool = ...) -> None: ...

class SemaphoreParty(_message.Message):
    __slots__ = ("node", "pid", "party", "seconds", "count")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    node: str
    pid: int
    party: str
    seconds: float
    count: int
    def __init__(self, node: _Optional[str] = ..., pid: _Optional[int] = ..., party: _Optional[str] = ..., seconds: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class SemaphoreInfo(_message.Message):
    __slots__ = ("name", "value", "initial", "held", "waiting", "holders", "waiters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    initial: int
    held: int
    waiting: int
    holders: _containers.RepeatedCompositeFieldContainer[SemaphoreParty]
    waiters: _containers.RepeatedCompositeFieldContainer[SemaphoreParty]
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ..., initial: _Optional[int] = ..., held: _Optional[int] = ..., waiting: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[SemaphoreParty, _Mapping]]] = ..., waiters: _Optional[_Iterable[_Union[SemaphoreParty, _Mapping]]] = ...) -> None: ...

class SemaphoreWait(_message.Message):
    __slots__ = ("who", "name")
    WHO_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    who: SemaphoreParty
    name: str
    def __init__(self, who: _Optional[_Union[SemaphoreParty, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...

class SemaphoreCircle(_message.Message):
    __slots__ = ("waits",)
    WAITS_FIELD_NUMBER: _ClassVar[int]
    waits: _containers.RepeatedCompositeFieldContainer[SemaphoreWait]
    def __init__(self, waits: _Optional[_Iterable[_Union[SemaphoreWait, _Mapping]]] = ...) -> None: ...

class SemaphoreLookReply(_message.Message):
    __slots__ = ("node", "semaphores", "circles")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEMAPHORES_FIELD_NUMBER: _ClassVar[int]
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    node: str
    semaphores: _containers.RepeatedCompositeFieldContainer[SemaphoreInfo]
    circles: _containers.RepeatedCompositeFieldContainer[SemaphoreCircle]
    def __init__(self, node: _Optional[str] = ..., semaphores: _Optional[_Iterable[_Union[SemaphoreInfo, _Mapping]]] = ..., circles: _Optional[_Iterable[_Union[SemaphoreCircle, _Mapping]]] = ...) -> None: ...

class SemaphoreRemoveRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SemaphoreRemoveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
