"""Durable blocks in Redis: acknowledged only when they survive, gone when their time is over or they are removed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from cachestore.block import Buffer
from cachestore.errors import ConfigError
from cachestore.eviction.lru import Lru
from cachestore.seal import CorruptBlock, Header, checksum
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, departed, equal, soon, value
from cachestore.tiers.base import Departed, Departure
from cachestore.tiers.redis import Redis, RedisTier
from cachestore.tiers.redis_durable import Acknowledgement
from cachestore.tiers.resp_errors import Broken
from tests.redis_servers.cluster import clustered

NAMES = [f"cachestore:block:{A.hex()}:{key.hex()}" for key in KEYS]
DURABLE = [f"cachestore:durable:{{{name}}}" for name in NAMES]
NOTES = [f"cachestore:durable-removed:{{{name}}}" for name in NAMES]
SYNCED = ["--appendonly", "yes", "--appendfsync", "always"]


@contextlib.contextmanager
def opened(settings: Redis, told: Departed = departed) -> Iterator[RedisTier]:
    # time-outs are looked at elsewhere: a machine that is busy must not end these calls
    tier = replace(settings, connect_timeout=2.0, timeout=2.0).start(Lru())
    tier.open(told)
    try:
        yield tier
    finally:
        tier.close()


def lasting(number: int, expires: int = 0) -> tuple[bytes, Buffer]:
    return KEYS[number], sealed_block(A, KEYS[number], 1000, number, expires=expires, durable=True)


def keep(tier: RedisTier, *blocks: tuple[bytes, Buffer], ttl: float | None = None) -> list[bool]:
    return tier.put_many(A, blocks, ttl, soon(), durable=True)


def in_ms(milliseconds: float) -> int:
    return int(time.time() * 1000 + milliseconds)


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server(extra=SYNCED)


@pytest.fixture
def tier(server: Any) -> Iterator[RedisTier]:
    with opened(Redis(server.url, durable="aof", check_after=0.1)) as tier:
        yield tier


def test_a_durable_block_carries_no_time_to_live_and_survives_the_kill_of_the_server(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    assert tier.durable and keep(tier, lasting(0), lasting(1), ttl=0.001) == [True, True]
    with server.client() as client:
        assert sorted(client.keys()) == sorted(name.encode() for name in DURABLE[:2])
        assert client.pttl(DURABLE[0]) == -1
    server.kill()
    server.start()
    eventually(lambda: tier.present(A, KEYS[:3], soon()) == [True, True, False])
    assert [equal(data, lasting(n)[1]) for n, data in enumerate(tier.get_many(A, KEYS[:2], soon()))] == [True, True]


def test_a_server_that_comes_back_with_an_older_file_is_misses(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    assert keep(tier, lasting(0)) == [True]
    older = (server.folder / "appendonly.aof").read_bytes()
    assert keep(tier, lasting(1)) == [True] and tier.present(A, KEYS[:2], soon()) == [True, True]
    server.kill()
    (server.folder / "appendonly.aof").write_bytes(older)
    server.start()
    eventually(lambda: tier.present(A, KEYS[:2], soon()) == [True, False])
    assert [data is not None for data in tier.get_many(A, KEYS[:2], soon())] == [True, False]


def test_a_bit_flipped_in_the_servers_file_is_in_the_seal(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    key, block = lasting(0)
    assert keep(tier, (key, block)) == [True]
    server.kill()
    file = server.folder / "appendonly.aof"
    data = bytearray(file.read_bytes())
    data[data.index(block.tobytes()[-300:]) + 5] ^= 1
    file.write_bytes(data)
    server.start()
    eventually(lambda: tier.present(A, KEYS[:1], soon()) == [True])
    (found,) = tier.get_many(A, KEYS[:1], soon())
    assert isinstance(found, np.ndarray) and not equal(found, block)
    header = Header.parse(found)
    rows = header.stored(range(2))
    payload = found[header.size :]
    sums = [checksum(payload[row.offset : row.offset + row.stored_bytes]) == row.stored_checksum for row in rows]
    assert sums == [True, False]


def test_a_torn_end_of_the_servers_file_costs_the_last_block_alone(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    assert keep(tier, lasting(0)) == [True]
    with server.client() as client:
        length = Path(server.folder / "appendonly.aof").stat().st_size
        assert keep(tier, lasting(1)) == [True] and client.exists(DURABLE[1])
    server.kill()
    file = server.folder / "appendonly.aof"
    file.write_bytes(file.read_bytes()[: length + 500])
    server.start()
    eventually(lambda: tier.present(A, KEYS[:2], soon()) == [True, False])


def test_it_ends_when_its_header_says_so(tier: RedisTier, server: Any, eventually: Callable[..., None]) -> None:
    ends = in_ms(600)
    assert keep(tier, lasting(0, ends), lasting(1, in_ms(60_000)), lasting(2)) == [True] * 3
    while (found := tier.present(A, KEYS[:3], soon())) and time.time() * 1000 < ends:
        assert found == [True] * 3
    eventually(lambda: tier.present(A, KEYS[:3], soon()) == [False, True, True])
    assert time.time() * 1000 >= ends
    assert [data is not None for data in tier.get_many(A, KEYS[:3], soon())] == [False, True, True]
    with server.client() as client:
        assert not client.exists(DURABLE[0]) and client.exists(DURABLE[1], DURABLE[2]) == 2


def test_what_ended_is_swept_though_nobody_asks_for_it(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    assert keep(tier, lasting(0, in_ms(500)), lasting(1)) == [True, True]
    with server.client() as client:
        eventually(lambda: tier.usage() and not client.exists(DURABLE[0]))
        assert client.exists(DURABLE[1])


def test_one_written_anew_is_not_taken_for_the_one_that_ended(tier: RedisTier, server: Any) -> None:
    ends = in_ms(500)
    assert keep(tier, lasting(0, ends)) == [True]
    time.sleep(max(0.0, ends / 1000 + 0.02 - time.time()))
    assert tier.present(A, KEYS[:1], soon()) == [False] and keep(tier, lasting(0)) == [True]
    assert tier.present(A, KEYS[:1], soon()) == [True] and equal(tier.get_many(A, KEYS[:1], soon())[0], lasting(0)[1])


def test_an_upgrade_leaves_one_copy_and_a_cache_put_takes_nothing_away(tier: RedisTier, server: Any) -> None:
    assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]
    with server.client() as client:
        assert client.exists(NAMES[0]) and keep(tier, lasting(0)) == [True]
        assert not client.exists(NAMES[0]) and client.pttl(DURABLE[0]) == -1
        assert tier.put_many(A, [lasting(0)], 0.05, soon()) == [True]
        time.sleep(0.1)
        assert client.pttl(DURABLE[0]) == -1 and tier.present(A, KEYS[:1], soon()) == [True]
        assert keep(tier, lasting(0)) == [True] and client.pttl(DURABLE[0]) == -1


def test_cache_blocks_leave_for_others_and_durable_ones_never(tier: RedisTier, server: Any) -> None:
    assert keep(tier, lasting(0)) == [True]
    with server.client() as client:
        client.config_set("maxmemory", "8mb")
    keys = [bytes([number]) * 32 for number in range(100, 130)]
    assert all(tier.put_many(A, [(key, value(1, 1 << 20))], None, soon())[0] for key in keys)
    assert sum(tier.present(A, keys, soon())) < 8 and tier.present(A, KEYS[:1], soon()) == [True]


def test_removal_takes_durable_and_cache_blocks(tier: RedisTier) -> None:
    assert keep(tier, lasting(0), lasting(1), lasting(2)) == [True] * 3
    assert tier.put_many(A, [(KEYS[3], value(3))], None, soon()) == [True]
    assert tier.delete_many(A, [KEYS[0], KEYS[5]], soon()) == [True, False]
    assert tier.clear(A, soon()) == {KEYS[1], KEYS[2], KEYS[3]} and tier.present(A, KEYS, soon()) == [False] * 8


def test_a_spoiled_cache_copy_does_not_hide_a_durable_block(tier: RedisTier, server: Any) -> None:
    assert keep(tier, lasting(0)) == [True]
    with server.client() as client:
        client.set(NAMES[0], b"spoiled")
        assert equal(tier.get_many(A, KEYS[:1], soon())[0], lasting(0)[1])
        client.set(DURABLE[0], b"spoiled too")
    (found,) = tier.get_many(A, KEYS[:1], soon())
    assert isinstance(found, CorruptBlock) and found.reason == "truncated"


@pytest.mark.parametrize(
    ("setting", "drifted", "right"),
    [
        ("appendfsync", "everysec", "always"),
        ("appendonly", "no", "yes"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "volatile-lru"),
    ],
)
def test_no_acknowledgement_once_the_servers_settings_drifted(
    tier: RedisTier, server: Any, eventually: Callable[..., None], setting: str, drifted: str, right: str
) -> None:
    assert keep(tier, lasting(0)) == [True]
    with server.client() as client:
        client.config_set(setting, drifted)
        assert keep(tier, lasting(1)) == [False] and not client.exists(DURABLE[1])
        client.config_set(setting, right)
        eventually(lambda: keep(tier, lasting(2)) == [True])


def test_while_replicas_are_missing_nothing_is_acknowledged_nor_written(redis_sentinel: Callable[..., Any]) -> None:
    sentinel = redis_sentinel()
    with opened(Redis(sentinel.url, durable="wait", replicas=1, ack_timeout=0.2)) as tier:
        assert tier.durable and keep(tier, lasting(0)) == [True]
        sentinel.replica.pause()
        begun = time.monotonic()
        assert keep(tier, lasting(1), lasting(0)) == [False, False]
        assert time.monotonic() - begun < tier.settings.ack_timeout + 1
        with sentinel.primary.client() as client:
            assert not client.exists(DURABLE[1]) and client.pttl(DURABLE[0]) == -1
        assert tier.put_many(A, [(KEYS[2], value(2))], None, soon()) == [True] and tier.healthy
        sentinel.replica.resume()
        assert keep(tier, lasting(1)) == [True]
        with sentinel.primary.client() as client:
            assert client.pttl(DURABLE[1]) == -1


def test_an_acknowledged_block_survives_the_loss_of_the_primary(
    redis_sentinel: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    sentinel = redis_sentinel()
    with opened(Redis(sentinel.url, durable="wait", replicas=1, check_after=0.1)) as tier:
        assert keep(tier, *map(lasting, range(8))) == [True] * 8
        sentinel.primary.kill()
        eventually(lambda: tier.present(A, KEYS, soon()) == [True] * 8)
        assert all(equal(data, lasting(n)[1]) for n, data in enumerate(tier.get_many(A, KEYS, soon())))
        # nobody is left who could acknowledge another
        assert keep(tier, lasting(0)) == [False]


def test_without_a_replica_nothing_is_acknowledged(redis_server: Callable[..., Any]) -> None:
    with opened(Redis(redis_server().url, durable="wait", replicas=1)) as tier:
        assert keep(tier, lasting(0)) == [False] and tier.present(A, KEYS[:1], soon()) == [False]


@pytest.mark.parametrize(
    ("settings", "extra", "needs"),
    [
        ({"durable": "aof"}, [], "appendonly yes, appendfsync always"),
        ({"durable": "aof"}, ["--appendonly", "yes"], "appendfsync always"),
        ({"durable": "waitaof"}, SYNCED, "Redis 7.2 or newer"),
    ],
)
def test_a_server_that_cannot_keep_blocks_is_refused(
    redis_server: Callable[..., Any], settings: dict[str, Any], extra: list[str], needs: str
) -> None:
    with pytest.raises(ConfigError, match=f"tiers.redis.durable = .* needs .*{needs}"):
        Redis(redis_server(extra=extra).url, **settings).start(Lru()).open(departed)


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (b"*2\r\n:1\r\n:2\r\n", True),
        (b"*2\r\n:1\r\n:1\r\n", False),
        (b"*2\r\n:0\r\n:2\r\n", False),
        (b"*0\r\n", False),
        (b"*1\r\n:1\r\n", False),
        (b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n", False),
        (b":2\r\n", False),
        (b"-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\r\n", False),
        (b"-READONLY replica\r\n", False),
    ],
)
def test_waitaof_counts_disks(redis_scripted: Any, answer: bytes, given: bool) -> None:
    """No server here knows WAITAOF, so one is played."""
    redis_scripted.script = lambda command: b"*2\r\n:1\r\n:2\r\n" if command[0] == b"WAITAOF" else b""
    with opened(Redis(redis_scripted.url, durable="waitaof", replicas=2)) as tier:
        assert tier.durable
        redis_scripted.script = lambda command: answer if command[0] == b"WAITAOF" else b""
        assert keep(tier, lasting(0), lasting(1)) == [given, given]
        heard = b"".join(redis_scripted.heard)
        assert heard.rindex(b"SET") < heard.rindex(b"WAITAOF")


def test_what_was_written_and_not_acknowledged_leaves_by_itself(redis_scripted: Any) -> None:
    acks = iter([b":1\r\n", b":0\r\n"])
    redis_scripted.script = lambda asked: next(acks) if asked[0] == b"WAIT" and asked[1] == b"1" else b""
    with opened(Redis(redis_scripted.url, durable="wait", replicas=1)) as tier:
        assert keep(tier, lasting(0)) == [False]
        heard = b"".join(redis_scripted.heard)
        assert b"NX\r\n$2\r\nPX\r\n$5\r\n60000\r\n" in heard and DURABLE[0].encode() not in heard.partition(b"60000")[2]


@pytest.mark.parametrize(
    ("command", "answer"),
    [(b"SET", b"-OOM full\r\n"), (b"PERSIST", b":0\r\n"), (b"WAIT", b":0\r\n"), (b"WAIT", None), (b"PERSIST", None)],
)
def test_no_step_may_fail_on_the_way_to_an_acknowledgement(
    redis_scripted: Any, command: bytes, answer: bytes | None
) -> None:
    redis_scripted.script = lambda asked: b":1\r\n" if asked[0] == b"WAIT" else b""
    with opened(Redis(redis_scripted.url, durable="wait", replicas=1)) as tier:
        assert keep(tier, lasting(0)) == [True]
        redis_scripted.script = lambda asked: (
            answer if asked[0] == command else b":1\r\n" if asked[0] == b"WAIT" else b""
        )
        assert keep(tier, lasting(0), lasting(1)) == [False, False]


def test_what_lost_its_time_to_live_and_was_not_acknowledged_is_taken_back(
    tier: RedisTier, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Acknowledgement.given, []

    def given(self: Acknowledgement, connection: Any, until: float) -> bool:
        asked.append(real(self, connection, until))
        if len(asked) == 3 and broken:
            raise Broken("timeout")
        return asked[-1] and len(asked) != 3

    with server.client() as client:
        for broken in (False, True):
            asked.clear()
            monkeypatch.setattr(Acknowledgement, "given", given)
            assert keep(tier, lasting(0), lasting(1)) == [False, False]
            assert client.exists(*DURABLE[:2]) == (2 if broken else 0)
            # where the connection is lost, it is done over another one
            tier.recount(A, soon())
            assert client.exists(*DURABLE[:2]) == 0 and len(asked) == 3
            monkeypatch.undo()
        assert keep(tier, lasting(0)) == [True]
        tier.recount(A, soon())
        assert client.pttl(DURABLE[0]) == -1


def test_one_that_is_put_again_within_its_grace_still_leaves_by_itself(
    tier: RedisTier, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(Acknowledgement, "given", lambda *_: next(answers))
    assert keep(tier, lasting(0)) == [False]
    answers = iter([True, False])
    assert keep(tier, lasting(0)) == [False]
    with server.client() as client:
        assert 0 < client.pttl(DURABLE[0]) <= 60_000
        monkeypatch.undo()
        assert keep(tier, lasting(0)) == [True] and client.pttl(DURABLE[0]) == -1


@pytest.mark.parametrize("first", [True, False])
def test_what_is_withdrawn_stays_if_another_process_had_it_acknowledged(server: Any, first: bool) -> None:
    settings = Redis(server.url, durable="aof")
    with opened(settings) as ours, opened(settings) as theirs:
        for tier in (theirs, ours) if first else (ours, theirs):
            data = sealed_block(A, KEYS[0], 1000, 1 if tier is ours else 2, durable=True)
            assert keep(tier, (KEYS[0], data)) == [True]
        assert ours.delete_many(A, KEYS[:1], soon(), why="withdrawn") == [False]
        assert theirs.present(A, KEYS[:1], soon()) == [True]
        assert keep(ours, lasting(1)) == [True]
        assert ours.delete_many(A, KEYS[1:3], soon(), why="withdrawn") == [True, False]
        assert theirs.present(A, KEYS[:2], soon()) == [True, False] and ours.kept(A, KEYS[:2]) == [True, False]


def test_notes_on_what_was_removed_are_swept_when_their_time_is_over(
    tier: RedisTier, server: Any, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    assert keep(tier, lasting(0), lasting(1), lasting(2)) == [True] * 3
    with server.client() as client:
        assert tier.delete_many(A, KEYS[:1], soon()) == [True]
        monkeypatch.setattr("cachestore.tiers.redis_removal.NOTE_SECONDS", 0.1)
        assert tier.delete_many(A, KEYS[1:2], soon()) == [True] and tier.clear(A, soon()) == {KEYS[2]}
        # what has a time to live may be evicted
        assert [client.pttl(name) for name in client.keys("cachestore:durable-removed:*")] == [-1] * 3
        eventually(lambda: tier.usage() and client.keys("cachestore:*") == [NOTES[0].encode()])


def test_what_is_over_goes_from_a_server_that_has_no_room_for_a_note(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    ends = in_ms(300)
    assert keep(tier, lasting(0, ends), lasting(1)) == [True, True]
    with server.client() as client:
        client.config_set("maxmemory", "500kb")
        with pytest.raises(redis.RedisError):
            client.set("any", "value")
        time.sleep(max(0.0, ends / 1000 + 0.02 - time.time()))
        eventually(lambda: tier.get_many(A, KEYS[:1], soon()) == [None] and not client.exists(DURABLE[0]))
        assert client.exists(DURABLE[1]) and not client.keys("cachestore:durable-removed:*")
        assert tier.delete_many(A, KEYS[1:2], soon()) == [True] and not client.exists(DURABLE[1])


@pytest.mark.slow
def test_what_a_cluster_lost_is_told_and_what_was_removed_is_not() -> None:
    gone: list[Departure] = []
    with clustered(*SYNCED) as servers:
        places = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        settings = Redis(f"cluster://{places}", durable="aof", connect_timeout=2.0, timeout=2.0)
        with opened(settings, gone.extend) as tier:
            assert keep(tier, *map(lasting, range(7))) == [True] * 7
            assert tier.delete_many(A, KEYS[:1], soon()) == [True]
            assert tier.put_many(A, [(KEYS[7], value(7))], 5.0, soon()) == [True]
            tier.renew(A, [(KEYS[7], 3600.0)], soon())
            for server in servers:
                with server.client() as client:
                    for name in client.keys("cachestore:*"):
                        if name.decode() in DURABLE[1:4]:
                            client.delete(name)
                        if name.decode() == NAMES[7]:
                            assert 3_500_000 < client.pttl(name) <= 3_600_000
            assert tier.present(A, KEYS, soon()) == [False] * 4 + [True] * 4
            tier.look(soon())
            assert sorted((d.key, d.why, d.durable) for d in gone) == [(key, "lost", True) for key in KEYS[1:4]]
            assert tier.kept(A, KEYS) == [False] * 4 + [True] * 3 + [False]
