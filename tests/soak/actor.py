"""A process of clients: threads that put, read, look up and delete prompts, verify what they get and note it."""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

from cachestore.block import Block
from cachestore.errors import CacheStoreError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.store.base import Durability
from cachestore.testing import plans_of, write_blocks
from tests.faults.values import block_of, right
from tests.soak.notes import Note, Notebook
from tests.soak.plan import BLOCKS, NAMESPACES, PROMPTS, SPEC, durable, keys_of

TICK = 0.02
OTHERS = "peer"
"""The tier of blocks that came from another node's memory."""

PAUSE = 0.1
"""Seconds that a client rests at most after a call that failed."""


class Pulse(Thread):
    """Notices when this process is not run: a machine that is too small must not count against the store."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lost = 0.0

    def run(self) -> None:
        """Sums up by how much sleeps are longer than they should be."""
        while True:
            begun = time.monotonic()
            time.sleep(TICK)
            self.lost += max(0.0, time.monotonic() - begun - TICK - 0.005)


class Client:
    """One thread. A namespace has one writer, so that each prompt has one history."""

    def __init__(self, told: dict[str, Any], number: int, book: Notebook, pulse: Pulse) -> None:
        self._variant = number % len(NAMESPACES)
        self._namespace = NAMESPACES[self._variant]
        credentials = Credentials(token=told["tokens"][self._variant])
        self._stores = [
            RemoteStore(address, transports=told["transports"], credentials=credentials)
            for address in told["addresses"]
        ]
        self._book = book
        self._pulse = pulse
        self._chance = random.Random(told["seed"] + number)
        self._well = True

    def run(self, role: str, fill: bool, rest: float) -> None:
        """Works until the process ends; the first writers begin with every prompt once."""
        with ExitStack() as stack:
            for store in self._stores:
                stack.enter_context(store)
            if role == "writer" and fill:
                for number in range(PROMPTS):
                    self._put(number)
            while True:
                if role == "writer":
                    number = self._chance.randrange(PROMPTS)
                    self._delete(number) if self._chance.random() < 0.05 else self._put(number)
                else:
                    # popular prompts are read more often
                    number = min(int(self._chance.paretovariate(0.5)), PROMPTS) - 1
                    self._lookup(number) if self._chance.random() < 0.15 else self._read(number)
                time.sleep(self._chance.random() * (rest if self._well else PAUSE))

    def _home(self, number: int) -> int:
        """The node where a prompt is put and deleted."""
        return number % len(self._stores)

    def _any(self) -> int:
        return self._chance.randrange(len(self._stores))

    def _timeout(self) -> float:
        return self._chance.choice((0.5, 1.0, 2.0))

    def _noted(self, op: str, number: int, node: int, call: Callable[[float, Note], Note]) -> None:
        timeout, lost = self._timeout(), self._pulse.lost
        begun = time.monotonic()
        note = Note(begun, op, number, self._namespace, timeout, node=node)
        try:
            note = call(timeout, note)
        except CacheStoreError as error:
            note = replace(note, error=type(error).__name__, text=str(error)[:200])
        except Exception as error:
            note = replace(note, error="!" + type(error).__name__, text=str(error)[:200])
        self._well = not note.error
        took = note.took or time.monotonic() - begun
        self._book.add(replace(note, took=took, held_up=self._pulse.lost - lost))

    def _read(self, number: int) -> None:
        keys, node = keys_of(number), self._any()

        def call(timeout: float, note: Note) -> Note:
            with self._stores[node].read(keys, timeout=timeout) as reading:
                found = list(reading)
            took = time.monotonic() - note.at
            got = [block for block, _ in found]
            bad = [block for block, key in zip(got, keys.keys, strict=False) if not self._right(block, key)]
            foreign = sum(right(block, variant) for block in bad for variant in range(len(NAMESPACES)))
            others = sum(each.tier == OTHERS for each in found)
            tiers = tuple(dict.fromkeys(each.tier for each in found))
            return replace(
                note, took=took, blocks=len(got), others=others, wrong=len(bad), foreign=foreign, tiers=tiers
            )

        self._noted("read", number, node, call)

    def _right(self, block: Block, key: bytes) -> bool:
        return block.key == key and right(block, self._variant)

    def _lookup(self, number: int) -> None:
        node = self._any()

        def call(timeout: float, note: Note) -> Note:
            ready = self._stores[node].lookup(keys_of(number), timeout=timeout).ready
            return replace(note, blocks=ready, wrong=int(ready > BLOCKS))

        self._noted("lookup", number, node, call)

    def _put(self, number: int) -> None:
        keys = keys_of(number)
        blocks = [block_of(key, SPEC, self._variant) for key in keys.keys]
        self._book.add(Note(time.monotonic(), "intent", number, self._namespace))
        how = Durability.DURABLE if durable(number) else Durability.CACHE
        store = self._stores[self._home(number)]

        def call(timeout: float, note: Note) -> Note:
            with store.put(keys.fingerprint, plans_of(blocks), durability=how, timeout=timeout) as put:
                write_blocks(put, blocks)
                put.commit()
                statuses = tuple(str(answer.status) for answer in put.answers)
            return replace(note, statuses=statuses)

        self._noted("put", number, self._home(number), call)

    def _delete(self, number: int) -> None:
        self._book.add(Note(time.monotonic(), "undo", number, self._namespace))

        store = self._stores[self._home(number)]

        def call(timeout: float, note: Note) -> Note:
            return replace(note, blocks=store.delete(keys_of(number), timeout=timeout))

        self._noted("delete", number, self._home(number), call)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    notebook, heart = Notebook(Path(told["notes"])), Pulse()
    heart.start()
    for index in range(told["threads"]):
        client = Client(told, index, notebook, heart)
        Thread(target=client.run, args=(told["role"], told["fill"], told["rest"]), daemon=True).start()
    print("there", flush=True)
    # until who started it is gone
    sys.stdin.read()
