"""Many streams, given up at random, while one worker at a time is killed or frozen: each ends in the right tokens or in
a clear error within its deadline, and afterwards everything is as before."""

import os
import random
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted, CacheStoreError, DeadlineExceeded, Overloaded, Unavailable
from cachestore.metrics import total
from decode_worker.client import DecodeClient
from prefill_worker.client import PrefillClient

STREAMS = 100
PATIENCE = 20.0
"""Seconds each request may take."""
CLEAR = (Aborted, DeadlineExceeded, Overloaded, Unavailable)
BATCH = "pages = 600\nchunk_tokens = 64\nmax_batch = 16\nmax_waiting = 112\nrecompute = false\n"
SLACK = {"threads": 16, "files": 16, "pages": 16}
"""How much more there may be behind the storm than before: pools of threads and of connections grow with what there is
to do at a time, and stay. Thousands of requests that left something each would be far beyond it."""
OWNED = "memfd:cachestore-gpu"
"""What pages of workers are called where memory is listed."""
NO_PAGES = {"prefill": "", "decode": ""}
PAGES = {"prefill": 'gpu_pages = "8MiB"', "decode": "gpu_pages = true"}
WORKERS = ("prefill-0", "prefill-1", "decode-0", "decode-1")


@dataclass(frozen=True)
class Case:
    """A request, and what it gives."""

    tokens: list[int]
    sampling: Sampling
    right: list[int]


@dataclass
class Storm:
    """Two workers of each role before one store. Each worker keeps its port, so that it is found again."""

    trio: Any
    settings: dict[str, str]
    cases: list[Case] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    workers: dict[str, Any] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    seen: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.trio.start_store(service="max_concurrent = 512\n")
        started = {name: self._start(name) for name in WORKERS}
        self.workers = {name: self.trio.children.told(process) for name, process in started.items()}
        for name, child in self.workers.items():
            client = DecodeClient if name.startswith("decode") else PrefillClient
            self.clients[name] = client(child.address)
            self.clients[name].open()

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def _start(self, name: str) -> Any:
        if name not in self.ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.ports[name] = free.getsockname()[1]
        role = name.partition("-")[0]
        more = 'silence = "1s"\nrest = "500ms"\nrefresh = "200ms"' if role == "decode" else 'lease = "5s"'
        settings = f"port = {self.ports[name]}\n{more}\n{self.settings[role]}"
        return self.trio.start_worker(role, name, settings, BATCH)

    def ask(self, dice: random.Random, name: str, *, calm: bool) -> None:
        """One request to a decode worker, to its end or to where it is given up."""
        case = dice.choice(self.cases)
        # most come again and again, some nobody ever asked before
        salts = [secrets.token_bytes(8)] if dice.random() < 0.3 else []
        gives_up = not calm and dice.random() < 0.3
        begun = time.monotonic()
        made: list[int] = []
        finished = False
        try:
            client = self.clients[name]
            with client.generate(
                case.tokens, max_tokens=len(case.right), sampling=case.sampling, salts=salts, timeout=PATIENCE
            ) as answer:
                limit = dice.randrange(len(case.right)) if gives_up else len(case.right) + 1
                if gives_up and not limit:
                    time.sleep(dice.random() * 0.2)
                    answer.cancel()
                for token in answer:
                    made.append(token)
                    if len(made) == limit:
                        finished = dice.random() < 0.3
                        if finished:
                            client.abort(answer.request_id, finish=True, timeout=5)
                        else:
                            answer.cancel()
                usage = answer.usage
            how = usage.finish if usage is not None else "cut off"
            whole = finished or made == case.right
            if usage is None or not whole:
                self.wrong.append(f"{name} ended with {len(made)} of {len(case.right)} tokens: {usage}")
        except CLEAR as error:
            how = error.reason
            if calm:
                self.wrong.append(f"{name}: {error}")
        except CacheStoreError as error:
            how = error.reason
            self.wrong.append(f"{name}: {error!r}")
        if made != case.right[: len(made)]:
            self.wrong.append(f"{name} gave {made} in place of {case.right}")
        took = time.monotonic() - begun
        if took > PATIENCE + 1.0:
            self.wrong.append(f"{name} took {took:.1f} s to end as {how}")
        self.ended[how] += 1

    def streams(self, seconds: float = 0.0, *, calm: bool, names: tuple[str, ...] = ("decode-0", "decode-1")) -> None:
        """`STREAMS` of them at a time, for so long and until each fault happened; each once if they are `calm`."""
        until = time.monotonic() + seconds

        def stream(seed: int) -> None:
            dice = random.Random(seed)
            try:
                while True:
                    self.ask(dice, dice.choice(names), calm=calm)
                    if calm or (time.monotonic() >= until and self.seen.is_set()):
                        return
            except Exception as error:
                self.wrong.append(f"a stream broke: {error!r}")

        threads = [threading.Thread(target=stream, args=(seed,)) for seed in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def rage(self) -> None:
        """Until it is over, one worker after the other is frozen for a while, or killed and started again."""
        dice = random.Random(5)
        while not self.over.wait(dice.uniform(0.2, 1.0)):
            name = dice.choice(WORKERS)
            child = self.workers[name]
            if self.faults["frozen"] <= self.faults["killed"]:
                child.stop()
                self.over.wait(dice.uniform(0.2, 3.0))
                child.go_on()
                self.faults["frozen"] += 1
            else:
                child.kill()
                self.workers[name] = self.trio.children.told(self._start(name))
                self.faults["killed"] += 1
                self.seen.set()

    def at_rest(self) -> bool:
        store = self.trio.store.stats()
        if any(total(store, name) for name in ("leases_open", "puts_open", "put_open", "read_open")):
            return False
        work = ("waiting", "running", "pages_referenced")
        figures = [client.stats() for client in self.clients.values()]
        return not any(total(each, name) for each in figures for name in work)

    def holds(self) -> dict[str, dict[str, int]]:
        """What every process has, by name and number, so that one started anew is another.

        Slabs of the store's memory do not count: it keeps them up to its capacity, and others map what they read.
        Those of workers' pages count where they are mapped: whoever reads them has them while their owner lives.
        """
        children = {"store": self.trio.store_child, **self.workers}
        held = {}
        for name, child in children.items():
            at = f"/proc/{child.process.pid}"
            links = [os.readlink(f"{at}/fd/{number}") for number in os.listdir(f"{at}/fd")]
            files = sum(not link.startswith("/memfd:") for link in links)
            pages = sum(OWNED in line for line in Path(f"{at}/maps").read_text().splitlines())
            held[f"{name} {at}"] = {"threads": len(os.listdir(f"{at}/task")), "files": files, "pages": pages}
        return held


@pytest.fixture
def storm(make_trio: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[Storm]:
    trio = make_trio(cold=False)
    storm = Storm(trio, request.param)
    try:
        trio.start_reference()
        storm.open()
        yield storm
    finally:
        storm.close()
        trio.end()


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "storm"), [(10.0, PAGES), (300.0, NO_PAGES)], ids=["through pages", "five minutes"], indirect=["storm"]
)
def test_every_stream_ends_and_nothing_stays(
    seconds: float, storm: Storm, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    shared = make_prompt(96, 700)
    for number, length in enumerate((5, 20, 40, 75, 120, 200, 333, 500)):
        for tokens in (make_prompt(length, 701 + number), [*shared, *make_prompt(length, 750 + number)]):
            for sampling in (Sampling(), Sampling(temperature=1.0, seed=number)):
                right = storm.trio.expected(tokens, 8 + number * 4, sampling)
                storm.cases.append(Case(tokens, sampling, right))
    storm.trio.known("prefill", 2)
    # every thread and connection that so many streams need is there behind this
    for name in ("decode-0", "decode-1"):
        storm.streams(calm=True, names=(name,))
    assert storm.wrong == []
    wait_until(storm.at_rest, 15)
    before = storm.holds()

    raging = threading.Thread(target=storm.rage)
    raging.start()
    storm.streams(seconds, calm=False)
    storm.over.set()
    raging.join(60)
    print(dict(storm.faults), dict(storm.ended))
    assert storm.wrong == [] and not raging.is_alive()
    assert storm.ended["length"] + storm.ended["stop"] > STREAMS

    wait_until(storm.at_rest, 15)
    storm.streams(calm=True)
    assert storm.wrong == []
    wait_until(storm.at_rest, 15)
    after = storm.holds()
    print(before, after, sep="\n")
    for name in before.keys() & after.keys():
        for what, slack in SLACK.items():
            assert after[name][what] <= before[name][what] + slack, (name, what, before[name], after[name])
