"""The rows of `wire.py` about what mutual TLS costs."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from report import Report
from wire_remote import TRANSPORTS, read
from wire_sides import BLOCK_BYTES, Sides, fill, prompt_count, prompts, remote, served, timed

from cachestore.service.auth.certificates import make
from cachestore.service.auth.credentials import Credentials
from cachestore.service.settings import ServiceSettings

if TYPE_CHECKING:
    from wire import Options

NAMES, CLIENT = ["127.0.0.1"], "client"


def measure_reads(report: Report, options: Options) -> None:
    """Rows `wire.mtls`, the stream under mutual TLS beside the plain one, and `wire.mtls_bulk`, the same of bulk."""
    count = prompt_count(options, options.blocks)
    own, sides = prompts(count, blocks=options.blocks), Sides(options.blocks)
    with ExitStack() as stack:
        plain = stack.enter_context(served(count * options.blocks * BLOCK_BYTES * 9 // 8))
        for name in TRANSPORTS:
            with sides.noting(name):
                store = stack.enter_context(remote(plain.address, name))
                fill(store, own)
                sides.ways[name] = timed(partial(read, store, own))
        made = make(Path(stack.enter_context(TemporaryDirectory(prefix="cachestore-bench-"))), NAMES, [CLIENT])
        settings = ServiceSettings(port=0, tls_cert=str(made.cert()), tls_key=str(made.key()), client_ca=str(made.ca))
        shown = Credentials(str(made.ca), str(made.cert(CLIENT)), str(made.key(CLIENT)))
        private = stack.enter_context(served(count * options.blocks * BLOCK_BYTES * 9 // 8, settings))
        for name in TRANSPORTS:
            with sides.noting(f"tls {name}"):
                store = stack.enter_context(remote(private.address, name, credentials=shown))
                fill(store, own)
                sides.ways[f"tls {name}"] = timed(partial(read, store, own))
        sides.take_turns(count, options)
    sides.row(report, "wire.mtls", "tls stream", "stream", bar=0.6, reach=0.8)
    sides.row(report, "wire.mtls_bulk", "tls bulk", "bulk", bar=0.4, reach=0.6)
