"""The storage of LMCache's server drives our adapter: what left its memory comes back byte for byte, or not at all."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

pytest.importorskip("lmcache", reason="LMCache is not installed here: make integrations")

from lmcache.v1.distributed.api import ObjectKey

from cachestore.block import Buffer
from cachestore.errors import ConfigError
from cachestore.integrations.opaque import OpaquePages
from tests.integrations.conftest import Served
from tests.integrations.lmcache.engine import HASTY, Server, Shape, WrongBytes

pytestmark = pytest.mark.slow

Make = Callable[..., Server]


def prompt(number: int, chunks: int) -> list[int]:
    return random.Random(number).choices(range(1000), k=chunks * 16)


@pytest.fixture
def server(served: Served) -> Iterator[Make]:
    made: list[Server] = []

    def make(**own: Any) -> Server:
        made.append(Server(served.address, **own))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_objects_come_back_also_to_another_server(server: Make) -> None:
    one, two = server(), server()
    wanted = one.keys(prompt(1, 6))
    assert one.load(wanted) == 0
    one.store(wanted)
    assert one.load(wanted) == 6
    assert two.load(two.keys(prompt(1, 6) + prompt(2, 2))) == 6
    assert two.load(two.keys(prompt(2, 2))) == 0


def test_other_settings_share_nothing(server: Make) -> None:
    one, tokens = server(), prompt(1, 3)
    one.store(one.keys(tokens))
    two = server()
    for given in ({"model": "other"}, {"rank": 1}, {"salt": "a"}):
        assert two.load(two.keys(tokens, **given)) == 0, given
    assert (other := server(own={"revision": "two"})).load(other.keys(tokens)) == 0
    assert (wide := server(shape=Shape(layers=4))).load(wide.keys(tokens)) == 0
    assert two.load(two.keys(tokens)) == 3


def test_short_hashes_are_refused(server: Make) -> None:
    one = server()
    short = [ObjectKey(bytes([number] * 8), "model", 0) for number in range(2)]
    one.store(short)
    assert one.load(short) == 0
    assert one.adapter.report_status()["refused"] > 0 and "saved_chunks" not in one.adapter.report_status()


def test_settings_are_refused(server: Make) -> None:
    with pytest.raises(ConfigError, match="adapter_params"):
        server(own={"adress": "x"})
    with pytest.raises(ConfigError, match=r"adapter_params\.revision: LMCache does not say which weights"):
        server(own={"revision": ""})


def test_lmcaches_own_faults_give_a_shorter_prefix(server: Make) -> None:
    plain, faulty = server(), server(faults={"rate": 0.3, "seed": 1, "gap_indices": [4]})
    came = []
    for number in range(12):
        wanted = plain.keys(prompt(number, 6))
        plain.store(wanted)
        came.append(faulty.load(wanted))
        faulty.forget()
        assert plain.load(wanted) == 6
    assert max(came) == 4 and min(came) < 4


def test_a_store_that_goes_away_is_a_miss(server: Make, served: Served) -> None:
    one = server(own=HASTY)
    wanted = one.keys(prompt(1, 4))
    one.store(wanted)
    served.stop()
    assert one.load(wanted) == 0
    one.store(one.keys(prompt(2, 2)))
    status = one.adapter.report_status()
    assert status["dropped_chunks"] == 2 and status["failures.lookup"] and status["failures.save"]
    assert not status["is_healthy"]


def test_a_store_that_dies_in_the_midst_gives_no_wrong_bytes(server: Make, served: Served) -> None:
    one = server(own=HASTY)
    for number in range(6):
        one.store(one.keys(prompt(number, 8)))
    begun, over = Event(), Event()

    def load() -> int:
        came = 0
        while not over.is_set():
            came += one.load(one.keys(prompt(random.randrange(6), 8)))
            one.forget()
            begun.set()
        return came

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load)
        begun.wait(60)
        served.stop()
        over.wait(0.3)
        over.set()
        assert loading.result(timeout=60) > 0


def test_what_is_deleted_is_gone(server: Make) -> None:
    one = server()
    wanted = one.keys(prompt(1, 4))
    one.store(wanted)
    one.adapter.delete(wanted[2:])
    assert one.load(wanted) == 2


def test_no_wrong_bytes_in_many_operations(server: Make) -> None:
    choose, servers = random.Random(5), [server(), server(own={"threads": 1})]
    for _ in range(150):
        one = choose.choice(servers)
        wanted = one.keys(prompt(choose.randrange(8), 6)[: 16 * choose.randrange(1, 7)])
        if choose.random() < 0.5:
            one.store(wanted)
        else:
            one.load(wanted)
            one.forget()


def test_a_wrong_byte_would_be_seen(server: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = server()
    wanted = one.keys(prompt(1, 3))
    one.store(wanted)
    read = OpaquePages.read

    def spoiled(pages: OpaquePages, keys: Sequence[bytes], into: Sequence[Buffer]) -> int:
        came = read(pages, keys, into)
        into[came - 1][-1] ^= 1
        return came

    monkeypatch.setattr(OpaquePages, "read", spoiled)
    with pytest.raises(WrongBytes):
        one.load(wanted)
