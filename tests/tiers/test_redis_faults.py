"""A Redis that lies, hangs, dies, moves, refuses and comes back: a miss each time, in time, and never other bytes."""

import contextlib
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.seal import CorruptBlock
from cachestore.testing.tiers import KEYS, A, B, departed, equal, soon, value
from cachestore.tiers.redis import Redis, RedisTier

NAMES = [f"cachestore:block:{A.hex()}:{key.hex()}" for key in KEYS]
WITHIN = 1.0
"""Seconds beyond its bound that a call may take on a busy machine."""

SECONDS = 0.5
"""Time-outs: long enough for a busy machine, short enough to be waited for."""


@contextlib.contextmanager
def opened(settings: Redis) -> Iterator[RedisTier]:
    tier = settings.start(Lru())
    tier.open(departed)
    try:
        yield tier
    finally:
        tier.close()


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server()


@pytest.fixture
def tier(server: Any) -> Iterator[RedisTier]:
    with opened(Redis(server.url, check_after=0.1, connect_timeout=SECONDS, timeout=SECONDS)) as tier:
        yield tier


@pytest.fixture
def scripted(redis_scripted: Any) -> Iterator[tuple[Any, RedisTier]]:
    with opened(Redis(redis_scripted.url, connect_timeout=SECONDS, timeout=SECONDS)) as tier:
        yield redis_scripted, tier


def put(tier: RedisTier, *numbers: int, nbytes: int = 1000) -> None:
    blocks = [(KEYS[number], value(number, nbytes)) for number in numbers]
    assert tier.put_many(A, blocks, None, soon()) == [True] * len(numbers)


def why(found: object) -> object:
    return found.reason if isinstance(found, CorruptBlock) else found


def test_a_killed_server_is_misses_and_heals_at_the_same_place(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    put(tier, 0)
    server.kill()
    for _ in range(4):
        assert tier.get_many(A, KEYS[:2], soon()) == [None, None]
        assert tier.present(A, KEYS[:2], soon()) == [False, False] and tier.leading(A, KEYS[:2], soon()) == 0
        assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [False]
        assert tier.delete_many(A, KEYS[:1], soon()) is None and tier.clear(A, soon()) is None
        assert tier.usage().used == 0
    assert not tier.healthy
    server.start()
    eventually(lambda: tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [True])
    assert tier.healthy and tier.present(A, KEYS[:2], soon()) == [False, True]


def test_a_server_killed_between_lookup_and_read_is_misses_at_once(tier: RedisTier, server: Any) -> None:
    put(tier, *range(8))
    assert tier.leading(A, KEYS, soon()) == 8
    tier.get_many(A, KEYS, soon())
    server.kill()
    begun = time.monotonic()
    assert tier.get_many(A, KEYS, soon()) == [None] * 8
    assert time.monotonic() - begun < WITHIN


def test_a_block_that_left_between_lookup_and_read_is_a_miss_at_once(tier: RedisTier, server: Any) -> None:
    put(tier, 0, 1, 2)
    assert tier.leading(A, KEYS[:3], soon()) == 3
    with server.client() as client:
        client.delete(NAMES[1])
        client.pexpire(NAMES[2], 1)
        time.sleep(0.01)
    begun = time.monotonic()
    first, *others = tier.get_many(A, KEYS[:3], soon())
    assert equal(first, value(0)) and others == [None, None] and time.monotonic() - begun < WITHIN


def test_a_server_that_hangs_holds_nobody_up(tier: RedisTier, server: Any, eventually: Callable[..., None]) -> None:
    put(tier, 0)
    server.pause()
    calls: list[Callable[[], object]] = [
        lambda: tier.get_many(A, KEYS, soon()),
        lambda: tier.present(A, KEYS, soon()),
        lambda: tier.put_many(A, [(key, value(1, 2 << 20)) for key in KEYS], None, soon()),
        lambda: tier.leading(A, KEYS, soon()),
        lambda: tier.delete_many(A, KEYS, soon()),
        lambda: tier.clear(A, soon()),
        tier.usage,
    ]
    for call in calls:
        begun = time.monotonic()
        call()
        assert time.monotonic() - begun < tier.settings.timeout + tier.settings.connect_timeout + WITHIN
    assert not tier.healthy
    server.resume()
    eventually(lambda: tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True])
    assert tier.healthy and tier.present(A, KEYS[:1], soon()) == [True]


def test_a_server_that_pauses_its_clients_holds_nobody_up(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    put(tier, 0)
    with server.client() as client:
        client.client_pause(1500, all=True)
        begun = time.monotonic()
        assert tier.get_many(A, KEYS[:1], soon()) == [None]
        assert time.monotonic() - begun < tier.settings.timeout + WITHIN
        eventually(lambda: equal(tier.get_many(A, KEYS[:1], soon())[0], value(0)))


def test_who_is_in_a_hurry_does_not_open_the_breaker(scripted: tuple[Any, RedisTier]) -> None:
    server, tier = scripted
    server.script = lambda command: time.sleep(0.05) or b"" if command[0] == b"EXISTS" else b""
    for _ in range(5):
        begun = time.monotonic()
        assert tier.present(A, KEYS[:1], Deadline.after(0.01)) == [False]
        assert time.monotonic() - begun < 0.01 + WITHIN
    assert tier.healthy and tier.present(A, KEYS[:1], soon()) == [False]


def test_a_large_batch_over_a_slow_link_is_not_cut_off_while_bytes_flow(scripted: tuple[Any, RedisTier]) -> None:
    server, tier = scripted
    block = value(0, 64 << 10)

    def slowly(command: list[bytes]) -> bytes:
        if command[0] != b"GET":
            return b""
        time.sleep(tier.settings.timeout / 3)
        return b"$%d\r\n%b\r\n" % (block.nbytes, block.tobytes())

    server.script = slowly
    assert all(equal(found, block) for found in tier.get_many(A, KEYS[:4], soon()))
    begun = time.monotonic()
    tier.get_many(A, KEYS, Deadline.after(0.3))
    assert time.monotonic() - begun < 0.3 + WITHIN


@pytest.mark.parametrize("drip", [b"", b"$", b"1", b"\r\n"])
def test_a_server_that_drips_ends_with_the_deadline(redis_scripted: Any, drip: bytes) -> None:
    with opened(Redis(redis_scripted.url)) as tier:

        def slowly(command: list[bytes]) -> bytes | None:
            if command[0] not in (b"GET", b"EXISTS", b"SET"):
                return b""
            while drip and not over.is_set():
                redis_scripted.clients[-1].sendall(drip)
                over.wait(0.02)
            return None if drip else b"\r\n"

        over = threading.Event()
        redis_scripted.script = slowly
        begun = time.monotonic()
        assert tier.present(A, KEYS, soon()) == [False] * 8
        assert time.monotonic() - begun < tier.settings.timeout + WITHIN
        assert tier.get_many(A, KEYS, Deadline.after(0.3)) == [None] * 8
        assert tier.put_many(A, [(KEYS[0], value(0))], None, Deadline.after(0.3)) == [False]
        assert time.monotonic() - begun < tier.settings.timeout + 0.6 + WITHIN
        over.set()


def test_answers_that_come_late_are_never_taken_for_others(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    put(tier, *range(4))
    for _ in range(3):
        server.pause()
        assert tier.get_many(A, KEYS[:1], soon()) == [None]
        server.resume()
        for number in (1, 2, 3):

            def got(number: int = number) -> bool:
                (data,) = tier.get_many(A, [KEYS[number]], soon())
                assert data is None or equal(data, value(number))
                return data is not None

            eventually(got)


@pytest.mark.parametrize("cut", [None, 0, 3, 20, 600, 50_000])
def test_a_batch_that_breaks_off_keeps_what_came_whole(scripted: tuple[Any, RedisTier], cut: int | None) -> None:
    server, tier = scripted
    answers = {name.encode(): b"$%d\r\n%b\r\n" % (64_320, value(n, 64_320).tobytes()) for n, name in enumerate(NAMES)}
    assert len(value(0, 64_320)) == 64_320
    asked = []

    def break_off(command: list[bytes]) -> bytes | None:
        if command[0] != b"GET":
            return b""
        asked.append(command[1])
        if len(asked) < 3:
            return answers[command[1]]
        # a part of an answer, then silence until the time-out, or the end of the connection
        return None if cut is None else answers[command[1]][:cut] if cut else b"\r\n"

    server.script = break_off
    first, second, *others = tier.get_many(A, KEYS, soon())
    assert equal(first, value(0, 64_320)) and equal(second, value(1, 64_320)) and others == [None] * 6
    server.script = lambda command: answers.get(command[1], b"") if command[0] == b"GET" else b""
    assert all(equal(found, value(n, 64_320)) for n, found in enumerate(tier.get_many(A, KEYS, soon())))


@pytest.mark.parametrize(
    "answer",
    [b"$5\r\nabc", b":1\r\n", b"+OK\r\n", b"*1\r\n$1\r\nx\r\n", b"$x\r\n", b"$-2\r\n", b"$" + b"1" * 5000, b"\0" * 100],
)
def test_an_answer_that_is_none_is_a_miss_and_the_connection_is_given_up(
    scripted: tuple[Any, RedisTier], answer: bytes
) -> None:
    server, tier = scripted
    server.script = lambda command: answer if command[0] == b"GET" else b""
    assert tier.get_many(A, KEYS[:2], soon()) == [None, None]
    server.script = lambda command: b""
    assert tier.get_many(A, KEYS[:1], soon()) == [None] and tier.healthy


@pytest.mark.parametrize("answer", [b"$3\r\nabc\r\n", b"*0\r\n", b"$-1\r\n", b"*2\r\n:1\r\n:2\r\n", b"+\r\n"])
def test_answers_of_another_kind_raise_nothing(scripted: tuple[Any, RedisTier], answer: bytes) -> None:
    server, tier = scripted
    server.script = lambda command: answer if command[0] in (b"EXISTS", b"UNLINK", b"SCAN", b"SET", b"INFO") else b""
    for _ in range(2):
        assert tier.present(A, KEYS[:2], soon()) == [False, False] and tier.clear(A, soon()) is None
        assert tier.delete_many(A, KEYS[:1], soon()) is None and tier.usage().used == 0
        assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [False]


@pytest.mark.parametrize("error", ["LOADING a", "READONLY b", "CLUSTERDOWN The cluster is down", "NOAUTH d", "BUSY e"])
def test_a_server_that_says_it_cannot_serve_is_misses_and_heals(
    scripted: tuple[Any, RedisTier], error: str, eventually: Callable[..., None]
) -> None:
    server, tier = scripted
    server.script = lambda command: f"-{error}\r\n".encode() if command[0] in (b"GET", b"SET", b"EXISTS") else b""
    assert tier.put_many(A, [(KEYS[0], value(0))] * 2, None, soon()) == [False, False]
    assert tier.present(A, KEYS[:2], soon()) == [False, False] and tier.get_many(A, KEYS[:2], soon()) == [None, None]
    assert not tier.healthy
    server.script = lambda command: b""
    eventually(lambda: tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True])
    assert tier.healthy


@pytest.mark.parametrize("error", ["MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "TRYAGAIN x", "CLUSTERDOWN Hash slot x"])
def test_a_name_that_another_server_has_is_a_miss_alone(scripted: tuple[Any, RedisTier], error: str) -> None:
    server, tier = scripted
    block = value(0)
    answers = {b"GET": b"$%d\r\n%b\r\n" % (block.nbytes, block.tobytes()), b"EXISTS": b":1\r\n", b"SET": b""}
    server.script = lambda command: (
        f"-{error}\r\n".encode() if command[1:2] == [NAMES[1].encode()] else answers.get(command[0], b"")
    )
    assert [data is not None for data in tier.get_many(A, KEYS[:3], soon())] == [True, False, True]
    assert tier.present(A, KEYS[:3], soon()) == [True, False, True] and tier.leading(A, KEYS[:3], soon()) == 1
    assert tier.put_many(A, [(key, block) for key in KEYS[:3]], None, soon()) == [True, False, True]
    assert tier.delete_many(A, KEYS[:3], soon()) is None and tier.healthy


def test_a_full_server_refuses_and_stays_healthy(redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    with opened(Redis(server.url)) as tier:
        with server.client() as client:
            client.config_set("maxmemory", "1")
        assert tier.put_many(A, [(KEYS[0], value(0)), (KEYS[1], value(1))], None, soon()) == [False, False]
        assert tier.healthy and tier.get_many(A, KEYS[:1], soon()) == [None]


def test_under_a_storm_of_evictions_what_is_there_is_right(tier: RedisTier, server: Any) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "12mb")
    keys = [bytes([number]) * 32 for number in range(48)]
    for key in keys:
        assert tier.put_many(A, [(key, value(key[0] % 8, 1 << 20))], None, soon()) == [True]
    found = tier.get_many(A, keys, soon())
    assert 1 <= sum(data is not None for data in found) < 12 and tier.healthy
    assert all(data is None or equal(data, value(key[0] % 8, 1 << 20)) for key, data in zip(keys, found, strict=True))


def test_a_policy_changed_under_way_is_noticed_and_heals(
    tier: RedisTier, server: Any, eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    put(tier, 0)
    with server.client() as client, caplog.at_level(logging.WARNING):
        client.config_set("maxmemory-policy", "allkeys-lru")
        eventually(lambda: tier.present(A, KEYS[:1], soon()) == [False] and not tier.healthy)
        assert [record.getMessage() for record in caplog.records][-1].endswith("does not serve: policy")
        client.config_set("maxmemory-policy", "volatile-lru")
        eventually(lambda: tier.present(A, KEYS[:1], soon()) == [True])
    assert tier.healthy and caplog.records[-1].getMessage().endswith("serves again")


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("truncated", lambda own: b""),
        ("truncated", lambda own: own[:4]),
        ("truncated", lambda own: own[: len(own) // 2]),
        ("truncated", lambda own: own[:-1]),
        ("size", lambda own: own + b"x"),
        ("size", lambda own: own * 300),
        ("foreign", lambda own: b"\x80\x04cos\nsystem\n." * 100),
        ("foreign", lambda own: b"PK\3\4" + bytes(1000)),
        ("foreign", lambda own: b"\x93NUMPY" + bytes(1 << 20)),
    ],
)
def test_a_value_that_cannot_be_a_block_is_corrupt(
    tier: RedisTier, server: Any, reason: str, spoil: Callable[[bytes], bytes]
) -> None:
    put(tier, 0, 1, 2, nbytes=10_000)
    with server.client() as client:
        client.set(NAMES[1], spoil(value(1, 10_000).tobytes()))
    first, second, third = tier.get_many(A, KEYS[:3], soon())
    assert why(second) == reason and equal(first, value(0, 10_000)) and equal(third, value(2, 10_000))
    assert tier.healthy and tier.delete_many(A, [KEYS[1]], soon()) == [True]


def test_a_value_of_another_type_is_corrupt_and_can_be_deleted(tier: RedisTier, server: Any) -> None:
    put(tier, 0, 2)
    with server.client() as client:
        client.rpush(NAMES[1], b"x")
    assert tier.present(A, KEYS[:3], soon()) == [True] * 3
    first, second, third = tier.get_many(A, KEYS[:3], soon())
    assert why(second) == "type" and equal(first, value(0)) and equal(third, value(2))
    assert tier.delete_many(A, [KEYS[1]], soon()) == [True] and tier.healthy


def test_a_value_longer_than_any_block_takes_no_memory(scripted: tuple[Any, RedisTier]) -> None:
    server, tier = scripted
    blocks = {name.encode(): value(number) for number, name in enumerate(NAMES)}

    def lie(command: list[bytes]) -> bytes:
        if command[0] != b"GET":
            return b""
        if command[1] in (NAMES[1].encode(), NAMES[2].encode()):
            return b"$536870911\r\n" + bytes(100_000)
        return b"$%d\r\n%b\r\n" % (blocks[command[1]].nbytes, blocks[command[1]].tobytes())

    server.script = lie
    tracemalloc.start()
    found = tier.get_many(A, KEYS[:4], soon())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [why(found[1]), why(found[2])] == ["size", "size"] and most < 4 << 20
    assert equal(found[0], value(0)) and equal(found[3], value(3)) and tier.healthy


def test_blocks_beyond_the_largest_are_neither_written_nor_read(server: Any) -> None:
    with opened(Redis(server.url, largest=4096)) as small, opened(Redis(server.url)) as large:
        assert large.put_many(A, [(KEYS[0], value(0)), (KEYS[1], value(1, 8000))], None, soon()) == [True, True]
        first, second = small.get_many(A, KEYS[:2], soon())
        assert equal(first, value(0)) and why(second) == "size"
        blocks = [(KEYS[2], value(2, 8000)), (KEYS[3], value(3))]
        assert small.put_many(A, blocks, None, soon()) == [False, True] and small.healthy


def test_a_header_that_lies_about_its_size_takes_no_memory(tier: RedisTier, server: Any) -> None:
    huge = bytearray(value(0).tobytes())
    huge[136:144] = (200 << 20).to_bytes(8, "little")
    with server.client() as client:
        client.set(NAMES[0], bytes(huge))
    tracemalloc.start()
    assert why(tier.get_many(A, KEYS[:1], soon())[0]) == "truncated"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.parametrize("revoke", [["on", "resetpass", ">other"], ["off"], ["-get", "-exists", "-set", "-info"]])
def test_rights_taken_away_under_way_are_misses_and_heal(
    redis_server: Callable[..., Any], password: str, revoke: list[str], eventually: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server = redis_server(tcp=True, user="store", password=password)
    with opened(Redis(server.url)) as tier:
        put(tier, 0)
        with server.client() as client, caplog.at_level(logging.WARNING):
            client.execute_command("ACL", "SETUSER", "store", *revoke)
            client.client_kill_filter(skipme=True)
            for _ in range(4):
                assert tier.get_many(A, KEYS[:1], soon()) == [None]
                assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [False]
            assert not tier.healthy and caplog.records[-1].getMessage().endswith("does not serve: auth")
            client.execute_command("ACL", "SETUSER", "store", "on", ">" + password, "+get", "+exists", "+set", "+info")
            eventually(lambda: equal(tier.get_many(A, KEYS[:1], soon())[0], value(0)))
        assert tier.healthy
    assert password not in caplog.text


def test_many_threads_each_get_their_own(tier: RedisTier) -> None:
    put(tier, *range(8), nbytes=100_000)
    wrong: list[object] = []

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            numbers = random.integers(0, 8, 3).tolist()
            found = tier.get_many(A, [KEYS[number] for number in numbers], soon())
            wrong.extend(n for n, data in zip(numbers, found, strict=True) if not equal(data, value(n, 100_000)))
            if tier.leading(A, KEYS, soon()) != 8 or tier.present(B, KEYS, soon()) != [False] * 8:
                wrong.append("presence")

    threads = [threading.Thread(target=ask, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert wrong == []


def test_a_lookup_never_hangs(tier: RedisTier) -> None:
    put(tier, *range(4))
    for _ in range(500):
        begun = time.monotonic()
        assert tier.leading(A, KEYS, soon()) == 4
        assert time.monotonic() - begun < tier.settings.timeout + WITHIN


def test_closing_ends_while_calls_are_under_way(server: Any) -> None:
    with opened(Redis(server.url)) as tier:
        put(tier, 0)
        server.pause()
        threads = [threading.Thread(target=lambda: tier.get_many(A, KEYS, soon())) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        tier.close()
        assert time.monotonic() - begun < WITHIN
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        server.resume()


def test_puts_that_fail_in_a_batch_are_each_reported(
    tier: RedisTier, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with caplog.at_level(logging.WARNING):
        assert tier.put_many(A, [(key, value(0)) for key in KEYS], None, soon()) == [False] * 8
    assert "does not serve: unreachable" in caplog.text


def test_what_a_reader_holds_is_never_written_over(tier: RedisTier) -> None:
    put(tier, *range(8), nbytes=200_000)
    held = [tier.get_many(A, KEYS[number : number + 1], soon())[0] for number in range(8)]
    parts = [data[1000:2000] for data in tier.get_many(A, KEYS[:4], soon()) if isinstance(data, np.ndarray)]
    for _ in range(3):
        tier.get_many(A, KEYS[::-1], soon())
    assert all(equal(data, value(number, 200_000)) for number, data in enumerate(held))
    assert all(np.array_equal(part, value(number, 200_000)[1000:2000]) for number, part in enumerate(parts))
