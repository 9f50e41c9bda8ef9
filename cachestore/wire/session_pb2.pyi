from cachestore.wire import store_pb2 as _store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("timeout_ms", "hello", "lookup", "read", "release", "reserve", "commit", "abort", "register", "missed")
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    timeout_ms: int
    hello: Hello
    lookup: _store_pb2.LookupRequest
    read: _store_pb2.ReadRequest
    release: _store_pb2.ReleaseRequest
    reserve: _store_pb2.Reserve
    commit: SharedCommit
    abort: _store_pb2.AbortRequest
    register: RegisterPages
    missed: MissedPage
    def __init__(self, timeout_ms: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., lookup: _Optional[_Union[_store_pb2.LookupRequest, _Mapping]] = ..., read: _Optional[_Union[_store_pb2.ReadRequest, _Mapping]] = ..., release: _Optional[_Union[_store_pb2.ReleaseRequest, _Mapping]] = ..., reserve: _Optional[_Union[_store_pb2.Reserve, _Mapping]] = ..., commit: _Optional[_Union[SharedCommit, _Mapping]] = ..., abort: _Optional[_Union[_store_pb2.AbortRequest, _Mapping]] = ..., register: _Optional[_Union[RegisterPages, _Mapping]] = ..., missed: _Optional[_Union[MissedPage, _Mapping]] = ...) -> None: ...

class SessionAnswer(_message.Message):
    __slots__ = ("slabs", "gone", "failure", "welcome", "lookup", "granted", "release", "write", "abort", "registered", "missed", "places", "pages")
    SLABS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    slabs: _containers.RepeatedCompositeFieldContainer[Slab]
    gone: _containers.RepeatedScalarFieldContainer[int]
    failure: Failure
    welcome: Welcome
    lookup: _store_pb2.LookupResponse
    granted: _store_pb2.Granted
    release: _store_pb2.ReleaseResponse
    write: _store_pb2.WriteResponse
    abort: _store_pb2.AbortResponse
    registered: RegisteredPages
    missed: MissedPageAnswer
    places: Places
    pages: PagePlaces
    def __init__(self, slabs: _Optional[_Iterable[_Union[Slab, _Mapping]]] = ..., gone: _Optional[_Iterable[int]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., lookup: _Optional[_Union[_store_pb2.LookupResponse, _Mapping]] = ..., granted: _Optional[_Union[_store_pb2.Granted, _Mapping]] = ..., release: _Optional[_Union[_store_pb2.ReleaseResponse, _Mapping]] = ..., write: _Optional[_Union[_store_pb2.WriteResponse, _Mapping]] = ..., abort: _Optional[_Union[_store_pb2.AbortResponse, _Mapping]] = ..., registered: _Optional[_Union[RegisteredPages, _Mapping]] = ..., missed: _Optional[_Union[MissedPageAnswer, _Mapping]] = ..., places: _Optional[_Union[Places, _Mapping]] = ..., pages: _Optional[_Union[PagePlaces, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("ticket", "device")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    device: str
    def __init__(self, ticket: _Optional[bytes] = ..., device: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("namespace_id",)
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    namespace_id: bytes
    def __init__(self, namespace_id: _Optional[bytes] = ...) -> None: ...

class Slab(_message.Message):
    __slots__ = ("number", "bytes", "writable")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    number: int
    bytes: int
    writable: bool
    def __init__(self, number: _Optional[int] = ..., bytes: _Optional[int] = ..., writable: bool = ...) -> None: ...

class Places(_message.Message):
    __slots__ = ("slabs", "offsets", "sizes", "generations", "blocks")
    SLABS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    slabs: _containers.RepeatedScalarFieldContainer[int]
    offsets: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    generations: _containers.RepeatedScalarFieldContainer[int]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slabs: _Optional[_Iterable[int]] = ..., offsets: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., generations: _Optional[_Iterable[int]] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...

class SharedCommit(_message.Message):
    __slots__ = ("put", "blocks", "lease_ms")
    PUT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    put: bytes
    blocks: _containers.RepeatedScalarFieldContainer[int]
    lease_ms: int
    def __init__(self, put: _Optional[bytes] = ..., blocks: _Optional[_Iterable[int]] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class RegisterPages(_message.Message):
    __slots__ = ("epoch", "slabs", "pages", "withdrawn")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SLABS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    epoch: bytes
    slabs: _containers.RepeatedCompositeFieldContainer[PageSlab]
    pages: _containers.RepeatedCompositeFieldContainer[Page]
    withdrawn: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[bytes] = ..., slabs: _Optional[_Iterable[_Union[PageSlab, _Mapping]]] = ..., pages: _Optional[_Iterable[_Union[Page, _Mapping]]] = ..., withdrawn: _Optional[_Iterable[int]] = ...) -> None: ...

class PageSlab(_message.Message):
    __slots__ = ("number", "bytes", "token", "memory")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    number: int
    bytes: int
    token: bytes
    memory: bool
    def __init__(self, number: _Optional[int] = ..., bytes: _Optional[int] = ..., token: _Optional[bytes] = ..., memory: bool = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("slab", "offset", "generation", "header")
    SLAB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    slab: int
    offset: int
    generation: int
    header: bytes
    def __init__(self, slab: _Optional[int] = ..., offset: _Optional[int] = ..., generation: _Optional[int] = ..., header: _Optional[bytes] = ...) -> None: ...

class RegisteredPages(_message.Message):
    __slots__ = ("epoch", "removed", "all_removed")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ALL_REMOVED_FIELD_NUMBER: _ClassVar[int]
    epoch: bytes
    removed: _containers.RepeatedScalarFieldContainer[int]
    all_removed: bool
    def __init__(self, epoch: _Optional[bytes] = ..., removed: _Optional[_Iterable[int]] = ..., all_removed: bool = ...) -> None: ...

class PagePlaces(_message.Message):
    __slots__ = ("slabs", "pages", "more", "alive")
    SLABS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    slabs: _containers.RepeatedCompositeFieldContainer[PageSlab]
    pages: _containers.RepeatedCompositeFieldContainer[Page]
    more: bool
    alive: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slabs: _Optional[_Iterable[_Union[PageSlab, _Mapping]]] = ..., pages: _Optional[_Iterable[_Union[Page, _Mapping]]] = ..., more: bool = ..., alive: _Optional[_Iterable[int]] = ...) -> None: ...

class MissedPage(_message.Message):
    __slots__ = ("lease", "block")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    block: int
    def __init__(self, lease: _Optional[bytes] = ..., block: _Optional[int] = ...) -> None: ...

class MissedPageAnswer(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "text")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    text: str
    def __init__(self, reason: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
