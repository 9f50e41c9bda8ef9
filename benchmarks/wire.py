"""How near is the wire to what its machine can do, and how far ahead of its peers?

A store in one process, its client in another, beside what bounds them: bare TCP between two processes for another
node, a copy that is hashed for the same one. Reads are verified. All sides of a row move the same bytes in turn, round
after round, in an order that is drawn, through more memory than the caches hold; the figure is the median of the
ratios of neighbours. Behind each ratio stand the medians of both sides in GB/s.

    python benchmarks/wire.py [--quick] [--json] [--seconds S] [--rows PREFIX ...] [--blocks N] [--pin [CORES]]
                              [--peers [DIR]]

`--peers` runs Mooncake Store and LMCache in the same turns, from the environment that `make bench-peers` makes or
from DIR, and then everything in a network of its own that has loopback only, since Mooncake listens wherever it can.
The client keeps memory that it frees (`cachestore.service.allocation`), as every process that serves does and a
worker of ours would. Round trips depend on where the processes sit: `--pin` keeps all of them on the first CORES
cores, one if no number is given; the line about the machine says how many there were. A call to another node moves
`--blocks` blocks, by default a prompt of 4,096 tokens; with fewer, what a call costs in round trips weighs more.

To add rows: a file with functions that take a `Report` and `Options`, and a line in `ROWS`.
"""

import os
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import wire_calls
import wire_local
import wire_peers
import wire_remote
import wire_tls
from report import Report, add_rows, check_rows

from cachestore.service.allocation import keep_freed_memory

QUICK_BLOCKS = 16


@dataclass(frozen=True)
class Options:
    """`seconds`: how long sides take turns, at least one round. `quick` moves less data, for a look and for tests.

    A call to another node moves `blocks` blocks.
    `peers` is the environment of the peers; without one `no_peers` says why.
    """

    quick: bool = False
    seconds: float = 10.0
    blocks: int = 64
    peers: Path | None = None
    no_peers: str = "no peers (--peers, benchmarks/peers/README.md)"


ROWS: dict[Callable[[Report, Options], None], tuple[str, ...]] = {
    wire_local.measure_reads: ("wire.local_read", "wire.mooncake_local"),
    wire_local.measure_lmcache: ("wire.lmcache_server",),
    wire_local.measure_puts: ("wire.local_put",),
    wire_local.measure_readers: ("wire.readers4",),
    wire_remote.measure_reads: ("wire.stream_read", "wire.bulk_read", "wire.mooncake_read", "wire.mooncake_verified"),
    wire_remote.measure_writes: ("wire.stream_write", "wire.bulk_write", "wire.mooncake_write"),
    wire_remote.measure_cpu: ("wire.cpu",),
    wire_tls.measure_reads: ("wire.mtls", "wire.mtls_bulk"),
    wire_calls.measure_lookups: ("wire.lookup_ms", "wire.mirror_ms"),
    wire_calls.measure_first_plane: ("wire.first_plane_ms",),
}
"""What measures which rows."""


def run(options: Options, rows: Sequence[str] = ("",)) -> Report:
    """Measures all rows, or those whose name starts with one of `rows` and what is measured along with them."""
    report = Report("wire")
    for measure, names in ROWS.items():
        if any(name.startswith(tuple(rows)) for name in names):
            measure(report, options)
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="less data, one round")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="how long the sides of a row take turns")
    parser.add_argument(
        "--blocks",
        type=int,
        default=Options.blocks,
        help="blocks of 2 MiB a call to another node (default: %(default)s)",
    )
    add_rows(parser)
    parser.add_argument("--pin", type=int, nargs="?", const=1, metavar="CORES", help="stay on the first CORES cores")
    parser.add_argument(
        "--peers", type=Path, nargs="?", const=wire_peers.ENVIRONMENT, default=os.environ.get("CACHESTORE_PEERS"),
        help="environment of the peers",
    )  # fmt: skip
    given = parser.parse_args()
    check_rows(parser, given.rows, [name for names in ROWS.values() for name in names])
    if given.blocks < 1:
        parser.error("--blocks: a call moves at least one block")
    blocks = min(given.blocks, QUICK_BLOCKS) if given.quick else given.blocks
    options = Options(given.quick, 0.0 if given.quick else given.seconds, blocks, given.peers and Path(given.peers))
    if options.peers and not wire_peers.alone():
        forbidden = "no network of its own is to be had here (unshare --net), and peers listen on every one"
        options = replace(options, peers=None, no_peers=forbidden)
    if given.pin:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.pin])
    keep_freed_memory()
    run(options, given.rows).print(given.json)


if __name__ == "__main__":
    main()
