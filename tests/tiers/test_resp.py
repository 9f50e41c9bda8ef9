"""The Redis protocol over a socket pair: any bytes are answers or the end of the connection, however they are cut."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock
from cachestore.tiers.resp import FRONT_BYTES, SKIPPED_BYTES, Connection
from cachestore.tiers.resp_errors import Broken, Refused

VALUES = [b"", b"x", b"a" * 511, b"b" * 513, b"\r\n" * 900, b"c" * FRONT_BYTES, b"d" * (FRONT_BYTES + 1), b"e" * 70_000]
ANSWERS: list[tuple[bytes, object]] = [
    *((b"$%d\r\n%b\r\n" % (len(value), value), value) for value in VALUES),
    (b"$-1\r\n", None),
    (b"-WRONGTYPE it is\r\n", "WRONGTYPE"),
    (b"-MOVED 1 h:1\r\n", "MOVED"),
    (b"$700\r\n%b\r\n" % (b"!" * 700), "refused"),
    (b"$100000\r\n%b\r\n" % (b"!" * 100_000), "refused"),
]


def take(nbytes: int) -> Buffer:
    return np.empty(nbytes, dtype=np.uint8)


def judge(front: memoryview, length: int) -> str:
    return "refused" if bytes(front[:1]) == b"!" else ""


def plain(answer: object) -> object:
    if isinstance(answer, np.ndarray):
        return answer.tobytes()
    return answer.code if isinstance(answer, Refused) else answer.reason if isinstance(answer, CorruptBlock) else answer


class Pair:
    """A connection, and the other end of it, which reads what it is asked and answers `pieces`."""

    def __init__(self, *pieces: bytes, pause: float = 0.0, patience: float = 5.0) -> None:
        mine, self.theirs = socket.socketpair()
        self.connection = Connection(mine, patience)
        self.connection.begin(time.monotonic() + 10)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._answer, args=[pieces, pause])
        self.thread.start()

    def _answer(self, pieces: tuple[bytes, ...], pause: float) -> None:
        for piece in pieces:
            try:
                self.theirs.sendall(piece)
            except OSError:
                break
            self.over.wait(pause)
        self.theirs.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Connection:
        return self.connection

    def __exit__(self, *exception: object) -> None:
        self.connection.close()
        self.over.set()
        self.thread.join()
        self.theirs.close()


def values(connection: Connection, count: int) -> Iterator[Any]:
    return connection.values([b"name"] * count, take, judge)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(len(ANSWERS))), max_size=12), st.lists(st.integers(1, 5000), max_size=30))
def test_answers_are_the_same_however_they_are_cut(chosen: list[int], cuts: list[int]) -> None:
    stream = b"".join(ANSWERS[index][0] for index in chosen)
    pieces = []
    for length in cuts:
        pieces.append(stream[:length])
        stream = stream[length:]
    with Pair(*pieces, stream) as connection:
        assert [plain(answer) for answer in values(connection, len(chosen))] == [ANSWERS[index][1] for index in chosen]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("$*-+:019\r\n,#_|", max_size=40).map(str.encode)), st.booleans())
def test_any_bytes_are_answers_or_the_end_of_the_connection(data: bytes, short: bool) -> None:
    with Pair(data) as connection:
        with pytest.raises(Broken):
            if short:
                while True:
                    connection.answers(1, more=True)
            list(values(connection, 40))


def test_more_than_was_asked_for_ends_the_connection() -> None:
    with Pair(b":1\r\n:2\r\n") as connection, pytest.raises(Broken, match="protocol"):
        connection.ask([("PING",)])
    with Pair(b"$1\r\nx\r\n:2\r\n") as connection, pytest.raises(Broken, match="protocol"):
        list(values(connection, 1))


@pytest.mark.parametrize(
    "pieces", [[b"*999999999\r\n"], [b"*2\r\n:1\r\n*99", b"9999999\r\n"], [b"*", b"999999"], [b"|9999999999\r\n"]]
)
def test_a_list_longer_than_any_answer_takes_neither_memory_nor_time(pieces: list[bytes]) -> None:
    begun = time.monotonic()
    with Pair(*pieces, pause=0.05) as connection, pytest.raises(Broken, match="protocol"):
        connection.ask([("EXEC",)])
    assert time.monotonic() - begun < 5


def test_what_comes_unasked_is_seen() -> None:
    mine, theirs = socket.socketpair()
    with theirs, closing(Connection(mine, 5.0)) as connection:
        connection.begin(time.monotonic() + 10)
        theirs.sendall(b"+PONG\r\n")
        assert connection.call("PING") == b"PONG" and connection.quiet
        theirs.sendall(b"+PONG\r\n")
        assert not connection.quiet


def test_a_long_value_without_use_ends_the_connection_and_the_answers() -> None:
    data = b"$1\r\nx\r\n$%d\r\n" % (SKIPPED_BYTES + 1) + b"!" * 10_000
    with Pair(data) as connection:
        assert [plain(answer) for answer in values(connection, 3)] == [b"x", "refused"] and connection.spent


def test_nothing_moves_for_longer_than_its_patience() -> None:
    begun = time.monotonic()
    with Pair(b"$5\r\nab", pause=10.0, patience=0.1) as connection:
        with pytest.raises(Broken, match="timeout") as caught:
            list(values(connection, 1))
        assert 0.1 <= time.monotonic() - begun < 0.1 + 1 and caught.value.waited > 0.05


def test_a_peer_that_reads_nothing_is_given_up() -> None:
    with Pair(patience=0.1, pause=1.0) as connection, pytest.raises(Broken):
        connection.send([np.zeros(64 << 20, dtype=np.uint8)])


def test_much_in_many_pieces_arrives_as_it_is() -> None:
    pieces: list[bytes | Buffer] = []
    for number in range(500):
        pieces += [b"%d " % number, np.full(number * 7, number % 256, dtype=np.uint8), b""]
    wanted = b"".join(piece if isinstance(piece, bytes) else piece.tobytes() for piece in pieces)
    got = bytearray()
    pair = Pair()

    def read() -> None:
        while data := pair.theirs.recv(1 << 16):
            got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with pair as connection:
        connection.send(pieces)
        connection.close()
        reader.join()
    assert got == wanted
