"""Which launch settings are fastest on this device? Tries candidates; prints lines for `cachestore_kernels.launch`."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import torch

from benchmarks.kernels_device import Sequences, kv_dtype, pools
from benchmarks.kernels_timing import Bench
from cachestore_kernels.attention.decode import Scales
from cachestore_kernels.attention.prefill import prefill
from cachestore_kernels.checksum import checksum_planes
from cachestore_kernels.launch import DEFAULTS, TUNED, Settings, architecture
from cachestore_kernels.paged import gather, scatter
from cachestore_kernels.quant import gather_quantised, scatter_dequantised
from cachestore_kernels.rope import scatter_shifted
from cachestore_kernels.shuffle import gather_packed, gather_split, scatter_packed, scatter_split

BETTER = 0.98
"""What share of the defaults' time a candidate must stay below to be worth a line."""

CANDIDATES: Mapping[str, Mapping[str, Sequence[int]]] = {
    "paged": {"tile_bytes": (4096, 8192, 16384, 32768), "num_warps": (2, 4, 8)},
    "quant": {"value_rows": (32, 64, 128), "num_warps": (2, 4, 8)},
    "shuffle.split": {"tile_bytes": (4096, 8192, 16384, 32768), "num_warps": (2, 4, 8)},
    "shuffle.pack": {"num_warps": (2, 4, 8, 16)},
    "rope": {"tile_bytes": (2048, 4096, 8192, 16384), "num_warps": (2, 4, 8)},
    "checksum": {"runs": (1, 2, 4, 8), "num_warps": (1, 2)},
    "decode": {
        "tile": (32, 64), "code_tile": (32, 64), "code_warps": (4, 8), "waves": (2, 3, 4),
    },
    "prefill": {"rows": (64, 128), "tile": (64, 128), "num_warps": (4, 8), "num_stages": (2, 3)},
}  # fmt: skip


def tune(bench: Bench, wanted: Sequence[str]) -> None:
    """Tries every candidate of all operations, or of those that start with one of `wanted`."""
    arch = 0 if bench.interpret else architecture(torch.device(bench.device))
    lines = []
    for operation, make in CALLS.items():
        if not any(operation.startswith(prefix) for prefix in wanted):
            continue
        calls = make(bench)
        TUNED.pop((operation, arch), None)
        found = [(_seconds(bench, calls), DEFAULTS[operation])]
        every = list(_candidates(operation))
        for settings in every[:1] if bench.interpret else every:
            if time.monotonic() > bench.until:
                print(f"{operation}: no time left for all candidates", flush=True)
                break
            TUNED[operation, arch] = settings
            try:
                found.append((_seconds(bench, calls), settings))
            except Exception as error:  # too large for the device, as some candidates are everywhere
                print(f"{operation} {dict(settings)}: {type(error).__name__}", flush=True)
            del TUNED[operation, arch]
        before, best = found[0][0], min(found, key=lambda timed: timed[0])
        share = best[0] / before
        print(f"{operation}: best {share:.3f} of the defaults' time, with {dict(best[1])}", flush=True)
        if share < BETTER:
            settings = ", ".join(f'"{name}": {value}' for name, value in best[1].items())
            lines.append(f'    ("{operation}", {arch}): {{{settings}}},  # {share:.2f} of the time of the defaults')
    print(f"\nfor TUNED in cachestore_kernels/launch.py, as of {time.strftime('%Y-%m-%d', time.gmtime())}:")
    print("\n".join(lines) or "nothing: the defaults are as fast as any")


def _candidates(operation: str) -> list[Settings]:
    names = CANDIDATES[operation]
    tried = [DEFAULTS[operation] | dict(zip(names, values, strict=True)) for values in product(*names.values())]  # type: ignore[operator]
    return [settings for settings in tried if settings != DEFAULTS[operation]]


def _seconds(bench: Bench, calls: Sequence[Callable[[], object]]) -> float:
    """Of all calls together."""
    return sum(bench.seconds(call) for call in calls)


Calls = list[Callable[[], object]]


def _moves(bench: Bench, operation: str) -> Calls:
    keys, values = pools(bench, bench.size(16, 1), bench.size(128, 2), 64, "heads")
    pages = torch.randperm(len(keys[0]), device=bench.device)
    where = keys, values, pages
    if operation == "paged":
        blocks = gather(*where, method="fused")
        return [partial(gather, *where, out=blocks, method="fused"), partial(scatter, blocks, *where, method="fused")]
    if operation == "quant":
        codes = gather_quantised(*where, form="int8", method="fused")
        return [
            partial(gather_quantised, *where, form="int8", out=codes, method="fused"),
            partial(scatter_dequantised, codes, *where, method="fused"),
        ]
    if operation == "shuffle.split":
        split = gather_split(*where, method="fused")
        return [
            partial(gather_split, *where, out=split, method="fused"),
            partial(scatter_split, split, *where, method="fused"),
        ]
    if operation == "shuffle.pack":
        packed = gather_packed(*where, method="fused")
        return [
            partial(gather_packed, *where, out=packed, method="fused"),
            partial(scatter_packed, packed, *where, method="fused"),
        ]
    blocks = gather(*where, method="fused")
    turns = {
        "shifts": torch.ones(blocks.shape[0], 64, dtype=torch.int64, device=bench.device),
        "frequencies": torch.rand(blocks.shape[-1] // 2, device=bench.device),
    }
    return [partial(scatter_shifted, blocks, *where, **turns, method="fused")]  # type: ignore[arg-type]


def _checksum(bench: Bench) -> Calls:
    planes = torch.zeros(bench.size(4096, 2), bench.size(32 << 10, 2048), dtype=torch.uint8, device=bench.device)
    return [partial(checksum_planes, planes, method="fused")]


def _decode(bench: Bench) -> Calls:
    kv = Sequences(bench, bench.size(32, 1), bench.size(16384, 80))
    every = torch.arange(len(kv.keys), device=bench.device)
    codes = gather_quantised([kv.keys], [kv.values], every, form="int4", method="fused")
    coded = Sequences(bench, 1, 1)
    coded.query, coded.table, coded.lengths = kv.query, kv.table, kv.lengths
    coded.keys, coded.values = codes.codes[:, 0, 0], codes.codes[:, 0, 1]
    return [kv.decode(), coded.decode(scales=Scales.of_slot(codes, 0))]


def _prefill(bench: Bench) -> Calls:
    kv, rows = Sequences(bench, bench.size(4, 1), bench.size(8192, 40)), bench.size(2048, 8)
    count, heads, dim = kv.query.shape
    query = torch.randn(count * rows, heads, dim, device=bench.device).to(kv_dtype(bench))
    starts = torch.arange(count + 1, device=bench.device, dtype=torch.int32) * rows
    return [partial(prefill, query, kv.keys, kv.values, kv.table, kv.lengths, starts, rows, method="fused")]


CALLS: Mapping[str, Callable[[Bench], Calls]] = {
    **{name: partial(_moves, operation=name) for name in ("paged", "quant", "shuffle.split", "shuffle.pack", "rope")},
    "checksum": _checksum,
    "decode": _decode,
    "prefill": _prefill,
}
