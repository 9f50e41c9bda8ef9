"""What docs/wire.md shows a client in another language is what a store does."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import xxhash
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2

from cachestore.codecs import create
from cachestore.errors import CacheStoreError
from cachestore.eviction.lru import Lru
from cachestore.seal import Header
from cachestore.service.auth.methods import LEAST_ROLE
from cachestore.service.bulk import format as bulk_format
from cachestore.service.options import CLIENT
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.status import CODES
from cachestore.store.tiered import TieredStore
from cachestore.testing.sealed import sealed_block
from cachestore.tiers.cpu import Cpu
from cachestore.wire import operation_pb2, store_pb2

PAGE = (Path(__file__).parents[1] / "docs" / "wire.md").read_text()
SERVICE = store_pb2.DESCRIPTOR.services_by_name["CacheStore"]
OPERATION = operation_pb2.DESCRIPTOR.services_by_name["Operation"]
assert health_pb2.DESCRIPTOR


class Example(NamedTuple):
    """One grpcurl of the page, and what it shows as the answer."""

    method: MethodDescriptor
    requests: list[Any]
    shown: list[dict[str, Any]]


def objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects one behind the other."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:].strip()


def examples() -> list[Example]:
    """All of the page, in its order."""
    made: list[Example] = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "json":
            made[-1] = made[-1]._replace(shown=list(objects(text)))
            continue
        for words in map(shlex.split, re.findall(r"grpcurl .*?/\w+\n", text, re.DOTALL)):
            assert words[:3] == ["grpcurl", "-plaintext", "-d"] and words[4] == "127.0.0.1:7420", words
            service, method = words[5].split("/")
            called = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
            kind = message_factory.GetMessageClass(called.input_type)
            made.append(Example(called, [json_format.ParseDict(one, kind()) for one in objects(words[3])], []))
    return made


def answers(channel: grpc.Channel, example: Example) -> list[Any]:
    """What a store answers to an example."""
    method = example.method
    path = f"/{method.containing_service.full_name}/{method.name}"
    serialize = message_factory.GetMessageClass(method.input_type).SerializeToString
    parse = message_factory.GetMessageClass(method.output_type).FromString
    if method.client_streaming:
        return list(channel.stream_stream(path, serialize, parse)(iter(example.requests), timeout=10))
    (request,) = example.requests
    if method.server_streaming:
        return list(channel.unary_stream(path, serialize, parse)(request, timeout=10))
    return [channel.unary_unary(path, serialize, parse)(request, timeout=10)]


def holds(shown: Any, told: Any) -> bool:
    """Whether all that is shown was told; what differs from run to run is not shown."""
    if isinstance(shown, dict):
        return isinstance(told, dict) and all(key in told and holds(shown[key], told[key]) for key in shown)
    if isinstance(shown, list):
        return len(shown) == len(told) and all(map(holds, shown, told))
    return bool(shown == told)


def test_the_examples_run_in_their_order() -> None:
    with (
        TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as store,
        CacheStoreServer(store, ServiceSettings(port=0, probe_every=0.05)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        made = examples()
        assert {"Write", "Lookup", "Read", "Pin", "ListPins", "Check", "List"} <= {one.method.name for one in made}
        for example in made:
            told = [json_format.MessageToDict(answer) for answer in answers(channel, example)]
            assert told
            assert not example.shown or holds(example.shown, told), (example.method.name, told)


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables of one section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:2] == "| "
    ]


def test_every_method_is_there_with_its_role() -> None:
    told: dict[str, str] = {}
    for named, roles, _ in rows("Methods")[1:]:
        names, each = re.findall(r"`(\w+)`", named), roles.split(", ")
        told |= dict(zip(names, each if len(each) == len(names) else each * len(names), strict=True))
    methods = [(service.full_name, method.name) for service in (SERVICE, OPERATION) for method in service.methods]
    known = {method: LEAST_ROLE[f"/{service}/{method}"].name for service, method in methods}
    assert told == known


def test_every_reason_is_there_with_its_code() -> None:
    told = {
        (code, reason): retryable == "yes"
        for code, reasons, retryable, _ in rows("How calls fail")[1:]
        for reason in re.findall(r"`(\w+)`", reasons)
    }
    known: dict[type[CacheStoreError], grpc.StatusCode] = CODES
    assert told == {(code.name, error.reason): error.retryable for error, code in known.items()}


def test_the_sealed_header_is_as_it_says() -> None:
    table = [row for row in rows("The sealed header") if row[0].isdigit()]
    at = {field.split(",")[0].split(":")[0]: int(offset) for offset, _, field in table}
    sizes = [(int(offset), int(size)) for offset, size, _ in table if size.isdigit()]
    assert all(start + size == after for (start, size), (after, _) in pairwise(sizes))
    namespace, key, parent = b"n" * 32, b"k" * 32, b"p" * 16
    block = sealed_block(namespace, key, planes=3, expires=77, parent=parent).tobytes()
    header = Header.parse(block)

    def number(offset: int, size: int) -> int:
        return int.from_bytes(block[offset : offset + size], "little")

    assert block[:4] == b"KVCB" and number(at["version"], 2) == 1
    assert number(at["`header_bytes`"], 4) == header.size and number(at["planes"], 4) == 3
    assert block[at["namespace id"] :].startswith(namespace) and block[at["key"] :].startswith(key)
    assert block[at["fingerprint"] :].startswith(header.fingerprint) and number(at["tokens"], 4) == header.token_count
    assert number(at["payload bytes"], 8) == header.payload_bytes and number(at["expires"], 8) == 77
    assert block[at["front of the key before it in its chain"] :].startswith(parent)
    assert block[at["plane table"] :].startswith(header.table.tobytes()) and header.table.itemsize == 48
    assert number(header.size - 8, 8) == xxhash.xxh3_64_intdigest(block[: header.size - 8])


@pytest.mark.parametrize("name", ["TICKET", "RESERVE", "RELEASE", "RAW", "CODED", "COMMIT", "DONE", "GO", "NO"])
def test_every_word_of_the_bulk_path_is_there(name: str) -> None:
    word: bytes = getattr(bulk_format, name)
    assert f"`{word.decode()}`" in PAGE


@pytest.mark.parametrize("name", ["grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms"])
def test_clients_ping_as_it_says(name: str) -> None:
    assert f"`{name}` = {dict(CLIENT)[name]}" in PAGE
