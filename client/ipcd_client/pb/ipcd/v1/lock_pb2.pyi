from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LockRange(_message.Message):
    __slots__ = ("start", "length")
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    start: int
    length: int
    def __init__(self, start: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class LockHoldRequest(_message.Message):
    __slots__ = ("name", "party", "id", "acquire", "release", "cancel")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    party: str
    id: int
    acquire: LockAcquire
    release: LockRange
    cancel: int
    def __init__(self, name: _Optional[str] = ..., party: _Optional[str] = ..., id: _Optional[int] = ..., acquire: _Optional[_Union[LockAcquire, _Mapping]] = ..., release: _Optional[_Union[LockRange, _Mapping]] = ..., cancel: _Optional[int] = ...) -> None: ...

class LockAcquire(_message.Message):
    __slots__ = ("range", "shared", "wait", "elsewhere")
    RANGE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    range: LockRange
    shared: bool
    wait: float
    elsewhere: _containers.RepeatedCompositeFieldContainer[LockSession]
    def __init__(self, range: _Optional[_Union[LockRange, _Mapping]] = ..., shared: bool = ..., wait: _Optional[float] = ..., elsewhere: _Optional[_Iterable[_Union[LockSession, _Mapping]]] = ...) -> None: ...

class LockSession(_message.Message):
    __slots__ = ("node", "secret")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    node: str
    secret: bytes
    def __init__(self, node: _Optional[str] = ..., secret: _Optional[bytes] = ...) -> None: ...

class LockHoldReply(_message.Message):
    __slots__ = ("id", "granted", "done", "failed", "session")
    ID_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    id: int
    granted: LockGranted
    done: LockDone
    failed: LockFailed
    session: LockSession
    def __init__(self, id: _Optional[int] = ..., granted: _Optional[_Union[LockGranted, _Mapping]] = ..., done: _Optional[_Union[LockDone, _Mapping]] = ..., failed: _Optional[_Union[LockFailed, _Mapping]] = ..., session: _Optional[_Union[LockSession, _Mapping]] = ...) -> None: ...

class LockGranted(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: int
    def __init__(self, token: _Optional[int] = ...) -> None: ...

class LockDone(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LockFailed(_message.Message):
    __slots__ = ("code", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: str
    def __init__(self, code: _Optional[int] = ..., details: _Optional[str] = ...) -> None: ...

class LockLookRequest(_message.Message):
    __slots__ = ("name", "after")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    after: str
    def __init__(self, name: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class LockLookReply(_message.Message):
    __slots__ = ("locks", "more")
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    locks: _containers.RepeatedCompositeFieldContainer[LockInfo]
    more: bool
    def __init__(self, locks: _Optional[_Iterable[_Union[LockInfo, _Mapping]]] = ..., more: bool = ...) -> None: ...

class LockInfo(_message.Message):
    __slots__ = ("name", "node", "token", "holders", "waiters", "holder_count", "waiter_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITER_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    token: int
    holders: _containers.RepeatedCompositeFieldContainer[LockParty]
    waiters: _containers.RepeatedCompositeFieldContainer[LockParty]
    holder_count: int
    waiter_count: int
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., token: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[LockParty, _Mapping]]] = ..., waiters: _Optional[_Iterable[_Union[LockParty, _Mapping]]] = ..., holder_count: _Optional[int] = ..., waiter_count: _Optional[int] = ...) -> None: ...

class LockParty(_message.Message):
    __slots__ = ("node", "pid", "uid", "range", "shared", "since", "party")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    node: str
    pid: int
    uid: int
    range: LockRange
    shared: bool
    since: float
    party: str
    def __init__(self, node: _Optional[str] = ..., pid: _Optional[int] = ..., uid: _Optional[int] = ..., range: _Optional[_Union[LockRange, _Mapping]] = ..., shared: bool = ..., since: _Optional[float] = ..., party: _Optional[str] = ...) -> None: ...

class LockRemoveRequest(_message.Message):
    __slots__ = ("name", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., force: bool = ...) -> None: ...

class LockRemoveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
