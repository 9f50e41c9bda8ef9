from cachestore.wire import store_pb2 as _store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeRequest(_message.Message):
    __slots__ = ("samples", "meet")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MEET_FIELD_NUMBER: _ClassVar[int]
    samples: int
    meet: bool
    def __init__(self, samples: _Optional[int] = ..., meet: bool = ...) -> None: ...

class NodeResponse(_message.Message):
    __slots__ = ("node", "address", "incarnation", "state", "age_ms", "tiers", "release", "contract", "clock_ms", "alike", "nodes", "directory", "sampled", "announced", "outage_ms", "unmet")
    class Tier(_message.Message):
        __slots__ = ("name", "used_bytes", "capacity_bytes", "blocks", "healthy")
        NAME_FIELD_NUMBER: _ClassVar[int]
        USED_BYTES_FIELD_NUMBER: _ClassVar[int]
        CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
        BLOCKS_FIELD_NUMBER: _ClassVar[int]
        HEALTHY_FIELD_NUMBER: _ClassVar[int]
        name: str
        used_bytes: int
        capacity_bytes: int
        blocks: int
        healthy: bool
        def __init__(self, name: _Optional[str] = ..., used_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., blocks: _Optional[int] = ..., healthy: bool = ...) -> None: ...
    class AlikeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class Unmet(_message.Message):
        __slots__ = ("node", "address", "why")
        NODE_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        WHY_FIELD_NUMBER: _ClassVar[int]
        node: str
        address: str
        why: str
        def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_MS_FIELD_NUMBER: _ClassVar[int]
    UNMET_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    incarnation: bytes
    state: str
    age_ms: int
    tiers: _containers.RepeatedCompositeFieldContainer[NodeResponse.Tier]
    release: str
    contract: int
    clock_ms: int
    alike: _containers.ScalarMap[str, bytes]
    nodes: _containers.RepeatedCompositeFieldContainer[_store_pb2.Member]
    directory: bool
    sampled: int
    announced: int
    outage_ms: int
    unmet: _containers.RepeatedCompositeFieldContainer[NodeResponse.Unmet]
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., state: _Optional[str] = ..., age_ms: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[NodeResponse.Tier, _Mapping]]] = ..., release: _Optional[str] = ..., contract: _Optional[int] = ..., clock_ms: _Optional[int] = ..., alike: _Optional[_Mapping[str, bytes]] = ..., nodes: _Optional[_Iterable[_Union[_store_pb2.Member, _Mapping]]] = ..., directory: bool = ..., sampled: _Optional[int] = ..., announced: _Optional[int] = ..., outage_ms: _Optional[int] = ..., unmet: _Optional[_Iterable[_Union[NodeResponse.Unmet, _Mapping]]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("deadline_ms", "force")
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    deadline_ms: int
    force: bool
    def __init__(self, deadline_ms: _Optional[int] = ..., force: bool = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("deadline_ms", "bytes")
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    deadline_ms: int
    bytes: int
    def __init__(self, deadline_ms: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class MovedResponse(_message.Message):
    __slots__ = ("state", "durable_moved", "durable_left", "hot_moved", "hot_left", "elsewhere", "cold", "bytes_moved", "done", "why")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_MOVED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_LEFT_FIELD_NUMBER: _ClassVar[int]
    HOT_MOVED_FIELD_NUMBER: _ClassVar[int]
    HOT_LEFT_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    COLD_FIELD_NUMBER: _ClassVar[int]
    BYTES_MOVED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    state: str
    durable_moved: int
    durable_left: int
    hot_moved: int
    hot_left: int
    elsewhere: int
    cold: int
    bytes_moved: int
    done: bool
    why: str
    def __init__(self, state: _Optional[str] = ..., durable_moved: _Optional[int] = ..., durable_left: _Optional[int] = ..., hot_moved: _Optional[int] = ..., hot_left: _Optional[int] = ..., elsewhere: _Optional[int] = ..., cold: _Optional[int] = ..., bytes_moved: _Optional[int] = ..., done: bool = ..., why: _Optional[str] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeRequest(_message.Message):
    __slots__ = ("incarnation", "chain", "durable", "given_up")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    incarnation: bytes
    chain: _store_pb2.Chain
    durable: bool
    given_up: bool
    def __init__(self, incarnation: _Optional[bytes] = ..., chain: _Optional[_Union[_store_pb2.Chain, _Mapping]] = ..., durable: bool = ..., given_up: bool = ...) -> None: ...

class TakeResponse(_message.Message):
    __slots__ = ("there",)
    THERE_FIELD_NUMBER: _ClassVar[int]
    there: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, there: _Optional[_Iterable[bool]] = ...) -> None: ...
