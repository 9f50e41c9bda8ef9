"""Where a Redis is: moved primaries, moved slots, lost nodes, and TLS that trusts nobody by accident."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from cachestore.errors import ConfigError, Unavailable
from cachestore.eviction.lru import Lru
from cachestore.testing import TierTests
from cachestore.testing.tiers import KEYS, A, departed, equal, soon, value
from cachestore.tiers.base import ColdTier
from cachestore.tiers.redis import Redis, RedisTier
from cachestore.tiers.redis_url import parse
from tests.redis_servers.scripted import ScriptedRedis

NAMES = [f"cachestore:block:{A.hex()}:{key.hex()}" for key in KEYS]
MANY = [bytes([number]) * 32 for number in range(64)]
WITHIN = 1.0


@contextlib.contextmanager
def opened(settings: Redis) -> Iterator[RedisTier]:
    # time-outs are looked at elsewhere: a machine that is busy must not end these calls
    tier = replace(settings, connect_timeout=2.0, timeout=2.0).start(Lru())
    tier.open(departed)
    try:
        yield tier
    finally:
        tier.close()


def put(tier: RedisTier, *numbers: int) -> list[bool]:
    return tier.put_many(A, [(KEYS[number], value(number)) for number in numbers], None, soon())


def test_the_new_primary_is_found_after_a_failover(
    redis_sentinel: Callable[..., Any], password: str, eventually: Callable[..., None]
) -> None:
    sentinel = redis_sentinel(password=password)
    with opened(Redis(sentinel.url)) as tier:
        assert put(tier, 0) == [True]
        sentinel.primary.kill()
        begun = time.monotonic()
        assert put(tier, 1) == [False] and tier.get_many(A, KEYS[:1], soon()) == [None]
        assert time.monotonic() - begun < 2 * WITHIN
        eventually(lambda: put(tier, 1) == [True])
        assert tier.healthy and equal(tier.get_many(A, KEYS[1:2], soon())[0], value(1))
        with sentinel.replica.client() as client:
            assert client.exists(NAMES[1])


@pytest.mark.slow
def test_a_primary_that_was_made_a_replica_is_not_written_to(
    redis_sentinel: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    sentinel = redis_sentinel()
    with opened(Redis(sentinel.url, check_after=0.05)) as tier, sentinel.client() as client:
        assert put(tier, 0) == [True]

        def failover() -> bool:
            with contextlib.suppress(redis.ResponseError):
                return bool(client.execute_command("SENTINEL FAILOVER", "blocks"))
            return False

        def there() -> bool:
            with contextlib.suppress(redis.ConnectionError), sentinel.replica.client() as promoted:
                return put(tier, 1) == [True] and bool(promoted.exists(NAMES[1]))
            return False

        eventually(failover)
        eventually(there)
        assert tier.healthy


def test_sentinels_that_die_or_hang_do_not_matter_while_the_primary_lives(redis_sentinel: Callable[..., Any]) -> None:
    sentinel = redis_sentinel()
    dead = f"127.0.0.1:1,{sentinel.url.removeprefix('sentinel://')}"
    with opened(Redis(f"sentinel://{dead}")) as tier:
        sentinel.process.kill()
        assert put(tier, 0) == [True] and tier.present(A, KEYS[:1], soon()) == [True] and tier.healthy


def test_a_service_that_no_sentinel_knows_is_refused(redis_sentinel: Callable[..., Any]) -> None:
    url = redis_sentinel(sentinel_password="s").url
    with pytest.raises(ConfigError, match="know no service of that name"):
        Redis(url.replace("/blocks", "/others"), sentinel_password="s").start(Lru()).open(departed)
    with pytest.raises(ConfigError, match="refuses the user or password"):
        Redis(url, sentinel_password="wrong").start(Lru()).open(departed)


def cluster_url(servers: list[Any]) -> str:
    return "cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


class TestCluster(TierTests):
    @pytest.fixture
    def tier(self, redis_cluster: list[Any]) -> Iterator[ColdTier]:
        with opened(Redis(cluster_url(redis_cluster))) as tier:
            yield tier
        for server in redis_cluster:
            with server.client() as client:
                client.flushall()


def test_a_cluster_spreads_blocks_over_its_nodes(redis_cluster: list[Any]) -> None:
    with opened(Redis(cluster_url(redis_cluster[:1]))) as tier:
        assert all(tier.put_many(A, [(key, value(0)) for key in MANY], None, soon()))
        held = []
        for server in redis_cluster:
            with server.client() as client:
                held.append(client.dbsize())
        assert sum(held) == 64 and min(held) > 5
        usage = tier.usage()
        assert usage.capacity == 3 * 64 << 20 and usage.used < usage.capacity
        assert tier.clear(A, soon()) == set(MANY)


def test_a_cluster_keeps_durable_blocks_beside_their_cache_names(redis_cluster: list[Any]) -> None:
    for server in redis_cluster:
        with server.client() as client:
            client.config_set("appendonly", "yes")
            client.config_set("appendfsync", "always")
    with opened(Redis(f"cluster://127.0.0.1:{redis_cluster[0].port}", durable="aof")) as tier:
        assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]
        blocks = [(key, value(number)) for number, key in enumerate(KEYS)]
        assert tier.put_many(A, blocks, None, soon(), durable=True) == [True] * 8
        assert tier.present(A, KEYS, soon()) == [True] * 8
        assert all(equal(data, value(n)) for n, data in enumerate(tier.get_many(A, KEYS, soon())))
        assert tier.delete_many(A, KEYS[:2], soon()) == [True, True]
        assert tier.clear(A, soon()) == set(KEYS[2:])
    for server in redis_cluster:
        with server.client() as client:
            client.config_set("appendonly", "no")
            # the notes beside removed durable blocks stay for hours
            client.flushall()


def test_a_slot_that_moves_is_misses_meanwhile_and_then_found(
    redis_cluster: list[Any], eventually: Callable[..., None]
) -> None:
    slot = key_slot(NAMES[0].encode())
    owner = redis_cluster[0 if slot < 5461 else 1 if slot < 10923 else 2]
    other = next(server for server in redis_cluster if server is not owner)
    with opened(Redis(cluster_url(redis_cluster))) as tier, owner.client() as old, other.client() as new:
        ids = [client.execute_command("CLUSTER MYID").decode() for client in (old, new)]
        # a server hands no slot over of which it still has keys, and it frees them after it has answered
        eventually(lambda: not old.execute_command("CLUSTER COUNTKEYSINSLOT", slot))
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        assert tier.get_many(A, KEYS[:1], soon()) == [None] and put(tier, 0) == [False]
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        eventually(lambda: put(tier, 0) == [True])
        assert tier.present(A, KEYS[:1], soon()) == [True] and tier.healthy and new.exists(NAMES[0])
        assert tier.clear(A, soon()) == {KEYS[0]}
        eventually(lambda: not new.execute_command("CLUSTER COUNTKEYSINSLOT", slot))
        old.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[1])
        new.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[0])
        for client in (old, new):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[0])
        eventually(lambda: put(tier, 0) == [True])
        assert tier.clear(A, soon()) == {KEYS[0]}


def test_a_node_of_a_cluster_is_no_server_of_its_own(redis_cluster: list[Any]) -> None:
    with pytest.raises(ConfigError, match="node of a cluster; write cluster://"):
        Redis(redis_cluster[0].url).start(Lru()).open(departed)


def test_a_cluster_that_lost_a_node_serves_the_rest(redis_cluster: list[Any], eventually: Callable[..., None]) -> None:
    """The last of this module that uses the cluster: it does not get its node back."""
    with opened(Redis(cluster_url(redis_cluster))) as tier:
        assert all(tier.put_many(A, [(key, value(0)) for key in MANY], None, soon()))
        redis_cluster[2].kill()
        lost = [key_slot(f"cachestore:block:{A.hex()}:{key.hex()}".encode()) > 10922 for key in MANY]
        begun = time.monotonic()
        found = tier.get_many(A, MANY, soon())
        assert time.monotonic() - begun < WITHIN
        assert [data is None for data in found] == lost == [not there for there in tier.present(A, MANY, soon())]
        assert tier.healthy and tier.clear(A, soon()) is None
        kept = tier.put_many(A, [(key, value(0)) for key in MANY], None, soon())
        assert [not there for there in kept] == lost


@pytest.mark.parametrize(
    ("address", "days", "trusted"), [("127.0.0.2", 1, True), ("127.0.0.1", -1, True), ("127.0.0.1", 1, False)]
)
def test_a_certificate_that_does_not_hold_is_refused(
    redis_tls: Callable[..., Any], certificates: Any, password: str, address: str, days: float, trusted: bool
) -> None:
    server = redis_tls(certificates.sign("odd", address, days), password=password)
    authority = {"ca_file": str(certificates.authority)} if trusted else {}
    with pytest.raises(Unavailable, match=r"certificate.*tiers\.redis\.ca_file") as caught:
        Redis(server.url, **authority).start(Lru()).open(departed)
    assert password not in str(caught.value)


def test_a_certificate_of_our_own_is_shown(redis_tls: Callable[..., Any], certificates: Any) -> None:
    server = redis_tls(clients=True)
    authority = str(certificates.authority)
    cert_file, key_file = map(str, certificates.sign("store"))
    with opened(Redis(server.url, ca_file=authority, cert_file=cert_file, key_file=key_file)) as tier:
        assert put(tier, 0, 1) == [True, True]
    with pytest.raises(Unavailable):
        Redis(server.url, ca_file=authority).start(Lru()).open(departed)


def test_a_certificate_that_ends_under_way_is_misses(
    redis_tls: Callable[..., Any], certificates: Any, eventually: Callable[..., None]
) -> None:
    server = redis_tls()
    with opened(Redis(server.url, ca_file=str(certificates.authority))) as tier:
        assert put(tier, 0) == [True]
        shown, key = certificates.sign("ended", days=-1)
        good = certificates.sign("server")
        with server.client() as client:
            client.config_set("tls-key-file", str(key), "tls-cert-file", str(shown))
            client.client_kill_filter(skipme=True)
            for _ in range(4):
                assert tier.get_many(A, KEYS[:1], soon()) == [None]
            assert not tier.healthy
            client.config_set("tls-key-file", str(good[1]), "tls-cert-file", str(good[0]))
        eventually(lambda: equal(tier.get_many(A, KEYS[:1], soon())[0], value(0)))


def test_a_password_is_never_sent_in_the_clear_when_tls_was_asked_for(password: str) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                heard.extend(client.recv(1 << 16))
                client.sendall(b"+PONG\r\n" * 10)
                while data := client.recv(1 << 16):
                    heard.extend(data)

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(Unavailable):
            Redis(f"rediss://:{password}@127.0.0.1:{listener.getsockname()[1]}").start(Lru()).open(departed)
        thread.join(5)
    assert heard and password.encode() not in heard and b"AUTH" not in heard


def test_tls_blocks_of_many_records(redis_tls: Callable[..., Any], certificates: Any) -> None:
    with opened(Redis(redis_tls().url, ca_file=str(certificates.authority))) as tier:
        blocks = [(key, value(number, 700_000)) for number, key in enumerate(KEYS)]
        assert tier.put_many(A, blocks, None, soon()) == [True] * 8
        found = tier.get_many(A, KEYS, soon())
        assert all(equal(data, block) for data, (_, block) in zip(found, blocks, strict=True))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", "redis://h:6379"),
        ("redis://u:p%40%2F%3A@[::1]:7/3", "redis://[::1]:7"),
        ("rediss://h.example.org:7?db=2", "rediss://h.example.org:7"),
        ("unix://:p@/run/a%20b.sock?db=1", "unix:///run/a b.sock"),
        ("sentinel://u:p@a,b:1,[::1]/svc-1?db=4", "sentinel://a:26379,b:1,[::1]:26379/svc-1"),
        ("clusters://a,b:7", "clusters://a:6379,b:7"),
    ],
)
def test_a_url_says_where(url: str, place: str) -> None:
    assert str(parse(url)) == place


def test_what_a_url_says() -> None:
    place = parse("sentinels://u:p%40%2F%3A@a/svc?db=4")
    assert (place.user, place.password, place.database, place.service, place.tls) == ("u", "p@/:", 4, "svc", True)
    assert "p@" not in repr(place) + str(place)


@pytest.mark.parametrize(
    "url",
    [
        "", "embeded", "http://h", "redis:", "redis://", "redis://:s3cret@", "redis://h:0", "redis://h:99999", "redis://h:x",
        "redis://:s3cret/x@h", "redis://a,b", "redis://h/x", "redis://h/1?db=2", "redis://h?password=s3cret",
        "redis://h?ssl_cert_reqs=none", "unix://", "unix://h/x", "unix:///x?timeout=1", "unix:///a%00b",
        "sentinel://h", "sentinel://h/", "sentinel://h/a b", "cluster://h/1", "cluster://", "unixs:///x", "redis://h\n:1",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^tiers\.redis\.url") as caught:
        Redis(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("ttl", {"ttl": 0}),
        ("timeout", {"timeout": -1}),
        ("connect_timeout", {"connect_timeout": 1e10}),
        ("ack_timeout", {"ack_timeout": 0}),
        ("check_after", {"check_after": 0}),
        ("capacity", {"capacity": 1}),
        ("largest", {"largest": 512 << 20}),
        ("largest", {"largest": 0}),
        ("user", {"user": "u"}),
        ("password", {"password": "s3cret"}),
        ("password", {"url": "redis://u:p@h", "password": "s3cret"}),
        ("sentinel_password", {"url": "redis://h", "sentinel_password": "s3cret"}),
        ("ca_file", {"url": "redis://h", "ca_file": "/x"}),
        ("cert_file", {"cert_file": "/x"}),
        ("key_file", {"url": "rediss://h", "key_file": "/x"}),
        ("replicas", {"url": "redis://h", "durable": "wait"}),
        ("replicas", {"url": "redis://h", "replicas": 1}),
        ("replicas", {"url": "redis://h", "durable": "waitaof", "replicas": -1}),
        ("replicas", {"url": "sentinel://h/s", "durable": "aof"}),
        ("replicas", {"url": "sentinel://h/s", "durable": "waitaof"}),
        ("durable", {"durable": "aof"}),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^tiers\.redis\.{field}\b") as caught:
        Redis(**settings)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("field", ["ca_file", "cert_file"])
def test_files_that_cannot_be_used_are_named(field: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ConfigError, match=rf"^tiers\.redis\.{field}: cannot use {re.escape(str(path))}"):
            Redis("rediss://127.0.0.1:1", **{field: str(path)}).start(Lru()).open(departed)


def test_no_secret_is_shown(password: str) -> None:
    for settings in (
        Redis(f"redis://u:{password}@h"),
        Redis("sentinel://h/s", user="u", password=password, sentinel_user="v", sentinel_password=password),
    ):
        assert password not in repr(settings) + repr(settings.start(Lru())) + repr(settings.place)


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        ("-info", "INFO"),
        ("-get -unlink", "GET, UNLINK"),
        ("-@all +auth +ping", "SET, GET"),
        ("resetkeys ~other:*", "SET"),
    ],
)
def test_rights_that_are_missing_are_named_at_the_start(
    redis_server: Callable[..., Any], password: str, rights: str, missing: str
) -> None:
    server = redis_server(tcp=True, user="store", password=password)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "store", *rights.split())
    with pytest.raises(ConfigError, match=f"does not let this user give {missing}.*ACL SETUSER") as caught:
        Redis(server.url).start(Lru()).open(departed)
    assert password not in str(caught.value)
    if rights == "-info":
        with pytest.raises(ConfigError, match=r"give INFO, WAIT|give INFO"):
            Redis(server.url, durable="wait", replicas=1).start(Lru()).open(departed)


def test_aof_needs_to_ask_for_settings(redis_server: Callable[..., Any], password: str) -> None:
    server = redis_server(tcp=True, user="store", password=password)
    with pytest.raises(ConfigError, match="does not let this user give CONFIG"):
        Redis(server.url, durable="aof").start(Lru()).open(departed)


def test_a_replica_is_refused(redis_sentinel: Callable[..., Any]) -> None:
    with pytest.raises(Unavailable, match="replica"):
        Redis(redis_sentinel().replica.url).start(Lru()).open(departed)


def test_a_database_of_its_own(redis_server: Callable[..., Any]) -> None:
    server = redis_server(tcp=True)
    with opened(Redis(f"{server.url}/3")) as tier, opened(Redis(server.url)) as other, server.client() as client:
        assert put(tier, 0) == [True] and other.present(A, KEYS[:1], soon()) == [False] and client.dbsize() == 0
    with pytest.raises(ConfigError, match="no database of that number"):
        Redis(f"{server.url}/99").start(Lru()).open(departed)


def test_a_cluster_that_names_slots_there_are_not_is_not_believed(
    redis_scripted: ScriptedRedis,
) -> None:
    port = int(redis_scripted.url.rpartition(":")[2])
    about = (
        b"maxmemory_policy:volatile-lru\r\nused_memory:1\r\nmaxmemory:2\r\n"
        b"role:master\r\nconnected_slaves:0\r\ncluster_enabled:1\r\n"
    )
    said = [(0, 16383)]

    def script(command: list[bytes]) -> bytes:
        match command[0].upper():
            case b"CLUSTER":
                return b"*1\r\n*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % (*said[-1], port)
            case b"INFO":
                return b"$%d\r\n%b\r\n" % (len(about), about)
            case b"EXISTS" if len(said) > 1:
                return b"-MOVED 1 127.0.0.1:%d\r\n" % port
        return b""

    redis_scripted.script = script
    with opened(Redis(redis_scripted.url.replace("redis:", "cluster:"))) as tier:
        said.append((0, 1 << 62))
        for _ in range(3):
            assert tier.present(A, KEYS[:1], soon()) == [False]
            time.sleep(0.11)
