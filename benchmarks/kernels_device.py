"""What each kernel reaches on a device. A function a group of rows; they share nothing but the clock."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels_flex import decode_with_flex
from benchmarks.kernels_timing import Bench, TimeIsUp
from cachestore_kernels.attention.decode import Scales, decode
from cachestore_kernels.attention.prefill import prefill
from cachestore_kernels.checksum import checksum_planes
from cachestore_kernels.paged import gather, scatter
from cachestore_kernels.quant import FORMS, gather_quantised, peaks, scatter_dequantised
from cachestore_kernels.rope import scatter_shifted
from cachestore_kernels.shuffle import gather_packed, gather_split, scatter_packed, scatter_split

KV_HEADS, GROUP, DIM = 8, 8, 128


def measure(bench: Bench, rows: Sequence[str]) -> None:
    """All groups, or those with a row that starts with one of `rows`; one that fails is skipped, and says why."""
    for group, names in GROUPS:
        if not any(name.startswith(row) or row.startswith(name) for row in rows for name in names):
            continue
        try:
            group(bench)
        except Exception as error:  # a figure that cannot be had must not cost the others
            bench.skip(", ".join(names), error)
        if not bench.interpret:
            torch.cuda.empty_cache()


def kv_dtype(bench: Bench) -> torch.dtype:
    """bfloat16; in the interpreter, which multiplies it wrongly, float16."""
    return torch.float16 if bench.interpret else torch.bfloat16


def copy_bandwidth(bench: Bench) -> float:
    """Bytes a second of a device copy, read and written."""
    data = torch.empty(bench.size(1 << 30, 1 << 16), dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(data)
    return 2 * data.numel() / bench.seconds(lambda: other.copy_(data))


def read_bandwidth(bench: Bench) -> float:
    """Bytes a second that a reduction reads."""
    data = torch.ones(bench.size(1 << 28, 1 << 14), device=bench.device)
    return 4 * data.numel() / bench.seconds(data.sum)


def measure_device(bench: Bench) -> None:
    """What bounds the others."""
    bench.add("device.copy", copy_bandwidth(bench) / 1e12, "TB/s")
    bench.add("device.read", read_bandwidth(bench) / 1e12, "TB/s")


def pools(
    bench: Bench, slots: int, pages: int, tokens: int, layout: str
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """K and V of `slots` slots in one of the layouts of engines."""
    shape = {
        "heads": (pages, KV_HEADS, tokens, DIM),
        "tokens": (pages, tokens, KV_HEADS, DIM),
        "joined": (pages, KV_HEADS, tokens, 2 * DIM),
    }[layout]
    made = [
        torch.randn(shape, device=bench.device).to(kv_dtype(bench))
        for _ in range(slots * (1 if layout == "joined" else 2))
    ]
    if layout == "joined":
        halves = [pool.chunk(2, dim=3) for pool in made]
        return [k for k, _ in halves], [v for _, v in halves]
    views = [pool.transpose(1, 2) if layout == "tokens" else pool for pool in made]
    return views[::2], views[1::2]


def measure_paged(bench: Bench) -> None:
    """Blocks of 64 tokens of 16 slots, as pages of 64 and of 16 tokens."""
    copy = copy_bandwidth(bench)
    slots, blocks = bench.size(16, 2), bench.size(128, 2)
    for layout in ("heads", "tokens", "joined"):
        for tokens in (64, 16):
            each = 64 // tokens
            keys, values = pools(bench, slots, blocks * each, tokens, layout)
            pages = torch.randperm(blocks * each, device=bench.device).view(blocks, each)
            out = gather(keys, values, pages, method="fused")
            moved = 2 * out.numel() * out.element_size()
            calls = {
                "gather": partial(gather, keys, values, pages, out=out, method="fused"),
                "scatter": partial(scatter, out, keys, values, pages, method="fused"),
            }
            for name, call in calls.items():
                bench.add(f"{name}.{layout}.{tokens}", moved / bench.seconds(call) / copy, "of copy", 0.85, 0.95)


def measure_quant(bench: Bench) -> None:
    """Read and written bytes of the pass, as a share of a copy's."""
    copy = copy_bandwidth(bench)
    slots, blocks = bench.size(16, 1), bench.size(128, 2)
    keys, values = pools(bench, slots, blocks, 64, "heads")
    pages = torch.randperm(blocks, device=bench.device)
    raw = sum(pool.numel() * pool.element_size() for pool in (*keys, *values))
    for form in FORMS:
        out = gather_quantised(keys, values, pages, form=form, method="fused")
        coded = sum(tensor.numel() * tensor.element_size() for tensor in out[2:] if tensor is not None)
        calls = {
            "gather": partial(gather_quantised, keys, values, pages, form=form, out=out, method="fused"),
            "scatter": partial(scatter_dequantised, out, keys, values, pages, method="fused"),
        }
        for name, call in calls.items():
            bench.add(f"quant.{name}.{form}", (raw + coded) / bench.seconds(call) / copy, "of copy", 0.8, 0.92)
    seconds = bench.seconds(partial(peaks, keys, values, pages, method="fused"))
    bench.add("peaks", raw / seconds / read_bandwidth(bench), "of read")


def measure_shuffle(bench: Bench) -> None:
    """Read and written bytes of the pass, as a share of a copy's; of packing, room for escapes included."""
    copy = copy_bandwidth(bench)
    slots, blocks = bench.size(16, 1), bench.size(128, 2)
    keys, values = pools(bench, slots, blocks, 64, "heads")
    pages = torch.randperm(blocks, device=bench.device)
    where = keys, values, pages
    raw = sum(pool.numel() * pool.element_size() for pool in (*keys, *values))
    split, packed = gather_split(*where, method="fused"), gather_packed(*where, method="fused")
    stored = sum(part.numel() * part.element_size() for part in packed[1:])
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "gather.split": (raw, partial(gather_split, *where, out=split, method="fused")),
        "scatter.split": (raw, partial(scatter_split, split, *where, method="fused")),
        "gather.packed": (stored, partial(gather_packed, *where, out=packed, method="fused")),
        "scatter.packed": (stored, partial(scatter_packed, packed, *where, method="fused")),
    }
    for name, (coded, call) in calls.items():
        bench.add(f"shuffle.{name}", (raw + coded) / bench.seconds(call) / copy, "of copy", 0.8, 0.92)
    bench.add("shuffle.packed.size", stored / raw, "of raw")


def measure_rope(bench: Bench) -> None:
    """Blocks of 64 tokens of 16 slots into pages, keys turned."""
    copy = copy_bandwidth(bench)
    slots, count = bench.size(16, 1), bench.size(128, 2)
    keys, values = pools(bench, slots, count, 64, "heads")
    pages = torch.randperm(count, device=bench.device)
    blocks = gather(keys, values, pages, method="fused")
    moved = 2 * blocks.numel() * blocks.element_size()
    shifts = torch.randint(-9999, 9999, (count, 64), device=bench.device)
    where = blocks, keys, values, pages
    frequencies = 10000.0 ** -(torch.arange(DIM // 2, device=bench.device) / (DIM // 2))
    for style in ("half", "interleaved"):
        turns = {"shifts": shifts, "frequencies": frequencies, "style": style}
        call = partial(scatter_shifted, *where, **turns, method="fused")  # type: ignore[arg-type]
        bench.add(f"rope.{style}", moved / bench.seconds(call) / copy, "of copy", 0.8, 0.92)


def measure_checksum(bench: Bench) -> None:
    """Planes of 32 and 128 KiB."""
    read = read_bandwidth(bench)
    for count, size in ((2048, 32 << 10), (8192, 32 << 10), (4096, 128 << 10)):
        planes = torch.zeros(bench.size(count, 2), bench.size(size, 2048), dtype=torch.uint8, device=bench.device)
        share = planes.numel() / bench.seconds(partial(checksum_planes, planes, method="fused")) / read
        bench.add(f"checksum.{count}x{size >> 10}k", share, "of read", 0.7, 0.9)


class Sequences:
    """`count` sequences of `length` tokens in pages of `tokens`, in random order, and queries for them."""

    def __init__(self, bench: Bench, count: int, length: int, tokens: int = 64, layout: str = "heads") -> None:
        each = -(-length // tokens)
        keys, values = pools(bench, 1, count * each, tokens, layout)
        self.keys, self.values = keys[0], values[0]
        self.table = torch.randperm(count * each, device=bench.device).view(count, each).int()
        self.lengths = torch.full((count,), length, dtype=torch.int32, device=bench.device)
        shape = (count, KV_HEADS * GROUP, DIM)
        self.query = torch.randn(shape, device=bench.device).to(kv_dtype(bench))
        self.nbytes = 2 * count * length * KV_HEADS * DIM * self.query.element_size()

    def decode(self, **options: object) -> Callable[[], object]:
        """A step of decode attention."""
        where = self.query, self.keys, self.values, self.table, self.lengths
        return partial(decode, *where, method="fused", **options)  # type: ignore[arg-type]


def fastest(bench: Bench, make: Callable[[], object], backends: Sequence[SDPBackend] = ()) -> tuple[float, str]:
    """The fastest of torch's own attentions for a call, or of `backends` alone, and its name."""
    found = []
    kernels = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
    for backend in backends or (*kernels, SDPBackend.MATH):
        if backend is SDPBackend.MATH and found:
            break
        try:
            with sdpa_kernel(backend):
                found.append((bench.seconds(make), backend.name.lower()))
        except TimeIsUp:
            raise
        except RuntimeError:
            continue  # it does not offer this work
    if not found:
        raise RuntimeError("torch offers no attention for this work")
    return min(found)


def measure_decode(bench: Bench) -> None:
    """Batch 32 of long sequences: bytes of KV read, beside what the device reads."""
    read = read_bandwidth(bench)
    count = bench.size(32, 1)
    of_read = "of read", 0.8, 0.92
    for length in (8192, 16384, 32768):
        kv = Sequences(bench, count, bench.size(length, 80))
        bench.add(f"decode.bandwidth.{length}", kv.nbytes / bench.seconds(kv.decode()) / read, *of_read)
    for tokens, layout in ((16, "heads"), (16, "tokens"), (64, "joined")):
        kv = Sequences(bench, count, bench.size(16384, 80), tokens, layout)
        bench.add(f"decode.bandwidth.{layout}.{tokens}", kv.nbytes / bench.seconds(kv.decode()) / read, *of_read)


def measure_decode_peers(bench: Bench) -> None:
    """The same work beside the fastest that torch has for it: contiguous KV, or pages by FlexAttention."""
    count = bench.size(32, 1)
    for length in (8192, 16384, 32768):
        real = bench.size(length, 80)
        kv = Sequences(bench, count, real)
        ours = bench.seconds(kv.decode())
        plain = [torch.randn(count, KV_HEADS, real, DIM, device=bench.device).to(kv_dtype(bench)) for _ in range(2)]
        query = kv.query[:, :, None]
        peer, name = fastest(bench, lambda q=query, p=plain: scaled_dot_product_attention(q, *p, enable_gqa=True))  # type: ignore[misc]
        # heads of a group as rows of one tile: what torch can be brought to do without expanding KV
        rows = kv.query.view(count, KV_HEADS, GROUP, DIM)
        packed, packed_name = fastest(bench, lambda q=rows, p=plain: scaled_dot_product_attention(q, *p))  # type: ignore[misc]
        if packed < peer:
            peer, name = packed, packed_name + ", heads as rows"
        del plain
        try:
            flex = decode_with_flex(bench, kv.query, kv.table, KV_HEADS, 64, real)
            bench.add(f"decode.flex.{length}", flex / ours, "times as fast as FlexAttention, paged")
            if flex < peer:
                peer, name = flex, "FlexAttention, paged"
        except Exception as error:  # it wants a compiler, which not every machine has
            bench.skip(f"decode.flex.{length}", error)
        bench.add(f"decode.peer.{length}", peer / ours, f"times as fast as {name}", 1.0, 1.2)


def measure_decode_codes(bench: Bench) -> None:
    """Pages of codes beside bfloat16 pages."""
    kv = Sequences(bench, bench.size(32, 1), bench.size(16384, 80))
    plain = bench.seconds(kv.decode())
    every = torch.arange(len(kv.keys), device=bench.device)
    bars = {"int8": (0.6, 0.53), "int4": (0.4, 0.3), "e4m3": (0.6, 0.53), "e5m2": (0.6, 0.53)}
    for form in FORMS:
        codes = gather_quantised([kv.keys], [kv.values], every, form=form, method="fused")
        pages = codes.codes[:, 0, 0], codes.codes[:, 0, 1], kv.table, kv.lengths
        call = partial(decode, kv.query, *pages, scales=Scales.of_slot(codes, 0), method="fused")
        bench.add(f"decode.{form}", bench.seconds(call) / plain, "of bfloat16's time", *bars[form])


def measure_prefetch(bench: Bench) -> None:
    """How much the prefetch into L2 wins or loses, over batches and lengths; the best and the worst are what counts."""
    found = []
    for count, length in ((1, 131072), (4, 32768), (32, 16384), (64, 4096), (16, 8192), (128, 2048), (1, 8192)):
        kv = Sequences(bench, bench.size(count, 1), bench.size(length, 40))
        ratio = bench.seconds(kv.decode()) / bench.seconds(kv.decode(prefetch=True))
        bench.add(f"decode.prefetch.{count}x{length}", ratio, "times as fast as without")
        found.append(ratio)
    bench.add("decode.prefetch.best", max(found), "times as fast as without", None, 1.3)
    bench.add("decode.prefetch.worst", min(found), "times as fast as without")


def measure_prefill(bench: Bench) -> None:
    """Chunks of a prompt over what precedes them, beside torch's flash attention on contiguous tensors, and others."""
    for count, length, chunk in ((4, 8192, 2048), (1, 32768, 2048), (4, 4096, 4096)):
        count, real, rows = bench.size(count, 1), bench.size(length, 40), bench.size(chunk, 8)
        kv = Sequences(bench, count, real)
        heads = KV_HEADS * GROUP
        query = torch.randn(count * rows, heads, DIM, device=bench.device).to(kv_dtype(bench))
        starts = torch.arange(count + 1, device=bench.device, dtype=torch.int32) * rows
        where = query, kv.keys, kv.values, kv.table, kv.lengths, starts, rows
        ours = bench.seconds(partial(prefill, *where, method="fused"))
        plain = [torch.randn(count, KV_HEADS, real, DIM, device=bench.device).to(kv_dtype(bench)) for _ in range(2)]
        rows_first = query.view(count, rows, heads, DIM).transpose(1, 2).contiguous()
        mask = causal_lower_right(rows, real)
        call = partial(scaled_dot_product_attention, rows_first, *plain, attn_mask=mask, enable_gqa=True)
        for id, backends, bars in (
            ("prefill.peer", [SDPBackend.FLASH_ATTENTION], (0.6, 0.85)),
            ("prefill.any", [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION], ()),
        ):
            try:
                peer, name = fastest(bench, call, () if bench.interpret else backends)
                bench.add(f"{id}.{count}x{length}.{chunk}", peer / ours, f"times as fast as {name}", *bars)
            except RuntimeError as error:  # each is a figure of its own
                bench.skip(f"{id}.{count}x{length}.{chunk}", error)


GROUPS: tuple[tuple[Callable[[Bench], None], tuple[str, ...]], ...] = (
    (measure_device, ("device",)),
    (measure_paged, ("gather", "scatter")),
    (measure_quant, ("quant", "peaks")),
    (measure_rope, ("rope",)),
    (measure_checksum, ("checksum",)),
    (measure_decode, ("decode.bandwidth",)),
    (measure_decode_codes, tuple(f"decode.{form}" for form in FORMS)),
    (measure_prefill, ("prefill.peer", "prefill.any")),
    (measure_decode_peers, ("decode.peer", "decode.flex")),
    (measure_prefetch, ("decode.prefetch",)),
    (measure_shuffle, ("shuffle",)),
)
"""Each with how its rows begin, in the order in which they are measured: promises first, in case time runs out."""
