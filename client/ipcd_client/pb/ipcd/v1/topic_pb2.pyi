from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TopicPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOPIC_POLICY_BLOCK: _ClassVar[TopicPolicy]
    TOPIC_POLICY_DROP_OLDEST: _ClassVar[TopicPolicy]
    TOPIC_POLICY_DROP_NEWEST: _ClassVar[TopicPolicy]
    TOPIC_POLICY_LATEST: _ClassVar[TopicPolicy]
TOPIC_POLICY_BLOCK: TopicPolicy
TOPIC_POLICY_DROP_OLDEST: TopicPolicy
TOPIC_POLICY_DROP_NEWEST: TopicPolicy
TOPIC_POLICY_LATEST: TopicPolicy

class TopicMessage(_message.Message):
    __slots__ = ("subject", "data", "node", "sequence", "time")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    subject: str
    data: bytes
    node: str
    sequence: int
    time: float
    def __init__(self, subject: _Optional[str] = ..., data: _Optional[bytes] = ..., node: _Optional[str] = ..., sequence: _Optional[int] = ..., time: _Optional[float] = ...) -> None: ...

class TopicPublishRequest(_message.Message):
    __slots__ = ("name", "data", "keep", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    keep: int
    wait: float
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ..., keep: _Optional[int] = ..., wait: _Optional[float] = ...) -> None: ...

class TopicPublishReply(_message.Message):
    __slots__ = ("subscribers", "nodes", "sequence")
    SUBSCRIBERS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    subscribers: int
    nodes: int
    sequence: int
    def __init__(self, subscribers: _Optional[int] = ..., nodes: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class TopicSubscribeRequest(_message.Message):
    __slots__ = ("name", "policy", "most", "most_bytes", "group", "replay", "credit", "poll", "wait", "maps", "done")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    MOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    POLL_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy: TopicPolicy
    most: int
    most_bytes: int
    group: str
    replay: int
    credit: int
    poll: int
    wait: float
    maps: bool
    done: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, name: _Optional[str] = ..., policy: _Optional[_Union[TopicPolicy, str]] = ..., most: _Optional[int] = ..., most_bytes: _Optional[int] = ..., group: _Optional[str] = ..., replay: _Optional[int] = ..., credit: _Optional[int] = ..., poll: _Optional[int] = ..., wait: _Optional[float] = ..., maps: bool = ..., done: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TopicDelivery(_message.Message):
    __slots__ = ("message", "missed", "gap", "replayed", "poll", "memory", "size")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    POLL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    message: TopicMessage
    missed: int
    gap: bool
    replayed: bool
    poll: int
    memory: bytes
    size: int
    def __init__(self, message: _Optional[_Union[TopicMessage, _Mapping]] = ..., missed: _Optional[int] = ..., gap: bool = ..., replayed: bool = ..., poll: _Optional[int] = ..., memory: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class TopicMemoryRequest(_message.Message):
    __slots__ = ("name", "memory")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    memory: bytes
    def __init__(self, name: _Optional[str] = ..., memory: _Optional[bytes] = ...) -> None: ...

class TopicMapReply(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class TopicFetchReply(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class TopicReplayRequest(_message.Message):
    __slots__ = ("name", "most", "here", "identity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    most: int
    here: bool
    identity: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., most: _Optional[int] = ..., here: bool = ..., identity: _Optional[_Iterable[str]] = ...) -> None: ...

class TopicForgetRequest(_message.Message):
    __slots__ = ("name", "here", "identity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    here: bool
    identity: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., here: bool = ..., identity: _Optional[_Iterable[str]] = ...) -> None: ...

class TopicForgetReply(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class TopicListRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TopicSubscriptionInfo(_message.Message):
    __slots__ = ("pattern", "group", "policy", "pid", "uid", "node", "waiting", "waiting_bytes", "delivered", "dropped", "blocked")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    group: str
    policy: TopicPolicy
    pid: int
    uid: int
    node: str
    waiting: int
    waiting_bytes: int
    delivered: int
    dropped: int
    blocked: int
    def __init__(self, pattern: _Optional[str] = ..., group: _Optional[str] = ..., policy: _Optional[_Union[TopicPolicy, str]] = ..., pid: _Optional[int] = ..., uid: _Optional[int] = ..., node: _Optional[str] = ..., waiting: _Optional[int] = ..., waiting_bytes: _Optional[int] = ..., delivered: _Optional[int] = ..., dropped: _Optional[int] = ..., blocked: _Optional[int] = ...) -> None: ...

class TopicKeptInfo(_message.Message):
    __slots__ = ("subject", "messages", "bytes", "time")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    subject: str
    messages: int
    bytes: int
    time: float
    def __init__(self, subject: _Optional[str] = ..., messages: _Optional[int] = ..., bytes: _Optional[int] = ..., time: _Optional[float] = ...) -> None: ...

class TopicListReply(_message.Message):
    __slots__ = ("node", "subscriptions", "kept", "published", "sent")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    node: str
    subscriptions: _containers.RepeatedCompositeFieldContainer[TopicSubscriptionInfo]
    kept: _containers.RepeatedCompositeFieldContainer[TopicKeptInfo]
    published: int
    sent: int
    def __init__(self, node: _Optional[str] = ..., subscriptions: _Optional[_Iterable[_Union[TopicSubscriptionInfo, _Mapping]]] = ..., kept: _Optional[_Iterable[_Union[TopicKeptInfo, _Mapping]]] = ..., published: _Optional[int] = ..., sent: _Optional[int] = ...) -> None: ...

class TopicWant(_message.Message):
    __slots__ = ("id", "pattern", "group", "identity", "members", "blocking")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    BLOCKING_FIELD_NUMBER: _ClassVar[int]
    id: int
    pattern: str
    group: str
    identity: _containers.RepeatedScalarFieldContainer[str]
    members: int
    blocking: bool
    def __init__(self, id: _Optional[int] = ..., pattern: _Optional[str] = ..., group: _Optional[str] = ..., identity: _Optional[_Iterable[str]] = ..., members: _Optional[int] = ..., blocking: bool = ...) -> None: ...

class TopicLinkRequest(_message.Message):
    __slots__ = ("name", "session", "wants", "serial", "acks", "received", "more")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    session: bytes
    wants: _containers.RepeatedCompositeFieldContainer[TopicWant]
    serial: int
    acks: _containers.RepeatedCompositeFieldContainer[TopicAck]
    received: int
    more: bool
    def __init__(self, name: _Optional[str] = ..., session: _Optional[bytes] = ..., wants: _Optional[_Iterable[_Union[TopicWant, _Mapping]]] = ..., serial: _Optional[int] = ..., acks: _Optional[_Iterable[_Union[TopicAck, _Mapping]]] = ..., received: _Optional[int] = ..., more: bool = ...) -> None: ...

class TopicAck(_message.Message):
    __slots__ = ("number", "full")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    number: int
    full: int
    def __init__(self, number: _Optional[int] = ..., full: _Optional[int] = ...) -> None: ...

class TopicParcel(_message.Message):
    __slots__ = ("message", "plain", "not_for", "groups", "number")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    NOT_FOR_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    message: TopicMessage
    plain: bool
    not_for: _containers.RepeatedScalarFieldContainer[int]
    groups: _containers.RepeatedScalarFieldContainer[int]
    number: int
    def __init__(self, message: _Optional[_Union[TopicMessage, _Mapping]] = ..., plain: bool = ..., not_for: _Optional[_Iterable[int]] = ..., groups: _Optional[_Iterable[int]] = ..., number: _Optional[int] = ...) -> None: ...

class TopicMissed(_message.Message):
    __slots__ = ("id", "count")
    ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    id: int
    count: int
    def __init__(self, id: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class TopicRefused(_message.Message):
    __slots__ = ("id", "why")
    ID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    id: int
    why: str
    def __init__(self, id: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class TopicLinkReply(_message.Message):
    __slots__ = ("parcels", "confirmed", "missed", "refused", "given_up", "resumed")
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    parcels: _containers.RepeatedCompositeFieldContainer[TopicParcel]
    confirmed: int
    missed: _containers.RepeatedCompositeFieldContainer[TopicMissed]
    refused: _containers.RepeatedCompositeFieldContainer[TopicRefused]
    given_up: _containers.RepeatedScalarFieldContainer[int]
    resumed: bool
    def __init__(self, parcels: _Optional[_Iterable[_Union[TopicParcel, _Mapping]]] = ..., confirmed: _Optional[int] = ..., missed: _Optional[_Iterable[_Union[TopicMissed, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[TopicRefused, _Mapping]]] = ..., given_up: _Optional[_Iterable[int]] = ..., resumed: bool = ...) -> None: ...
