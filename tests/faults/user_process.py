"""Who uses the nodes of a cluster, on a machine of its own: does what each line of its input says, and tells what came.

A line is a JSON object with `what`, the `address` of a node, the `seed` of a prompt, and the `timeout` of the call.
"""

import json
import sys
import time
from typing import Any

from cachestore.service.client import RemoteStore
from cachestore.store.base import Durability
from cachestore.testing import check_sums, plans_of, write_blocks
from tests.faults.values import prompt, right
from tests.faults.wire import SMALL

BLOCKS = 4


def put(store: RemoteStore, seed: int, timeout: float, durable: bool = False) -> dict[str, Any]:
    """Puts a prompt."""
    keys, blocks = prompt(SMALL, BLOCKS, seed)
    how = Durability.DURABLE if durable else Durability.CACHE
    with store.put(keys.fingerprint, plans_of(blocks), durability=how, timeout=timeout) as writing:
        write_blocks(writing, blocks)
        writing.commit()
        return {"statuses": [str(answer.status) for answer in writing.answers]}


def read(store: RemoteStore, seed: int, timeout: float) -> dict[str, Any]:
    """Reads a prompt, and says whether every byte is right."""
    keys, _ = prompt(SMALL, BLOCKS, seed)
    with store.read(keys, timeout=timeout) as reading:
        found = list(reading)
    good = all(right(each.block) and each.block.key == key for each, key in zip(found, keys.keys, strict=False))
    return {"tiers": [each.tier for each in found], "wrong": not good}


def lookup(store: RemoteStore, seed: int, timeout: float) -> dict[str, Any]:
    """Where a prompt is."""
    found = store.lookup(prompt(SMALL, BLOCKS, seed)[0], timeout=timeout)
    return {"ready": found.ready, "nodes": [run.node for run in found.runs]}


def delete(store: RemoteStore, seed: int, timeout: float) -> dict[str, Any]:
    """Deletes a prompt."""
    return {"deleted": store.delete(prompt(SMALL, BLOCKS, seed)[0], timeout=timeout)}


def stats(store: RemoteStore, seed: int, timeout: float) -> dict[str, Any]:
    """What a node counts; what it counts must add up."""
    figures = store.stats(timeout=timeout)
    check_sums(figures)
    counts: dict[str, float] = {}
    for figure in figures:
        counts[figure.name] = counts.get(figure.name, 0) + figure.value
    return {"figures": counts}


if __name__ == "__main__":
    stores: dict[str, RemoteStore] = {}
    calls = {"put": put, "read": read, "lookup": lookup, "delete": delete, "stats": stats}
    print("there", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        what, address = told.pop("what"), told.pop("address")
        begun = time.monotonic()
        try:
            if address not in stores:
                stores[address] = RemoteStore(address, transports=("stream",))
                stores[address].open()
            answer = calls[what](stores[address], **told)
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps({"took": time.monotonic() - begun, **answer}), flush=True)
