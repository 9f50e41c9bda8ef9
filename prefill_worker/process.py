"""A worker as a process of its own: it opens, says where, and ends cleanly when it is told to."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cachestore.config import read
from cachestore.errors import CacheStoreError
from cachestore.service.allocation import keep_freed_memory
from cachestore.signals import await_signal
from prefill_worker.worker_server import WorkerServer

BAD_CONFIGURATION = 2


def tables_of(config: Path, section: str, port: int | None) -> dict[str, Any]:
    """The configuration, with `port` in place of the one in `section` if given."""
    tables = read(config)
    if port is not None:
        tables[section] = {**tables.get(section, {}), "port": port}
    return tables


def run(make: Callable[[], WorkerServer]) -> int:
    """Serves until SIGTERM or SIGINT; the exit status. The first line printed says role, name and address.

    From here on this process keeps memory that it frees: see `cachestore.service.allocation`.
    """
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.append(number))
    try:
        server = make()
        server.open()
    except CacheStoreError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIGURATION
    print(f"{server.role} worker {server.name} at {server.address}", flush=True)
    await_signal(came)
    server.close()
    return 0
