"""A client in a process of its own, which goes as far as it is told, says so and stays there to be killed."""

import json
import sys

from cachestore.service.client import RemoteStore
from cachestore.testing import plans_of
from tests.faults.values import prompt
from tests.faults.wire import LARGE, SMALL

SPECS = {"small": SMALL, "large": LARGE}


def stay() -> None:
    """Says that it is there, and waits."""
    print("there", flush=True)
    sys.stdin.read()


def write(store: RemoteStore, step: str, spec: str, count: int, seed: int) -> None:
    """Puts blocks up to one step."""
    keys, blocks = prompt(SPECS[spec], count, seed)
    store.stats()
    if step == "connected":
        return stay()
    with store.put(keys.fingerprint, plans_of(blocks), timeout=60) as put:
        if step == "reserved":
            return stay()
        for number, block in enumerate(blocks):
            for plane, data in enumerate(block.data):
                put.write(number, plane, data)
                if step == "amid a block" and number == 1:
                    return stay()
        if step == "written":
            return stay()
        put.commit([0] if step == "committed one" else None)
        return stay()


def read(store: RemoteStore, step: str, spec: str, count: int, seed: int) -> None:
    """Reads blocks up to one step."""
    keys, _ = prompt(SPECS[spec], count, seed)
    if step == "leased":
        store.lease(keys)
        return stay()
    with store.read(keys, timeout=60) as reading:
        next(iter(reading))
        return stay()


if __name__ == "__main__":
    address, transports, what, *arguments = json.loads(sys.argv[1])
    with RemoteStore(address, transports=transports) as store:
        {"write": write, "read": read}[what](store, *arguments)
