"""The store of the parts of `benchmarks/integrations.py`, in a process of its own, and how they print rows.

`integrations_store.py CAPACITY` prints its address and serves until its standard input ends.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def served(capacity: str = "2GiB") -> Iterator[str]:
    """The address of a store in memory."""
    command = [sys.executable, __file__, capacity]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        # its standard input ends with the context


def row(name: str, value: float) -> None:
    """One measured row."""
    print(json.dumps({f"integrations.{name}": value}), flush=True)


def progress(what: str) -> None:
    """Where it is, for people."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Serves."""
    from cachestore.service.server import CacheStoreServer
    from cachestore.service.settings import ServiceSettings
    from cachestore.store.compose import compose

    settings = {"tiers": [{"name": "cpu", "capacity": sys.argv[1]}], "codecs": {"name": "raw"}}
    with compose(settings) as store, CacheStoreServer(store, ServiceSettings(port=0), "bench") as server:
        print(server.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
