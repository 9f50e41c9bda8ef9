"""vLLM's connector with a store that loses or refuses, and requests that end early: nothing is wrong or stuck."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from cachestore.errors import Unavailable
from cachestore.hashing import Chain
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tokens import digest_of
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Lookup, Reading, Taker
from cachestore.store.tiered import TieredStore
from tests.integrations.conftest import Served
from tests.integrations.vllm.engine import Engine, Make, asked, prompt
from tests.integrations.vllm.workers import answer

pytestmark = pytest.mark.slow


class Breaking:
    """A store whose reads end behind so many blocks, or break off there."""

    def __init__(self, store: Any, blocks: int, breaks: bool) -> None:
        self._store, self._blocks, self._breaks = store, blocks, breaks

    @contextmanager
    def read(self, chain: Chain, **more: Any) -> Iterator["Breaking"]:
        with self._store.read(chain.first(self._blocks), **more) as self._reading:
            yield self

    @property
    def came(self) -> int:
        came: int = self._reading.came
        return came

    def fill(self, taker: Taker) -> int:
        came: int = self._reading.fill(taker)
        if self._breaks:
            raise Unavailable("nobody is there any more")
        return came


def test_blocks_that_do_not_come_are_computed(engine: Make, served: Served) -> None:
    one, two, shared = engine(), engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    scheduling = two.scheduler.connector._scheduling
    store = served.store.namespace("default")
    # a mirror that does not know yet what was evicted
    assert scheduling._mirror.settle(10.0)
    scheduling._mirror.lookup = lambda asked: Lookup(4, ())
    two.add("b", shared)
    stored = scheduling._requests["b"].keys.grow(shared)
    store.delete(stored.behind(2).first(1))
    two.run()
    assert two.answers["b"] == answer(shared, 4)
    assert two.computed == 303 - 128
    store.clear()
    three = engine()
    mirror = three.scheduler.connector._scheduling._mirror
    assert mirror.settle(10.0)
    mirror.lookup = lambda asked: Lookup(4, ())
    assert asked(three, "c", shared) == 303
    assert three.stats["lost_blocks"] == 4


def test_a_store_that_goes_away_changes_no_answer(engine: Make, served: Served) -> None:
    one, shared = engine(extra={"timeout": "500ms"}), prompt(200)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"timeout": "500ms", "mirror": False})
    served.stop()
    begun = time.monotonic()
    assert asked(two, "b", shared) == 203
    assert time.monotonic() - begun < 10
    two.settle()


def test_aborts_give_all_pages_back(engine: Make) -> None:
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    for steps in range(6):
        two.add(f"b{steps}", shared + prompt(20, steps))
        for _ in range(steps):
            two.step()
        two.abort(f"b{steps}")
        two.run()
    freed(two)
    assert asked(two, "c", shared) <= 303 - 256


@pytest.mark.parametrize("breaks", [False, True])
def test_a_block_that_one_rank_did_not_get_is_computed_by_all(engine: Make, breaks: bool) -> None:
    one, shared = engine(ranks=2), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(ranks=2)
    assert two.scheduler.connector._scheduling._mirror.settle(5.0)
    loads = two.workers.connectors[1]._transfer.loads
    loads.store = Breaking(loads.store, 2, breaks)
    # what came before a read broke off has come
    assert asked(two, "b", shared) == 303 - 128
    assert two.stats.get("load_failures", 0) == breaks and two.stats["lost_blocks"] == 2


class Slow:
    """A store whose reads take a while, each another."""

    def __init__(self, store: Any, choose: random.Random) -> None:
        self._store, self._choose = store, choose

    @contextmanager
    def read(self, chain: Chain, **more: Any) -> Iterator[Reading]:
        time.sleep(self._choose.random() * 0.02)
        with self._store.read(chain, **more) as reading:
            yield reading


def freed(engine: Engine) -> None:
    """Until every page is free but that which vLLM gives nobody; an aborted request's are once its load has ended."""
    pool, until = engine.scheduler.kv_cache_manager.block_pool, time.monotonic() + 20
    while pool.get_num_free_blocks() < engine.pages - 1:
        assert time.monotonic() < until, "pages are lost"
        engine.step()
        time.sleep(0.001)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_requests_aborted_at_any_moment_lose_no_page_and_hold_up_nobody(engine: Make, seed: int, mirror: bool) -> None:
    choose = random.Random(seed)
    one, families = engine(), [prompt(400, number) for number in range(4)]
    for number, tokens in enumerate(families):
        asked(one, f"f{number}", tokens, new=1)
    one.settle()
    # few enough pages that requests are preempted, and find nothing in vLLM's own cache
    two = engine(pages=60, caching=False, extra={"mirror": mirror})
    if mirror:
        assert two.scheduler.connector._scheduling._mirror.settle(5.0)
    for connector in two.workers.connectors:
        loads = connector._transfer.loads
        loads.store = Slow(loads.store, choose)
    alive: dict[str, tuple[list[int], int]] = {}
    for number in range(80):
        base, new = choose.choice(families), choose.randrange(1, 40)
        tokens = base[: choose.randrange(10, 400)] + prompt(choose.randrange(1, 60), 100 + number)
        two.add(f"n{number}", tokens, new)
        alive[f"n{number}"] = tokens, new
        for _ in range(choose.randrange(5)):
            two.step()
        while alive and choose.random() < 0.4:
            name = choose.choice(list(alive))
            del alive[name]
            two.abort(name)
    two.run(60.0)
    freed(two)
    assert all(two.answers[name] == answer(tokens, new) for name, (tokens, new) in alive.items())
    assert two.stats["loaded_blocks"] > 20
    assert not two.scheduler.connector._scheduling._requests


def test_a_prompt_that_needs_more_pages_than_there_are_is_vllms_to_refuse(engine: Make) -> None:
    one, shared = engine(pages=100), prompt(1200)
    asked(one, "a", shared, new=1)
    one.settle()
    # 75 pages into 40: it never runs, and never keeps others from running
    two = engine(pages=41, extra={"mirror": False})
    two.add("long", shared)
    two.add("short", shared[:300])
    for _ in range(50):
        two.step()
        time.sleep(0.002)
    assert "long" not in two.answers
    two.abort("long")
    two.run()
    assert two.answers["short"] == answer(shared[:300], 4)
    freed(two)


@pytest.mark.parametrize("mirror", [True, False])
def test_a_store_that_does_not_know_us_changes_no_answer(
    tiered: TieredStore, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mirror: bool
) -> None:
    known = IdentitySettings("engine", "writer", token="sha256:" + digest_of("k" * 40).hex())
    monkeypatch.setenv("CACHESTORE_TOKEN", "w" * 40)
    with CacheStoreServer(tiered, ServiceSettings(port=0, identities=(known,)), "test") as server:
        one = Engine(tmp_path / "model", server.address, extra={"mirror": mirror})
        for number in range(4):
            assert asked(one, f"a{number}", prompt(150)) == (153 if not number else 153 - 144)
        assert asked(one, "b", prompt(300, 2)) == 303
        one.settle()
        one.step()
        one.close()
    assert one.stats["lookup_failures"] == one.stats["save_failures"] == 5
    told = [record.getMessage() for record in caplog.records if record.name.startswith("cachestore.integrations")]
    assert len(told) == 2 and all("the token is not one that this store knows" in each for each in told)
