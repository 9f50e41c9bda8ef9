from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REUSE: _ClassVar[Purpose]
    HANDOFF: _ClassVar[Purpose]

class ReadStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SENT: _ClassVar[ReadStatus]
    GONE: _ClassVar[ReadStatus]
    CORRUPT: _ClassVar[ReadStatus]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE: _ClassVar[Durability]
    DURABLE: _ClassVar[Durability]

class PutStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUT_UNSPECIFIED: _ClassVar[PutStatus]
    WANTED: _ClassVar[PutStatus]
    STORED: _ClassVar[PutStatus]
    ALREADY_EXISTS: _ClassVar[PutStatus]
    IN_PROGRESS: _ClassVar[PutStatus]
    KEPT_FIRST: _ClassVar[PutStatus]
    NOT_KEPT: _ClassVar[PutStatus]
    FAILED: _ClassVar[PutStatus]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USED: _ClassVar[Verdict]
    FOUND_CORRUPT: _ClassVar[Verdict]
    UNREAD: _ClassVar[Verdict]
REUSE: Purpose
HANDOFF: Purpose
SENT: ReadStatus
GONE: ReadStatus
CORRUPT: ReadStatus
CACHE: Durability
DURABLE: Durability
PUT_UNSPECIFIED: PutStatus
WANTED: PutStatus
STORED: PutStatus
ALREADY_EXISTS: PutStatus
IN_PROGRESS: PutStatus
KEPT_FIRST: PutStatus
NOT_KEPT: PutStatus
FAILED: PutStatus
USED: Verdict
FOUND_CORRUPT: Verdict
UNREAD: Verdict

class Chain(_message.Message):
    __slots__ = ("fingerprint", "keys")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    keys: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ..., keys: _Optional[bytes] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("first_slot", "slots", "keys_only", "values_only", "first_group", "groups")
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    VALUES_ONLY_FIELD_NUMBER: _ClassVar[int]
    FIRST_GROUP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    first_slot: int
    slots: int
    keys_only: bool
    values_only: bool
    first_group: int
    groups: int
    def __init__(self, first_slot: _Optional[int] = ..., slots: _Optional[int] = ..., keys_only: bool = ..., values_only: bool = ..., first_group: _Optional[int] = ..., groups: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("blocks", "tier", "node")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    tier: str
    node: str
    def __init__(self, blocks: _Optional[int] = ..., tier: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("ready", "runs", "writing")
    READY_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WRITING_FIELD_NUMBER: _ClassVar[int]
    ready: int
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    writing: int
    def __init__(self, ready: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., writing: _Optional[int] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("chain", "part", "lease", "lease_ms", "wait_ms", "provisional", "purpose", "resume", "bulk", "joined", "new_lease")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    BULK_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    NEW_LEASE_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    part: Part
    lease: bytes
    lease_ms: int
    wait_ms: int
    provisional: bool
    purpose: Purpose
    resume: Resume
    bulk: bool
    joined: bool
    new_lease: bytes
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., lease: _Optional[bytes] = ..., lease_ms: _Optional[int] = ..., wait_ms: _Optional[int] = ..., provisional: bool = ..., purpose: _Optional[_Union[Purpose, str]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., bulk: bool = ..., joined: bool = ..., new_lease: _Optional[bytes] = ...) -> None: ...

class BulkOffer(_message.Message):
    __slots__ = ("address", "ticket")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    address: str
    ticket: bytes
    def __init__(self, address: _Optional[str] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("key", "digest", "offset")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    digest: bytes
    offset: int
    def __init__(self, key: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("granted", "start", "data", "end", "published", "began", "planes")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    granted: Granted
    start: BlockStart
    data: BlockData
    end: BlockEnd
    published: Published
    began: Began
    planes: PlaneFrame
    def __init__(self, granted: _Optional[_Union[Granted, _Mapping]] = ..., start: _Optional[_Union[BlockStart, _Mapping]] = ..., data: _Optional[_Union[BlockData, _Mapping]] = ..., end: _Optional[_Union[BlockEnd, _Mapping]] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., began: _Optional[_Union[Began, _Mapping]] = ..., planes: _Optional[_Union[PlaneFrame, _Mapping]] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("lease", "lease_ms", "runs", "bulk")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    BULK_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    lease_ms: int
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    bulk: BulkOffer
    def __init__(self, lease: _Optional[bytes] = ..., lease_ms: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., bulk: _Optional[_Union[BulkOffer, _Mapping]] = ...) -> None: ...

class BlockStart(_message.Message):
    __slots__ = ("block", "header", "tier", "known")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    block: int
    header: bytes
    tier: str
    known: bool
    def __init__(self, block: _Optional[int] = ..., header: _Optional[bytes] = ..., tier: _Optional[str] = ..., known: bool = ...) -> None: ...

class BlockData(_message.Message):
    __slots__ = ("block", "offset", "data", "start", "last")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    block: int
    offset: int
    data: bytes
    start: BlockStart
    last: bool
    def __init__(self, block: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., start: _Optional[_Union[BlockStart, _Mapping]] = ..., last: bool = ...) -> None: ...

class BlockEnd(_message.Message):
    __slots__ = ("block", "status")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    block: int
    status: ReadStatus
    def __init__(self, block: _Optional[int] = ..., status: _Optional[_Union[ReadStatus, str]] = ...) -> None: ...

class Began(_message.Message):
    __slots__ = ("block", "layout")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    block: int
    layout: Layout
    def __init__(self, block: _Optional[int] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("block", "aborted")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    block: int
    aborted: bool
    def __init__(self, block: _Optional[int] = ..., aborted: bool = ...) -> None: ...

class PlaneId(_message.Message):
    __slots__ = ("slot", "half", "group", "item_bytes", "raw_bytes")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    HALF_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    slot: int
    half: int
    group: int
    item_bytes: int
    raw_bytes: int
    def __init__(self, slot: _Optional[int] = ..., half: _Optional[int] = ..., group: _Optional[int] = ..., item_bytes: _Optional[int] = ..., raw_bytes: _Optional[int] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("codec", "stored_bytes", "stored_checksum", "raw_checksum")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    RAW_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    codec: int
    stored_bytes: int
    stored_checksum: int
    raw_checksum: int
    def __init__(self, codec: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., stored_checksum: _Optional[int] = ..., raw_checksum: _Optional[int] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("planes",)
    PLANES_FIELD_NUMBER: _ClassVar[int]
    planes: _containers.RepeatedCompositeFieldContainer[PlaneId]
    def __init__(self, planes: _Optional[_Iterable[_Union[PlaneId, _Mapping]]] = ...) -> None: ...

class Reserve(_message.Message):
    __slots__ = ("fingerprint", "layouts", "blocks", "durability", "ttl_ms", "bulk", "after", "first_group", "groups", "alike", "check")
    class Block(_message.Message):
        __slots__ = ("key", "token_count", "layout", "short")
        KEY_FIELD_NUMBER: _ClassVar[int]
        TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
        LAYOUT_FIELD_NUMBER: _ClassVar[int]
        SHORT_FIELD_NUMBER: _ClassVar[int]
        key: bytes
        token_count: int
        layout: int
        short: bool
        def __init__(self, key: _Optional[bytes] = ..., token_count: _Optional[int] = ..., layout: _Optional[int] = ..., short: bool = ...) -> None: ...
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LAYOUTS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    BULK_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FIRST_GROUP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    layouts: _containers.RepeatedCompositeFieldContainer[Layout]
    blocks: _containers.RepeatedCompositeFieldContainer[Reserve.Block]
    durability: Durability
    ttl_ms: int
    bulk: bool
    after: bytes
    first_group: int
    groups: int
    alike: bool
    check: int
    def __init__(self, fingerprint: _Optional[bytes] = ..., layouts: _Optional[_Iterable[_Union[Layout, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[Reserve.Block, _Mapping]]] = ..., durability: _Optional[_Union[Durability, str]] = ..., ttl_ms: _Optional[int] = ..., bulk: bool = ..., after: _Optional[bytes] = ..., first_group: _Optional[int] = ..., groups: _Optional[int] = ..., alike: bool = ..., check: _Optional[int] = ...) -> None: ...

class PlaneFrame(_message.Message):
    __slots__ = ("block", "segments", "data", "run")
    class Segment(_message.Message):
        __slots__ = ("plane", "encoding", "offset", "length")
        PLANE_FIELD_NUMBER: _ClassVar[int]
        ENCODING_FIELD_NUMBER: _ClassVar[int]
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        LENGTH_FIELD_NUMBER: _ClassVar[int]
        plane: int
        encoding: Encoding
        offset: int
        length: int
        def __init__(self, plane: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, _Mapping]] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...
    class Run(_message.Message):
        __slots__ = ("plane", "checksums")
        PLANE_FIELD_NUMBER: _ClassVar[int]
        CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
        plane: int
        checksums: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, plane: _Optional[int] = ..., checksums: _Optional[_Iterable[int]] = ...) -> None: ...
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    block: int
    segments: _containers.RepeatedCompositeFieldContainer[PlaneFrame.Segment]
    data: bytes
    run: PlaneFrame.Run
    def __init__(self, block: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[PlaneFrame.Segment, _Mapping]]] = ..., data: _Optional[bytes] = ..., run: _Optional[_Union[PlaneFrame.Run, _Mapping]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("blocks", "lease_ms")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    lease_ms: int
    def __init__(self, blocks: _Optional[_Iterable[int]] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("reserve", "frame", "commit")
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    reserve: Reserve
    frame: PlaneFrame
    commit: Commit
    def __init__(self, reserve: _Optional[_Union[Reserve, _Mapping]] = ..., frame: _Optional[_Union[PlaneFrame, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class PutAnswer(_message.Message):
    __slots__ = ("block", "status", "tier", "alike")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    block: int
    status: PutStatus
    tier: str
    alike: int
    def __init__(self, block: _Optional[int] = ..., status: _Optional[_Union[PutStatus, str]] = ..., tier: _Optional[str] = ..., alike: _Optional[int] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("put", "answers", "lease", "bulk", "runs", "first_group", "groups")
    PUT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    BULK_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    FIRST_GROUP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    put: bytes
    answers: _containers.RepeatedCompositeFieldContainer[PutAnswer]
    lease: LeaseResponse
    bulk: BulkOffer
    runs: bool
    first_group: int
    groups: int
    def __init__(self, put: _Optional[bytes] = ..., answers: _Optional[_Iterable[_Union[PutAnswer, _Mapping]]] = ..., lease: _Optional[_Union[LeaseResponse, _Mapping]] = ..., bulk: _Optional[_Union[BulkOffer, _Mapping]] = ..., runs: bool = ..., first_group: _Optional[int] = ..., groups: _Optional[int] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("put",)
    PUT_FIELD_NUMBER: _ClassVar[int]
    put: bytes
    def __init__(self, put: _Optional[bytes] = ...) -> None: ...

class AbortResponse(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("chain", "lease_ms", "renew")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    lease_ms: int
    renew: bytes
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ..., lease_ms: _Optional[int] = ..., renew: _Optional[bytes] = ...) -> None: ...

class LeaseResponse(_message.Message):
    __slots__ = ("lease", "blocks", "lease_ms", "runs")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    blocks: int
    lease_ms: int
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, lease: _Optional[bytes] = ..., blocks: _Optional[int] = ..., lease_ms: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("lease", "verdicts")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    verdicts: _containers.RepeatedScalarFieldContainer[Verdict]
    def __init__(self, lease: _Optional[bytes] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, str]]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("chain", "ttl_ms")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    ttl_ms: int
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class PinResponse(_message.Message):
    __slots__ = ("blocks", "quota_left_bytes")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_LEFT_BYTES_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    quota_left_bytes: int
    def __init__(self, blocks: _Optional[int] = ..., quota_left_bytes: _Optional[int] = ...) -> None: ...

class UnpinRequest(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ...) -> None: ...

class UnpinResponse(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class ListPinsRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    limit: int
    def __init__(self, cursor: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class ListPinsResponse(_message.Message):
    __slots__ = ("pins", "cursor")
    class Pin(_message.Message):
        __slots__ = ("key", "ttl_ms", "bytes")
        KEY_FIELD_NUMBER: _ClassVar[int]
        TTL_MS_FIELD_NUMBER: _ClassVar[int]
        BYTES_FIELD_NUMBER: _ClassVar[int]
        key: bytes
        ttl_ms: int
        bytes: int
        def __init__(self, key: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...
    PINS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    pins: _containers.RepeatedCompositeFieldContainer[ListPinsResponse.Pin]
    cursor: bytes
    def __init__(self, pins: _Optional[_Iterable[_Union[ListPinsResponse.Pin, _Mapping]]] = ..., cursor: _Optional[bytes] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: Chain
    def __init__(self, chain: _Optional[_Union[Chain, _Mapping]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class ClearRequest(_message.Message):
    __slots__ = ("tier",)
    TIER_FIELD_NUMBER: _ClassVar[int]
    tier: str
    def __init__(self, tier: _Optional[str] = ...) -> None: ...

class ClearResponse(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("node", "incarnation", "figures")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: bytes
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "labels", "value")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, str]
    value: int
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., value: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("epoch", "sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sequence: int
    def __init__(self, epoch: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("epoch", "sequence", "event", "chain", "tier", "complete", "tiers", "node")
    class Event(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SNAPSHOT: _ClassVar[WatchResponse.Event]
        STORED_BLOCKS: _ClassVar[WatchResponse.Event]
        REMOVED_BLOCKS: _ClassVar[WatchResponse.Event]
        CLEARED: _ClassVar[WatchResponse.Event]
        ALIVE: _ClassVar[WatchResponse.Event]
    SNAPSHOT: WatchResponse.Event
    STORED_BLOCKS: WatchResponse.Event
    REMOVED_BLOCKS: WatchResponse.Event
    CLEARED: WatchResponse.Event
    ALIVE: WatchResponse.Event
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sequence: int
    event: WatchResponse.Event
    chain: Chain
    tier: str
    complete: bool
    tiers: _containers.RepeatedScalarFieldContainer[str]
    node: str
    def __init__(self, epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., event: _Optional[_Union[WatchResponse.Event, str]] = ..., chain: _Optional[_Union[Chain, _Mapping]] = ..., tier: _Optional[str] = ..., complete: bool = ..., tiers: _Optional[_Iterable[str]] = ..., node: _Optional[str] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("writer",)
    WRITER_FIELD_NUMBER: _ClassVar[int]
    writer: bool
    def __init__(self, writer: bool = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("socket", "ticket")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    socket: str
    ticket: bytes
    def __init__(self, socket: _Optional[str] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("role", "name", "address", "node", "incarnation", "queue", "fingerprint")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    address: str
    node: str
    incarnation: bytes
    queue: int
    fingerprint: bytes
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., node: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., queue: _Optional[int] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class ClusterMapRequest(_message.Message):
    __slots__ = ("role",)
    ROLE_FIELD_NUMBER: _ClassVar[int]
    role: str
    def __init__(self, role: _Optional[str] = ...) -> None: ...

class ClusterMapResponse(_message.Message):
    __slots__ = ("epoch", "members")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("member", "ttl_ms")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    member: Member
    ttl_ms: int
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...
