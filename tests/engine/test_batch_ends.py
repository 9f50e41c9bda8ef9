"""However requests end, what they held comes back: pages, references, reservations, leases, threads."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchToken
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted, DeadlineExceeded, Overloaded
from cachestore.metrics import total
from cachestore.store.tiered import TieredStore
from tests.engine.batches import figure, prompt, request, serving, until
from tests.engine.mixtures import Moody

CLIENTS = 16


def one(loop: BatchLoop, stores: list[Moody], order: random.Random) -> str:
    """A request of a random kind, and a random end; how it ended."""
    first = FirstToken() if order.random() < 0.3 else None
    several = order.random() < 0.5
    asked = request(
        prompt(order.randint(1, 200), order.randint(0, 8)),
        order.randint(1, 60),
        store=order.choice([*stores, None]),
        deadline=Deadline.after(order.choice([0.005, 0.05, 0.3, 60.0, 60.0])),
        sampling=Sampling(order.choice([0.0, 1.0]), seed=1),
        wait=order.choice([0.0, 0.0, 0.05, 20.0]) if first is not None else 0.0,
        by_slot=several,
        settle=several,
        first=first,
        expected=1,
    )
    try:
        with loop.submit(asked) as stream:
            if first is not None:
                time.sleep(order.choice([0.0, 0.1]))
                first.tell(5) if order.random() < 0.5 else first.give_up()
                first.give_up()
            list(islice(stream, order.randint(0, 20)))
            match order.choice(["leave", "abort", "finish", "end"]):
                case "abort":
                    stream.abort()
                case "finish":
                    stream.finish()
                case "leave":
                    return "left"
            list(stream)
    except (Aborted, DeadlineExceeded, Overloaded) as error:
        return error.reason
    return "ended"


def crowd(model: PagedModel, tiered: TieredStore, requests: int, seed: int) -> None:
    before = {thread.name for thread in threading.enumerate()}
    store = tiered.namespace("default")
    scheduling = {"name": "mc_sf", "predictor": {"name": "exact"}}
    settings = {"pages": 40, "max_batch": 8, "max_waiting": 12, "store_timeout": 0.5, "put_timeout": 0.5}
    with serving(model, **settings, scheduling=scheduling) as loop:
        stores = [Moody(store, 0.0), Moody(store, 0.05), Moody(store, 1.0)]
        with ThreadPoolExecutor(CLIENTS) as clients:
            jobs = [clients.submit(one, loop, stores, random.Random(seed * requests + n)) for n in range(requests)]
            ends = {job.result() for job in jobs}
        assert "ended" in ends
        until(lambda: figure(loop, "pages_referenced") == figure(loop, "running") == figure(loop, "waiting") == 0)
        assert figure(loop, "pages_free") + figure(loop, "pages_cached") == 40
        until(lambda: not any(total(store.stats(), f"{name}_open") for name in ("read", "put", "leases", "puts")))
        # nothing of what is there keeps the next from all of it
        made = [item for item in loop.submit(request(prompt(600, 99), 30)) if isinstance(item, BatchToken)]
        assert len(made) == 30
    assert {thread.name for thread in threading.enumerate() if thread.name.startswith("engine")} <= before


def test_a_crowd_leaves_nothing_behind(model: PagedModel, tiered: TieredStore) -> None:
    crowd(model, tiered, 60, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_larger_crowd_leaves_nothing_behind(seed: int, model: PagedModel, tiered: TieredStore) -> None:
    crowd(model, tiered, 300, seed + 1)
