"""Reservations on a connection that rests, said by hand: who is known for how long, and what is none."""

import time
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import Aborted
from cachestore.service.bulk import server as bulk_server
from cachestore.service.bulk.format import ANSWER, DONE, FRAME, GO, MOST_MESSAGE, NO, REQUEST, RESERVE
from cachestore.service.bulk.line import PlainLine
from cachestore.service.convert_put import Reservation, reserve_message
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Durability
from cachestore.testing import plans_of, random_prompt
from cachestore.wire import session_pb2
from cachestore.wire import store_pb2 as wire
from tests.service.bulk_lines import LARGE, Raw, eventually, figure, reserved

KEYS, BLOCKS = random_prompt(LARGE, 2)
OTHER, OTHERS = random_prompt(LARGE, 1, seed=2)
RESERVATION = reserve_message(Reservation(KEYS.fingerprint, tuple(plans_of(BLOCKS)), Durability.CACHE, None))


def test_who_is_known_no_more_reserves_nothing(
    server: CacheStoreServer, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_server, "KNOWN_SECONDS", 0.3)
    line, end = reserved(server, raw, OTHERS, OTHER)
    time.sleep(0.4)
    line.send(FRAME.pack(DONE, 0, 0, 0) + asking(RESERVATION), Deadline.after(5))
    assert line.take(ANSWER.size, Deadline.after(5)) == ANSWER.pack(GO, 0)
    assert raw.ended(line)
    end()


def test_whoever_leaves_gives_the_put_up(server: CacheStoreServer, raw: Raw, tiered: Any) -> None:
    line = resting(server, raw)
    word, answer = asked(line, asking(RESERVATION))
    assert word == GO and len(wire.WriteResponse.FromString(answer).answers) == 2
    assert server.calls.used == 1 and tiered.memory.usage().used
    line.send(FRAME.pack(b"KVRW", 0, 0, 1) + bytes(1000), Deadline.after(5))
    line.close()
    eventually(lambda: not (server.calls.used or tiered.memory.usage().used or server.bytes_in_flight.used))


def asking(message: wire.Reserve, timeout_ms: int = 0) -> bytes:
    data = session_pb2.SessionRequest(reserve=message, timeout_ms=timeout_ms).SerializeToString()
    return REQUEST.pack(RESERVE, len(data), b"") + data


def asked(line: PlainLine, request: bytes) -> tuple[bytes, bytes]:
    """The word and the message of an answer."""
    line.send(request, Deadline.after(5))
    word, size = ANSWER.unpack(line.take(ANSWER.size, Deadline.after(5)))
    return word, line.take(size, Deadline.after(5))


def resting(server: CacheStoreServer, raw: Raw) -> PlainLine:
    """A line on which a put was, and is over."""
    line, end = reserved(server, raw, OTHERS, OTHER)
    assert asked(line, FRAME.pack(DONE, 0, 0, 0)) == (GO, b"")
    end()
    eventually(lambda: not server.calls.used)
    return line


def test_a_reservation_that_was_changed_on_its_way(server: CacheStoreServer, raw: Raw) -> None:
    line, changed = resting(server, raw), wire.Reserve()
    changed.CopyFrom(RESERVATION)
    changed.blocks[0].token_count -= 1
    word, answer = asked(line, asking(changed))
    assert word == NO and session_pb2.Failure.FromString(answer).reason == Aborted.reason
    assert asked(line, asking(RESERVATION))[0] == GO


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff\xff", session_pb2.SessionRequest(lookup=wire.LookupRequest()).SerializeToString(),
     session_pb2.SessionRequest(reserve=wire.Reserve(fingerprint=b"short")).SerializeToString()],
)  # fmt: skip
def test_what_is_no_reservation(server: CacheStoreServer, raw: Raw, message: bytes) -> None:
    line = resting(server, raw)
    word, answer = asked(line, REQUEST.pack(RESERVE, len(message), b"") + message)
    assert word == NO and session_pb2.Failure.FromString(answer).reason == "invalid_argument"
    assert asked(line, asking(RESERVATION))[0] == GO


def test_who_is_not_known_reserves_nothing(server: CacheStoreServer, raw: Raw) -> None:
    line = raw.connect()
    line.send(asking(RESERVATION), Deadline.after(5))
    assert raw.ended(line)
    eventually(lambda: figure(server, "bulk_refused", reason="ticket") == 1)
    line = resting(server, raw)
    line.send(REQUEST.pack(RESERVE, MOST_MESSAGE + 1, b""), Deadline.after(5))
    assert raw.ended(line)
    assert server.calls.used == server.bytes_in_flight.used == 0
