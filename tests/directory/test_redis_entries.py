"""How entries are written, and changed by many at once."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from cachestore.directory.base import INCARNATION_BYTES
from cachestore.directory.redis_changes import LONGEST, MOST_HOLDERS, Change, Outcome, apply
from cachestore.directory.redis_entries import HEADS, LIVES, RECORD_BYTES, entry_name, fold, read
from cachestore.tiers.redis_url import parse
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_dial import Dialer
from tests.redis_servers.server import RedisServer, running

NODES = [bytes([number]) * INCARNATION_BYTES for number in range(MOST_HOLDERS + 8)]
OFTEN = 10 * LONGEST // (4 * RECORD_BYTES)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running() as start:
        yield start()


def dial(server: RedisServer) -> Connection:
    """A connection that lasts as long as any test."""
    connection = Dialer("", "", 0, None, 5.0, 60.0).dial(parse(server.url).addresses[0], time.monotonic() + 5)
    connection.begin(time.monotonic() + 100)
    return connection


@pytest.fixture
def connection(server: RedisServer) -> Iterator[Connection]:
    made = dial(server)
    yield made
    made.close()


def fresh(count: int = 1) -> list[bytes]:
    """Names of entries that nobody has used."""
    return [entry_name(secrets.token_bytes(32), secrets.token_bytes(32)) for _ in range(count)]


def change(connection: Connection, name: bytes, what: Change) -> Outcome:
    (outcome,) = apply(connection, [name], {name: what}, False)
    return outcome


def there(connection: Connection, names: Sequence[bytes]) -> list[set[bytes]]:
    """Who is in these entries."""
    return [set(fold(log or b"") or ()) if isinstance(log, bytes) else set() for log in read(connection, names, False)]


def test_buckets_lie_evenly_over_all_slots() -> None:
    assert [key_slot(head) // 64 for head in HEADS] == list(range(256))
    assert [key_slot(name) for name in LIVES] == [key_slot(head) for head in HEADS]
    # the entries of a bucket are on one node, whatever their names hold
    assert {key_slot(entry_name(b"{}" * 16, bytes([7]) + b"}{" * 15)) for _ in range(2)} == {key_slot(HEADS[7])}


@given(st.lists(st.tuples(st.sampled_from("+-"), st.sampled_from(NODES[:5]))))
def test_a_log_says_who_came_and_did_not_leave(records: list[tuple[str, bytes]]) -> None:
    held: dict[bytes, None] = {}
    for sign, node in records:
        held.pop(node, None) if sign == "-" else held.setdefault(node)
    assert fold(b"".join(sign.encode() + node for sign, node in records)) == tuple(held)


@given(st.binary(max_size=40))
def test_what_is_no_log_holds_nobody(log: bytes) -> None:
    whole = len(log) % RECORD_BYTES == 0 and set(log[::RECORD_BYTES]) <= set(b"+-")
    assert (fold(log) is not None) == whole


CHANGES = st.builds(
    Change, st.none() | st.sampled_from(NODES[:4]), st.frozensets(st.sampled_from(NODES[:4]), max_size=3)
).map(lambda change: change._replace(remove=change.remove - {change.add}))


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.integers(0, 2), CHANGES, min_size=1), max_size=12))
def test_entries_are_what_a_dictionary_would_be(server: RedisServer, batches: list[dict[int, Change]]) -> None:
    names = fresh(3)
    model: dict[bytes, set[bytes]] = {name: set() for name in names}
    with closing(dial(server)) as connection:
        for batch in batches:
            wanted = {names[number]: change for number, change in batch.items()}
            apply(connection, list(wanted), wanted, False)
            for name, (add, remove) in wanted.items():
                model[name] = (model[name] - remove) | ({add} if add else set())
        assert there(connection, names) == list(model.values())
        lifetimes = connection.ask([("PTTL", name) for name in names])
    # what holds somebody stays, what holds nobody is gone soon
    assert [left == -1 for left in lifetimes] == [bool(held) for held in model.values()]


def test_writers_that_overtake_each_other_lose_nothing(server: RedisServer) -> None:
    names = fresh(8)
    last: dict[bytes, dict[bytes, bool]] = {node: {} for node in NODES[:4]}

    def write(node: bytes) -> None:
        connection = dial(server)
        for step in range(150):
            some = {name: (hash((node, name, step)) & 1) == 1 for name in names if hash((name, step, node)) % 3}
            wanted = {name: Change(node) if put else Change(remove=frozenset([node])) for name, put in some.items()}
            last[node] |= some
            while wanted:
                outcomes = dict(zip(wanted, apply(connection, list(wanted), wanted, False), strict=True))
                assert Outcome.REFUSED not in outcomes.values()
                wanted = {name: wanted[name] for name, outcome in outcomes.items() if outcome is Outcome.AGAIN}
        connection.close()

    writers = [Thread(target=write, args=[node]) for node in last]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    connection = dial(server)
    expected = [{node for node, said in last.items() if said.get(name)} for name in names]
    assert there(connection, names) == expected
    lifetimes = connection.ask([("PTTL", name) for name in names])
    connection.close()
    assert all(left == -1 for left, held in zip(lifetimes, expected, strict=True) if held)
    assert all(left != -1 for left, held in zip(lifetimes, expected, strict=True) if not held)


def test_a_log_does_not_grow_for_ever(connection: Connection) -> None:
    (name,) = fresh()
    change(connection, name, Change(NODES[0]))
    for _ in range(OFTEN):
        change(connection, name, Change(NODES[1]))
        change(connection, name, Change(remove=frozenset(NODES[1:2])))
    assert connection.call("STRLEN", name) <= LONGEST + 2 * RECORD_BYTES
    assert there(connection, [name]) == [set(NODES[:1])] and connection.call("PTTL", name) == -1


def test_so_many_holders_are_noted_and_no_more(connection: Connection) -> None:
    (name,) = fresh()
    outcomes = [change(connection, name, Change(node)) for node in NODES]
    assert outcomes == [Outcome.DONE] * MOST_HOLDERS + [Outcome.FULL] * 8
    assert change(connection, name, Change(remove=frozenset(NODES[:1]))) is Outcome.DONE
    assert change(connection, name, Change(NODES[-1])) is Outcome.DONE
    assert there(connection, [name]) == [{*NODES[1:MOST_HOLDERS], NODES[-1]}]


@pytest.mark.parametrize("value", [b"x", b"+short", b"*" + NODES[0], b"+" + NODES[0] + b"?" + NODES[1], b"+" * 5000])
def test_what_is_no_log_is_written_anew(connection: Connection, value: bytes) -> None:
    (name,) = fresh()
    connection.call("SET", name, value)
    assert change(connection, name, Change()) is Outcome.DONE and connection.call("EXISTS", name) == 0
    connection.call("SET", name, value)
    assert change(connection, name, Change(NODES[0])) is Outcome.DONE
    assert there(connection, [name]) == [set(NODES[:1])]


def test_a_change_that_is_refused_says_so(connection: Connection) -> None:
    good, odd = fresh(2)
    connection.call("RPUSH", odd, "1")
    wanted = {name: Change(NODES[0]) for name in (good, odd)}
    assert apply(connection, [good, odd], wanted, False) == [Outcome.DONE, Outcome.REFUSED]
    assert there(connection, [good, odd]) == [set(NODES[:1]), set()]


def test_an_entry_that_is_about_to_end_is_saved_by_who_comes(connection: Connection) -> None:
    (name,) = fresh()
    change(connection, name, Change(NODES[0]))
    change(connection, name, Change(remove=frozenset(NODES[:1])))
    assert 0 < connection.call("PTTL", name) <= 10_000
    connection.call("PEXPIRE", name, 300)
    change(connection, name, Change(NODES[1]))
    assert there(connection, [name]) == [set(NODES[1:2])] and connection.call("PTTL", name) == -1


def test_who_comes_between_is_seen(connection: Connection, server: RedisServer) -> None:
    """Another one comes into an entry after it was read and before its last holder is taken out."""
    (name,), other = fresh(), dial(server)
    change(connection, name, Change(NODES[0]))
    sent: list[Any] = []

    class Slow(Connection):
        """Lets the other one go first once it has read."""

        def ask(self, commands: Sequence[Any], silent: float = 0.0) -> list[Any]:
            if not sent:
                sent.append(change(other, name, Change(NODES[1])))
            return super().ask(commands, silent)

    slow = dial(server)
    slow.__class__ = Slow
    assert change(slow, name, Change(remove=frozenset(NODES[:1]))) is Outcome.DONE
    assert there(connection, [name]) == [set(NODES[1:2])] and connection.call("PTTL", name) == -1
    for each in (slow, other):
        each.close()


def test_names_are_those_of_the_store(redis_server: Callable[..., RedisServer], password: str) -> None:
    """An ACL user of the store may do all that."""
    server = redis_server(password=password, user="store")
    connection = Dialer("store", password, 0, None, 5.0, 60.0).dial(parse(server.url).addresses[0], 1e9)
    connection.begin(time.monotonic() + 10)
    assert change(connection, fresh()[0], Change(NODES[0])) is Outcome.DONE
    connection.close()
