from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DigestRequest(_message.Message):
    __slots__ = ("data", "algorithm")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    algorithm: str
    def __init__(self, data: _Optional[bytes] = ..., algorithm: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "algorithm")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    algorithm: str
    def __init__(self, data: _Optional[bytes] = ..., algorithm: _Optional[str] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("algorithm", "hex", "size")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    HEX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    hex: str
    size: int
    def __init__(self, algorithm: _Optional[str] = ..., hex: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("pattern", "glob", "limit")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GLOB_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    glob: str
    limit: int
    def __init__(self, pattern: _Optional[str] = ..., glob: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("file", "line", "text")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    text: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("sequence", "line")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    line: str
    def __init__(self, sequence: _Optional[int] = ..., line: _Optional[str] = ...) -> None: ...

class SessionReply(_message.Message):
    __slots__ = ("sequence", "text", "last", "error")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    text: str
    last: bool
    error: str
    def __init__(self, sequence: _Optional[int] = ..., text: _Optional[str] = ..., last: bool = ..., error: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class IdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IdentityReply(_message.Message):
    __slots__ = ("name", "pid", "python")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    name: str
    pid: int
    python: str
    def __init__(self, name: _Optional[str] = ..., pid: _Optional[int] = ..., python: _Optional[str] = ...) -> None: ...
