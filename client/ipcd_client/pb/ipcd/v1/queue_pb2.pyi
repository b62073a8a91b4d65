from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueueFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_FULL_BLOCK: _ClassVar[QueueFull]
    QUEUE_FULL_FAIL: _ClassVar[QueueFull]
    QUEUE_FULL_DROP_OLDEST: _ClassVar[QueueFull]
    QUEUE_FULL_DROP_NEWEST: _ClassVar[QueueFull]

class QueueTake(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_TAKE_NOW: _ClassVar[QueueTake]
    QUEUE_TAKE_HOLD: _ClassVar[QueueTake]
    QUEUE_TAKE_CONFIRM: _ClassVar[QueueTake]
QUEUE_FULL_BLOCK: QueueFull
QUEUE_FULL_FAIL: QueueFull
QUEUE_FULL_DROP_OLDEST: QueueFull
QUEUE_FULL_DROP_NEWEST: QueueFull
QUEUE_TAKE_NOW: QueueTake
QUEUE_TAKE_HOLD: QueueTake
QUEUE_TAKE_CONFIRM: QueueTake

class QueueOptions(_message.Message):
    __slots__ = ("messages", "bytes", "when_full", "lease", "deliveries", "dead_letters", "durable")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    messages: int
    bytes: int
    when_full: QueueFull
    lease: float
    deliveries: int
    dead_letters: str
    durable: bool
    def __init__(self, messages: _Optional[int] = ..., bytes: _Optional[int] = ..., when_full: _Optional[_Union[QueueFull, str]] = ..., lease: _Optional[float] = ..., deliveries: _Optional[int] = ..., dead_letters: _Optional[str] = ..., durable: bool = ...) -> None: ...

class QueueCreateRequest(_message.Message):
    __slots__ = ("name", "options", "exclusive")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    options: QueueOptions
    exclusive: bool
    def __init__(self, name: _Optional[str] = ..., options: _Optional[_Union[QueueOptions, _Mapping]] = ..., exclusive: bool = ...) -> None: ...

class QueueCreateReply(_message.Message):
    __slots__ = ("made", "stat")
    MADE_FIELD_NUMBER: _ClassVar[int]
    STAT_FIELD_NUMBER: _ClassVar[int]
    made: bool
    stat: QueueStat
    def __init__(self, made: bool = ..., stat: _Optional[_Union[QueueStat, _Mapping]] = ...) -> None: ...

class QueueDraft(_message.Message):
    __slots__ = ("data", "priority", "type", "delay")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    priority: int
    type: int
    delay: float
    def __init__(self, data: _Optional[bytes] = ..., priority: _Optional[int] = ..., type: _Optional[int] = ..., delay: _Optional[float] = ...) -> None: ...

class QueueSendRequest(_message.Message):
    __slots__ = ("name", "messages", "wait", "create")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    messages: _containers.RepeatedCompositeFieldContainer[QueueDraft]
    wait: float
    create: QueueOptions
    def __init__(self, name: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[QueueDraft, _Mapping]]] = ..., wait: _Optional[float] = ..., create: _Optional[_Union[QueueOptions, _Mapping]] = ...) -> None: ...

class QueueSendReply(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class QueueMessage(_message.Message):
    __slots__ = ("id", "tag", "data", "priority", "type", "deliveries", "sent")
    ID_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    id: int
    tag: int
    data: bytes
    priority: int
    type: int
    deliveries: int
    sent: float
    def __init__(self, id: _Optional[int] = ..., tag: _Optional[int] = ..., data: _Optional[bytes] = ..., priority: _Optional[int] = ..., type: _Optional[int] = ..., deliveries: _Optional[int] = ..., sent: _Optional[float] = ...) -> None: ...

class QueueReceiveRequest(_message.Message):
    __slots__ = ("name", "type", "wait", "most", "take", "lease", "create")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    TAKE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: int
    wait: float
    most: int
    take: QueueTake
    lease: float
    create: QueueOptions
    def __init__(self, name: _Optional[str] = ..., type: _Optional[int] = ..., wait: _Optional[float] = ..., most: _Optional[int] = ..., take: _Optional[_Union[QueueTake, str]] = ..., lease: _Optional[float] = ..., create: _Optional[_Union[QueueOptions, _Mapping]] = ...) -> None: ...

class QueueReceiveReply(_message.Message):
    __slots__ = ("messages", "held")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[QueueMessage]
    held: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[QueueMessage, _Mapping]]] = ..., held: bool = ...) -> None: ...

class QueueReceipt(_message.Message):
    __slots__ = ("id", "tag")
    ID_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    id: int
    tag: int
    def __init__(self, id: _Optional[int] = ..., tag: _Optional[int] = ...) -> None: ...

class QueueSettleRequest(_message.Message):
    __slots__ = ("name", "receipts", "how", "seconds", "again")
    class How(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACK: _ClassVar[QueueSettleRequest.How]
        NACK: _ClassVar[QueueSettleRequest.How]
        EXTEND: _ClassVar[QueueSettleRequest.How]
    ACK: QueueSettleRequest.How
    NACK: QueueSettleRequest.How
    EXTEND: QueueSettleRequest.How
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    receipts: _containers.RepeatedCompositeFieldContainer[QueueReceipt]
    how: QueueSettleRequest.How
    seconds: float
    again: bool
    def __init__(self, name: _Optional[str] = ..., receipts: _Optional[_Iterable[_Union[QueueReceipt, _Mapping]]] = ..., how: _Optional[_Union[QueueSettleRequest.How, str]] = ..., seconds: _Optional[float] = ..., again: bool = ...) -> None: ...

class QueueSettleReply(_message.Message):
    __slots__ = ("lost",)
    LOST_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lost: _Optional[_Iterable[int]] = ...) -> None: ...

class QueuePeekRequest(_message.Message):
    __slots__ = ("name", "type", "most")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: int
    most: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...

class QueuePeekReply(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[QueueMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[QueueMessage, _Mapping]]] = ...) -> None: ...

class QueuePurgeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class QueuePurgeReply(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class QueueRemoveRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class QueueRemoveReply(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class QueueStatRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class QueueStat(_message.Message):
    __slots__ = ("name", "node", "options", "ready", "delayed", "held", "bytes", "receivers", "senders", "sent", "delivered", "returned", "dropped", "dead")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DELAYED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVERS_FIELD_NUMBER: _ClassVar[int]
    SENDERS_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    options: QueueOptions
    ready: int
    delayed: int
    held: int
    bytes: int
    receivers: int
    senders: int
    sent: int
    delivered: int
    returned: int
    dropped: int
    dead: int
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., options: _Optional[_Union[QueueOptions, _Mapping]] = ..., ready: _Optional[int] = ..., delayed: _Optional[int] = ..., held: _Optional[int] = ..., bytes: _Optional[int] = ..., receivers: _Optional[int] = ..., senders: _Optional[int] = ..., sent: _Optional[int] = ..., delivered: _Optional[int] = ..., returned: _Optional[int] = ..., dropped: _Optional[int] = ..., dead: _Optional[int] = ...) -> None: ...

class QueueNotifyRequest(_message.Message):
    __slots__ = ("name", "create")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    create: QueueOptions
    def __init__(self, name: _Optional[str] = ..., create: _Optional[_Union[QueueOptions, _Mapping]] = ...) -> None: ...

class QueueNotifyReply(_message.Message):
    __slots__ = ("arrived",)
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    arrived: bool
    def __init__(self, arrived: bool = ...) -> None: ...
