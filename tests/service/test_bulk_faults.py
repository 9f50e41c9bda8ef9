"""What networks do to the bulk path: nothing wrong is handed out, nothing stays open, and other ways go on."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, write_blocks
from tests.faults.injections import (
    DOWN,
    UP,
    BlackHole,
    Direction,
    DropAt,
    DuplicateAt,
    FlipAt,
    HalfCloseAt,
    Injection,
    ResetAt,
    Slicer,
    Stall,
)
from tests.faults.proxy import Proxy

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB: with its header, its tier and its end a block takes about 2 MiB and 300 bytes."""

BLOCKS = 4
BLOCK = 2 << 20

Breaks = Callable[[Direction, int], Injection]
BREAKS: list[Breaks] = [
    lambda direction, at: ResetAt(direction, at=at),
    lambda direction, at: HalfCloseAt(direction, at=at),
    lambda direction, at: DropAt(direction, at=at, length=64),
    lambda direction, at: DuplicateAt(direction, at=at, length=64),
    lambda direction, at: Stall(direction, at=at),
    lambda direction, at: BlackHole(direction),
]
NAMES = ["reset", "half close", "drop", "duplicate", "stall", "black hole"]


def everywhere(places: list[int], quick: int) -> list[object]:
    """Every way to break at every place; the quick suite has one place, and no waiting but there."""
    return [
        pytest.param(breaks, place, marks=() if place == quick else pytest.mark.slow, id=f"{name}-{place}")
        for breaks, name in zip(BREAKS, NAMES, strict=True)
        for place in places
    ]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachestore.service.bulk.lines.STALL_SECONDS", 0.4)
    monkeypatch.setattr("cachestore.service.bulk.lines.RESERVE_SECONDS", 0.4)
    monkeypatch.setattr("cachestore.service.bulk.source.PATIENCE", 0.4)


@pytest.fixture
def server(serve: Callable[..., CacheStoreServer]) -> CacheStoreServer:
    return serve(stall=1.0)


@pytest.fixture
def proxy(server: CacheStoreServer) -> Iterator[Proxy]:
    """Stands before the bulk port; gRPC goes past it."""
    with Proxy(f"127.0.0.1:{server.bulk.port}") as proxy:
        server.bulk.port = int(proxy.address.rpartition(":")[2])
        yield proxy


def settled(store: RemoteStore) -> None:
    """Waits until nothing is open; then what was counted adds up."""
    until = time.monotonic() + 10
    while any(total(store.stats(), name) for name in ("read_open", "put_open", "leases_open", "puts_open")):
        assert time.monotonic() < until
        time.sleep(0.01)
    check_sums(store.stats())


@pytest.mark.parametrize(
    ("breaks", "place"), everywhere([0, 5, 40, BLOCK // 2, BLOCK + 1000, 3 * BLOCK + BLOCK // 2], BLOCK + 1000)
)
def test_a_read_that_breaks_goes_on(
    tiered: TieredStore, server: CacheStoreServer, proxy: Proxy, breaks: Breaks, place: int
) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        begun = time.monotonic()
        with proxy.inject(breaks(DOWN, place)), store.read(keys, timeout=8) as reading:
            loaded = list(reading)
        assert time.monotonic() - begun < 8 + 1
        corrupt = total(store.stats(), "read_corrupt")
        assert len(loaded) == BLOCKS or corrupt == 1
        assert all(same(block, wanted) for (block, _), wanted in zip(loaded, blocks, strict=False))
        assert corrupt == total(store.stats(), "corruptions", tier="transit")
        with store.read(keys) as reading:
            assert len(list(reading)) == BLOCKS
        settled(store)


@pytest.mark.parametrize(
    ("place", "wanted_at"),
    [
        *((place, "anywhere") for place in (0, 13, 100, 300, 1000, BLOCK, BLOCK + 600, 2 * BLOCK + 5)),
        *((place, "memory given") for place in (1000, BLOCK + 600)),
    ],
)
def test_a_flipped_bit_on_the_way_is_a_miss_and_counted(
    tiered: TieredStore, server: CacheStoreServer, proxy: Proxy, place: int, wanted_at: str
) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
    # where a block lands in its reader's own memory, it is verified there
    into = [np.empty(2 << 20, np.uint8) for _ in blocks] if wanted_at == "memory given" else None
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        with proxy.inject(FlipAt(DOWN, at=place, bit=3)), store.read(keys, timeout=8, into=into) as reading:
            loaded = list(reading)
        assert all(same(block, wanted) for (block, _), wanted in zip(loaded, blocks, strict=False))
        figures = store.stats()
        assert total(figures, "read_corrupt") == total(figures, "corruptions", tier="transit")
        settled(store)


@pytest.mark.parametrize(
    ("breaks", "place"), everywhere([0, 39, 45, 60, BLOCK // 2, BLOCK + 100, 3 * BLOCK + BLOCK // 2], BLOCK // 2)
)
def test_a_put_that_breaks_publishes_nothing_wrong(
    server: CacheStoreServer, proxy: Proxy, breaks: Breaks, place: int
) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        begun = time.monotonic()
        with proxy.inject(breaks(UP, place)):
            try:
                with store.put(keys.fingerprint, plans_of(blocks), timeout=4) as put:
                    write_blocks(put, blocks)
                    put.commit()
            except CacheStoreError:
                pass
        assert time.monotonic() - begun < 5
        settled(store)
        with store.read(keys) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=False))
        assert {a.status for a in put_blocks(store, keys.fingerprint, blocks)} <= {"stored", "already_exists"}
        with store.read(keys) as reading:
            assert len(list(reading)) == BLOCKS


@pytest.mark.parametrize("place", [100, 1000, BLOCK, 3 * BLOCK + 5])
def test_a_flipped_bit_in_a_put_fails_its_block(server: CacheStoreServer, proxy: Proxy, place: int) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    with RemoteStore(server.address, transports=("bulk",)) as store:
        with proxy.inject(FlipAt(UP, at=place, bit=1)):
            answers = put_blocks(store, keys.fingerprint, blocks)
        assert sorted(answer.status for answer in answers) == ["failed", *["stored"] * (BLOCKS - 1)]
        settled(store)


def test_an_answer_that_is_lost_ends_the_put(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    with (
        RemoteStore(server.address, transports=("bulk",)) as store,
        proxy.inject(ResetAt(DOWN, at=8)),
        pytest.raises(Unavailable),
        store.put(keys.fingerprint, plans_of(blocks)) as put,
    ):
        write_blocks(put, blocks)
        put.commit()


def test_one_byte_at_a_time(server: CacheStoreServer, proxy: Proxy) -> None:
    spec = BlockSpec("test/tiny", "0" * 40, "float32", (Slot(1, 4, 4),), head_groups=1, block_tokens=4)
    keys, blocks = random_prompt(spec, 3)
    with RemoteStore(server.address, transports=("bulk",)) as store, proxy.inject(Slicer(size=1)):
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert [same(one, wanted) for (one, _), wanted in zip(reading, blocks, strict=True)] == [True] * 3


def test_a_kept_connection_that_died_meanwhile_costs_no_put(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    with RemoteStore(server.address, transports=("bulk",)) as store:
        put_blocks(store, keys.fingerprint, blocks[:2])
        proxy.reset()
        put_blocks(store, keys.fingerprint, blocks)
        proxy.reset()
        with store.read(keys) as reading:
            assert len(list(reading)) == BLOCKS


@pytest.mark.parametrize("place", [0, 30, 100])
@pytest.mark.parametrize("breaks", BREAKS[:2], ids=NAMES[:2])
def test_a_reservation_that_never_came_is_made_with_a_call(
    server: CacheStoreServer, proxy: Proxy, breaks: Breaks, place: int
) -> None:
    keys, blocks = random_prompt(LARGE, BLOCKS)
    other, more = random_prompt(LARGE, 1, seed=9)
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        put_blocks(store, other.fingerprint, more)
        with proxy.inject(breaks(UP, place)):
            assert {answer.status for answer in put_blocks(store, keys.fingerprint, blocks)} == {"stored"}
        with store.read(keys) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
        settled(store)


@pytest.mark.parametrize(
    ("breaks", "place"), everywhere([0, 30, 100, 400, BLOCK // 2, BLOCK + 100, 3 * BLOCK + BLOCK // 2], BLOCK // 2)
)
def test_a_put_on_a_connection_that_rested_breaks(
    server: CacheStoreServer, proxy: Proxy, breaks: Breaks, place: int
) -> None:
    broken(server, proxy, breaks(UP, place))


@pytest.mark.parametrize(("breaks", "place"), everywhere([0, 5, 20], 5))
def test_an_answer_to_a_put_on_a_connection_that_rested_is_lost(
    server: CacheStoreServer, proxy: Proxy, breaks: Breaks, place: int
) -> None:
    broken(server, proxy, breaks(DOWN, place))


def broken(server: CacheStoreServer, proxy: Proxy, injection: Injection) -> None:
    """Puts on a connection that rested, while this is done to it: what is there is right, and may be put again."""
    keys, blocks = random_prompt(LARGE, BLOCKS)
    other, more = random_prompt(LARGE, 1, seed=9)
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        put_blocks(store, other.fingerprint, more)
        begun = time.monotonic()
        with proxy.inject(injection), suppress(CacheStoreError):
            with store.put(keys.fingerprint, plans_of(blocks), timeout=4) as put:
                write_blocks(put, blocks)
                put.commit()
        assert time.monotonic() - begun < 5
        settled(store)
        with store.read(keys) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=False))
        assert {a.status for a in put_blocks(store, keys.fingerprint, blocks)} <= {"stored", "already_exists"}
        with store.read(keys) as reading:
            assert len(list(reading)) == BLOCKS
