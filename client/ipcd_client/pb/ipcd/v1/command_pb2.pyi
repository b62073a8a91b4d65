from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunRequest(_message.Message):
    __slots__ = ("name", "start", "stdin", "stdin_end", "signal", "stdout_credit", "stderr_credit", "stdout_close", "stderr_close")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_END_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STDOUT_CREDIT_FIELD_NUMBER: _ClassVar[int]
    STDERR_CREDIT_FIELD_NUMBER: _ClassVar[int]
    STDOUT_CLOSE_FIELD_NUMBER: _ClassVar[int]
    STDERR_CLOSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    start: RunStart
    stdin: bytes
    stdin_end: bool
    signal: int
    stdout_credit: int
    stderr_credit: int
    stdout_close: bool
    stderr_close: bool
    def __init__(self, name: _Optional[str] = ..., start: _Optional[_Union[RunStart, _Mapping]] = ..., stdin: _Optional[bytes] = ..., stdin_end: bool = ..., signal: _Optional[int] = ..., stdout_credit: _Optional[int] = ..., stderr_credit: _Optional[int] = ..., stdout_close: bool = ..., stderr_close: bool = ...) -> None: ...

class RunStart(_message.Message):
    __slots__ = ("args", "env", "no_stdin", "stdout", "stderr", "detach", "wait", "stdout_credit", "stderr_credit")
    class To(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TO_CALLER: _ClassVar[RunStart.To]
        TO_NOTHING: _ClassVar[RunStart.To]
        TO_STDOUT: _ClassVar[RunStart.To]
    TO_CALLER: RunStart.To
    TO_NOTHING: RunStart.To
    TO_STDOUT: RunStart.To
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    NO_STDIN_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    STDOUT_CREDIT_FIELD_NUMBER: _ClassVar[int]
    STDERR_CREDIT_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.ScalarMap[str, str]
    no_stdin: bool
    stdout: RunStart.To
    stderr: RunStart.To
    detach: bool
    wait: float
    stdout_credit: int
    stderr_credit: int
    def __init__(self, args: _Optional[_Iterable[str]] = ..., env: _Optional[_Mapping[str, str]] = ..., no_stdin: bool = ..., stdout: _Optional[_Union[RunStart.To, str]] = ..., stderr: _Optional[_Union[RunStart.To, str]] = ..., detach: bool = ..., wait: _Optional[float] = ..., stdout_credit: _Optional[int] = ..., stderr_credit: _Optional[int] = ...) -> None: ...

class RunReply(_message.Message):
    __slots__ = ("started", "stdout", "stderr", "stdin_credit", "stdin_closed", "stdout_end", "stderr_end", "exit")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STDIN_CREDIT_FIELD_NUMBER: _ClassVar[int]
    STDIN_CLOSED_FIELD_NUMBER: _ClassVar[int]
    STDOUT_END_FIELD_NUMBER: _ClassVar[int]
    STDERR_END_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    started: RunStarted
    stdout: bytes
    stderr: bytes
    stdin_credit: int
    stdin_closed: bool
    stdout_end: bool
    stderr_end: bool
    exit: RunExit
    def __init__(self, started: _Optional[_Union[RunStarted, _Mapping]] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., stdin_credit: _Optional[int] = ..., stdin_closed: bool = ..., stdout_end: bool = ..., stderr_end: bool = ..., exit: _Optional[_Union[RunExit, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("pid", "stdin_credit")
    PID_FIELD_NUMBER: _ClassVar[int]
    STDIN_CREDIT_FIELD_NUMBER: _ClassVar[int]
    pid: int
    stdin_credit: int
    def __init__(self, pid: _Optional[int] = ..., stdin_credit: _Optional[int] = ...) -> None: ...

class RunExit(_message.Message):
    __slots__ = ("code", "signal", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    signal: int
    reason: str
    def __init__(self, code: _Optional[int] = ..., signal: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class DescribeCommandRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CommandInfo(_message.Message):
    __slots__ = ("name", "command", "args", "args_most", "env", "detach", "most", "running", "waiting", "started", "seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ARGS_MOST_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    command: _containers.RepeatedScalarFieldContainer[str]
    args: _containers.RepeatedScalarFieldContainer[str]
    args_most: int
    env: _containers.RepeatedScalarFieldContainer[str]
    detach: bool
    most: int
    running: int
    waiting: int
    started: int
    seconds: float
    def __init__(self, name: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., args: _Optional[_Iterable[str]] = ..., args_most: _Optional[int] = ..., env: _Optional[_Iterable[str]] = ..., detach: bool = ..., most: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., started: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
