"""The wire of the previous version: its messages and methods, made from the contracts that were frozen then.

They live in a pool of their own beside those of today, and know nothing of what was added since.
"""

from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

CONTRACTS = Path(__file__).with_name("wire.binpb")

_POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(CONTRACTS.read_bytes()).file:
    _POOL.Add(_file)

METHODS: dict[str, MethodDescriptor] = {
    method.name: method for method in _POOL.FindServiceByName("cachestore.v1.CacheStore").methods
}


def message(name: str) -> type[Any]:
    """A message of that time."""
    kind: type[Any] = GetMessageClass(_POOL.FindMessageTypeByName(f"cachestore.v1.{name}"))
    return kind


def number(enum: str, word: str) -> int:
    """A number of an enumeration of that time."""
    value: int = _POOL.FindEnumTypeByName(f"cachestore.v1.{enum}").values_by_name[word].number
    return value


def path(method: str) -> str:
    """What a method is called in HTTP."""
    return f"/cachestore.v1.CacheStore/{method}"


def known(raw: bytes, kind: type[Any]) -> bytes:
    """What of a message was known then."""
    one = kind.FromString(raw)
    one.DiscardUnknownFields()
    kept: bytes = one.SerializeToString()
    return kept


class OldClient:
    """Calls a store as a client of that time does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, *requests: Any) -> Any:
        """The answer, or the answers of a method that streams them; to all requests, of one that takes a stream."""
        told = METHODS[method]
        kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
        begin = getattr(self._channel, kind[told.client_streaming, told.server_streaming])
        answer = GetMessageClass(told.output_type).FromString
        asked = iter(requests) if told.client_streaming else requests[0]
        found = begin(path(method), lambda one: one.SerializeToString(), answer)(asked, timeout=10)
        return list(found) if told.server_streaming else found
