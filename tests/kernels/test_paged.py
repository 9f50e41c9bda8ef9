"""Paged gather and scatter: the oracle against indexing by hand, the fused kernels against the oracle."""

from dataclasses import dataclass, replace

import pytest
import torch

from cachestore_kernels.paged import Method, gather, scatter
from cachestore_kernels.paged.pools import INTEGERS


@dataclass(frozen=True)
class Case:
    layout: str = "heads"
    slots: int = 2
    heads: int = 4
    tokens: int = 5
    dim: int = 16
    wanted: range | None = None
    pages: tuple[int, ...] = (4, 0, 2)
    dtype: torch.dtype = torch.float16

    @property
    def name(self) -> str:
        wanted = f"{self.wanted.start}:{self.wanted.stop}" if self.wanted else "all"
        shape = f"s{self.slots}h{self.heads}t{self.tokens}d{self.dim}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.layout}-{shape}-{wanted}-{len(self.pages)}pages-{dtype}"


PAGES = 6
EXACT = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NARROW = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
CASES = [
    *(Case(layout) for layout in ("heads", "tokens", "joined", "head-major", "odd-offset")),
    *(Case("tokens", dtype=dtype, wanted=range(1, 3)) for dtype in EXACT + NARROW),
    *(Case("heads", dim=dim, tokens=3) for dim in (1, 24, 40, 80, 96, 128, 256)),
    *(Case("joined", dim=dim, tokens=7, wanted=range(3, 4)) for dim in (40, 80)),
    *(Case("odd-offset", dim=33, tokens=tokens, dtype=torch.int8) for tokens in (1, 3, 17)),
    *(Case("head-major", heads=heads, wanted=range(heads - 1, heads)) for heads in (1, 2, 3, 8)),
    Case("tokens", slots=1, heads=2, tokens=64, dim=128, pages=(5,), dtype=torch.bfloat16),
    Case("tokens", slots=5, heads=1, tokens=1, dim=8, pages=(5, 4, 3, 2, 1, 0)),
    Case("heads", pages=()),
]
table = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@dataclass
class Engine:
    """Pools as an engine holds them: the memory, and the views into it."""

    memory: list[torch.Tensor]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def engine(case: Case, seed: int, device: str = "cpu") -> Engine:
    """Pools of random bytes: every kind of NaN, infinity and zero among them."""
    joined = case.layout == "joined"
    dim = case.dim * 2 if joined else case.dim
    shape = {
        "heads": (PAGES, case.heads, case.tokens, dim),
        "joined": (PAGES, case.heads, case.tokens, dim),
        "odd-offset": (PAGES, case.heads, case.tokens, dim),
        "tokens": (PAGES, case.tokens, case.heads, dim),
        "head-major": (case.heads, PAGES, case.tokens, dim),
    }[case.layout]
    swap = {"tokens": (1, 2), "head-major": (0, 1)}.get(case.layout, (0, 0))
    offset = 3 if case.layout == "odd-offset" else 0
    elements = PAGES * case.heads * case.tokens * dim + offset
    random = torch.Generator().manual_seed(seed)
    memory = [
        torch.randint(256, (elements * case.dtype.itemsize,), dtype=torch.uint8, generator=random).to(device)
        for _ in range(case.slots * (1 if joined else 2))
    ]
    views = [raw.view(case.dtype)[offset:].view(shape).transpose(*swap) for raw in memory]
    if joined:
        keys, values = zip(*(view.chunk(2, dim=3) for view in views), strict=True)
        return Engine(memory, list(keys), list(values))
    return Engine(memory, views[::2], views[1::2])


def poisoned(like: torch.Tensor) -> torch.Tensor:
    """Memory in which an element nobody wrote shows."""
    return torch.full_like(like.view(torch.uint8), 0xA5).view(like.dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(torch.uint8)


def by_hand(case: Case, pools: Engine) -> torch.Tensor:
    heads = case.wanted or range(case.heads)
    blocks = torch.empty(len(case.pages), case.slots, 2, len(heads), case.tokens, case.dim, dtype=case.dtype)
    for b, page in enumerate(case.pages):
        for s in range(case.slots):
            for side, pool in enumerate((pools.keys[s], pools.values[s])):
                for h, head in enumerate(heads):
                    bits(blocks[b, s, side, h]).copy_(bits(pool[page, head]))
    return blocks


def check_gather(case: Case, method: Method | None, device: str = "cpu") -> None:
    pools, pages = engine(case, 1, device), torch.tensor(case.pages, dtype=torch.int64, device=device)
    expected = by_hand(case, engine(case, 1))
    out = poisoned(expected.to(device))
    result = gather(pools.keys, pools.values, pages, case.wanted or slice(None), out=out, method=method)
    assert result is out
    assert torch.equal(bits(out), bits(expected))


def check_scatter(case: Case, method: Method | None, device: str = "cpu") -> None:
    """All memory is compared: other pages, other heads and what lies between must stay as they were."""
    blocks = by_hand(case, engine(case, 1))
    expected, pools = engine(case, 2), engine(case, 2, device)
    for s in range(case.slots):
        for side, pool in enumerate((expected.keys[s], expected.values[s])):
            raw = pool.view(INTEGERS[case.dtype.itemsize])
            for b, page in enumerate(case.pages):
                raw[page, list(case.wanted or range(case.heads))] = blocks[b, s, side].view(raw.dtype)
    pages = torch.tensor(case.pages, dtype=torch.int64, device=device)
    scatter(blocks.to(device), pools.keys, pools.values, pages, case.wanted or slice(None), method=method)
    for written, memory in zip(pools.memory, expected.memory, strict=True):
        assert torch.equal(written.cpu(), memory)
    again = gather(pools.keys, pools.values, pages, case.wanted or slice(None), method=method)
    assert torch.equal(bits(again), bits(blocks))


@table
def test_naive(case: Case) -> None:
    check_gather(case, None)
    check_scatter(case, None)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if number % 4 == 0 else pytest.mark.slow) for number, case in enumerate(CASES)],
    ids=lambda case: case.name,
)
def test_fused_interpreted(case: Case, interpreted: None) -> None:
    check_gather(case, "fused")
    check_scatter(case, "fused")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fused_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    # Triton warns while this is unset; nothing here multiplies
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    for case in CASES:
        check_gather(case, None, "cuda")
        check_scatter(case, None, "cuda")


@pytest.mark.parametrize("method", ["naive", "fused"])
def test_nan_payloads_survive(method: Method, interpreted: None) -> None:
    odd = [0x7F800001, 0x7FC12345, 0x7F800000, -0x80000000, 0x7FFFFFFF, 1]
    patterns = torch.tensor(odd, dtype=torch.int32)
    pool = patterns.view(torch.float32).view(1, 1, 1, 6)
    pages = torch.tensor([0])
    blocks = gather([pool], [pool], pages, method=method)
    assert blocks.view(torch.int32).tolist() == [[[[[patterns.tolist()]], [[patterns.tolist()]]]]]
    empty = torch.zeros_like(pool), torch.zeros_like(pool)
    scatter(blocks, [empty[0]], [empty[1]], pages, method=method)
    assert torch.equal(bits(empty[0]), bits(pool))


def test_a_page_may_be_read_twice(interpreted: None) -> None:
    check_gather(replace(Case(), pages=(3, 3, 1, 3)), "naive")
    check_gather(replace(Case(), pages=(3, 3, 1, 3)), "fused")


@pytest.mark.parametrize("method", ["naive", "fused"])
@pytest.mark.parametrize("layout", ["heads", "tokens", "joined"])
def test_blocks_of_many_pages(layout: str, method: Method, interpreted: None) -> None:
    case = Case(layout, wanted=range(1, 3))
    pools, pages = engine(case, 1), torch.tensor([[4, 0, 2], [1, 5, 3]])
    single = gather(pools.keys, pools.values, pages.flatten(), range(1, 3))
    expected = single.unflatten(0, (2, 3)).movedim(1, 4).flatten(4, 5)
    blocks = gather(pools.keys, pools.values, pages, range(1, 3), out=poisoned(expected.contiguous()), method=method)
    assert torch.equal(bits(blocks), bits(expected))
    memory = [raw.clone() for raw in pools.memory]
    scatter(blocks[[1, 0]], pools.keys, pools.values, pages, range(1, 3), method=method)
    assert not all(map(torch.equal, pools.memory, memory))
    scatter(blocks, pools.keys, pools.values, pages, range(1, 3), method=method)
    assert all(map(torch.equal, pools.memory, memory))


@pytest.mark.parametrize("far", ["pages", "heads"])
def test_offsets_beyond_32_bits(far: str, device: str) -> None:
    stride = 2**30
    # the memory is only reserved: nothing but the four rows is touched
    memory = torch.empty(3 * stride + 16, dtype=torch.int8, device=device)
    pool = memory.as_strided((4, 1, 1, 16), (stride, 1, 1, 1))
    if far == "heads":
        pool = pool.transpose(0, 1)
    pages = torch.arange(pool.shape[0], device=device)
    pool.copy_(torch.arange(64, dtype=torch.int8).view(pool.shape))
    blocks = gather([pool], [pool], pages, method="naive")
    assert torch.equal(gather([pool], [pool], pages, method="fused"), blocks)
    scatter(blocks + 64, [pool], [pool], pages, method="fused")
    assert torch.equal(gather([pool], [pool], pages, method="naive"), blocks + 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pools_that_come_and_go_on_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pools than addresses are kept of, each moved behind work that has not ended when the next ones come."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    big, stream = torch.ones(4096, 4096, device="cuda"), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    pages = torch.tensor([1], device="cuda")
    moved: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    made = [torch.full((2, 1, 16, 64), float(number), device="cuda") for number in range(600)]
    torch.cuda.synchronize()
    for number, pool in enumerate(made):
        # here its addresses come to the device, and are read there later
        gather([pool], [pool], pages, method="fused")
        with torch.cuda.stream(stream):
            if number % 100 == 0:
                big = big @ big * 1e-4
            moved.append(gather([pool], [pool], pages, method="fused"))
        expected.append(pool[1, :1].expand(1, 1, 2, 1, 16, 64))
        # what memory becomes in which addresses are not kept any more
        torch.full((2,), -1, device="cuda")
    torch.cuda.synchronize()
    assert all(map(torch.equal, moved, expected))


def test_unaligned_memory(interpreted: None) -> None:
    pool = torch.frombuffer(bytearray(33), dtype=torch.float16, offset=1).view(1, 1, 1, 16)
    with pytest.raises(ValueError, match="not aligned to the elements"):
        gather([pool], [pool], torch.tensor([0]), method="fused")


@pytest.mark.parametrize("page", [-1, PAGES, 2**40])
def test_pages_outside_the_pool(page: int, interpreted: None) -> None:
    case = Case(pages=(1, 2))
    pools, untouched = engine(case, 1), engine(case, 1)
    pages = torch.tensor([1, page])
    blocks = by_hand(case, pools)
    with pytest.raises(ValueError, match=rf"pages: {page} lies outside \[0, 6\)"):
        gather(pools.keys, pools.values, pages)
    with pytest.raises(ValueError, match=rf"pages: {page} lies outside \[0, 6\)"):
        scatter(poisoned(blocks), pools.keys, pools.values, pages)
    assert all(map(torch.equal, pools.memory, untouched.memory))

    read = gather(pools.keys, pools.values, pages, out=poisoned(blocks), method="fused")
    assert torch.equal(bits(read[0]), bits(blocks[0]))
    assert not bits(read[1]).any()
    scatter(poisoned(blocks), pools.keys, pools.values, pages, method="fused")
    scatter(blocks[:1], pools.keys, pools.values, pages[:1])
    assert all(map(torch.equal, pools.memory, untouched.memory))


KEYS = [torch.zeros(6, 4, 5, 16) for _ in range(2)]
IDS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, "keys, values: a sequence", dict(keys=KEYS[0])),
        (ValueError, "keys, values: one pool per slot", dict(keys=[])),
        (ValueError, "got 1 and 2", dict(keys=KEYS[:1])),
        (ValueError, r"keys\[0\]: pass a view", dict(keys=[torch.zeros(6, 4, 80)] * 2)),
        (ValueError, r"keys\[0\]: stride 1 along head_dim", dict(keys=[torch.zeros(6, 4, 16, 5).mT] * 2)),
        (
            TypeError,
            r"keys\[0\]: a real dtype",
            dict(keys=[torch.zeros(6, 4, 5, 16, dtype=torch.cfloat)] * 2),
        ),
        (TypeError, r"values\[1\]: torch.float16 differs", dict(values=[KEYS[0], KEYS[1].half()])),
        (ValueError, r"values\[0\]: shape", dict(values=[torch.zeros(6, 4, 5, 8)] * 2)),
        (ValueError, r"values\[0\]: on meta", dict(values=[KEYS[0].to("meta")] * 2)),
        (TypeError, r"pages: int64.*pages.long\(\)", dict(pages=IDS.int())),
        (ValueError, r"pages: \[blocks\] or", dict(pages=IDS[None, None])),
        (ValueError, "pages: on meta", dict(pages=IDS.to("meta"))),
        (TypeError, r"heads: a slice or range.*range\(start, stop\)", dict(heads=[0, 1])),
        (ValueError, "heads: step 1", dict(heads=range(0, 4, 2))),
        (ValueError, r"heads: \[2, 5\)", dict(heads=range(2, 5))),
        (ValueError, r"heads: \[-1, 4\)", dict(heads=slice(-1, None))),
        (ValueError, r"heads: \[2, 2\)", dict(heads=range(2, 2))),
        (TypeError, "out: the pools' dtype", dict(out=torch.zeros(2, 2, 2, 4, 5, 16, dtype=torch.half))),
        (ValueError, r"out: \[blocks, slots, 2, heads", dict(out=torch.zeros(2, 2, 2, 4, 5, 8))),
        (ValueError, "out: on meta", dict(out=torch.zeros(2, 2, 2, 4, 5, 16, device="meta"))),
        (ValueError, r"out: contiguous", dict(out=torch.zeros(2, 2, 2, 4, 16, 5).mT)),
        (ValueError, "method: 'naive', 'fused' or None", dict(method="quick")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    good: dict[str, object] = dict(keys=KEYS, values=KEYS, pages=IDS)
    with pytest.raises(kind, match=message):
        gather(**{**good, **arguments})  # type: ignore[arg-type]


def test_scatter_refuses() -> None:
    blocks = torch.zeros(2, 2, 2, 4, 5, 16)
    with pytest.raises(ValueError, match=r"blocks: contiguous memory.*blocks.contiguous\(\)"):
        scatter(torch.zeros(2, 2, 2, 4, 16, 5).mT, KEYS, KEYS, IDS)
    with pytest.raises(ValueError, match="pages: every page may be written once"):
        scatter(blocks, KEYS, KEYS, torch.tensor([1, 1]))
