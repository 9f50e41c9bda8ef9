"""The gpu tier with the host's memory as its device: the contract of tiers, pages, room, and what goes wrong."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cachestore.block import Block, Buffer, Half, PlaneId
from cachestore.codecs import create
from cachestore.codecs.planes import decode_planes, encode_plane
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.eviction.lru import Lru
from cachestore.plane_table import Stored, table_of
from cachestore.seal import DURABLE, ENCRYPTED, PARENT_BYTES, CorruptBlock, Header, aligned, checksum
from cachestore.testing import TierTests, random_prompt, sealed_block, small_spec
from cachestore.testing.tiers import KEYS, A, B, departed, equal, soon, value
from cachestore.tiers.base import ColdTier, Departure
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import GRANULE, HostMemory
from cachestore.tiers.gpu_tier import GpuTier

F = b"f" * 32
"""The fingerprint under which the suite's blocks are sealed."""

MIB = 1 << 20


class TestConformance(TierTests):
    @pytest.fixture
    def tier(self) -> Iterator[ColdTier]:
        tier = Gpu(capacity=64 * MIB, device="cpu").start(Lru())
        tier.open(departed)
        yield tier
        tier.close()


Start = Callable[..., GpuTier]


@pytest.fixture
def gone() -> list[Departure]:
    """What the tiers of this test let go."""
    return []


@pytest.fixture
def start(gone: list[Departure]) -> Iterator[Start]:
    """Opens tiers of the given capacity."""
    tiers: list[GpuTier] = []

    def open_one(capacity: int = 16 * MIB, slab: int = 0, verify: bool = True) -> GpuTier:
        tiers.append(Gpu(capacity=capacity, device="cpu", slab=slab, verify=verify).start(Lru()))
        tiers[-1].open(gone.extend)
        return tiers[-1]

    yield open_one
    for tier in tiers:
        tier.close()


def key(number: int) -> bytes:
    # none begins with zeros, which would mean that a parent is not known
    return (number + 1).to_bytes(4, "big") * 8


def chain(count: int, nbytes: int, namespace: bytes = A, first: int = 0) -> list[tuple[bytes, np.ndarray]]:
    """Blocks of which each is the child of the one before."""
    keys = [key(first + number) for number in range(count)]
    parents = [bytes(PARENT_BYTES), *(k[:PARENT_BYTES] for k in keys)]
    return [(k, sealed_block(namespace, k, nbytes, parent=parent)) for k, parent in zip(keys, parents, strict=False)]


def sealed(block: Block, codec_name: str, fingerprint: bytes = F, flags: int = 0) -> np.ndarray:
    """The block in sealed form, its planes in reverse order in the payload."""
    codec = create(codec_name)
    encoded = [encode_plane(codec, data, plane) for plane, data in zip(block.planes, block.data, strict=True)]
    payload = np.zeros(sum(aligned(plane.stored.nbytes) for plane in encoded), dtype=np.uint8)
    rows, end = [], 0
    for plane in reversed(encoded):
        payload[end : end + plane.stored.nbytes] = plane.stored
        rows.append(Stored(plane.codec, end, plane.stored.nbytes, plane.stored_checksum, plane.raw_checksum))
        end = aligned(end + plane.stored.nbytes)
    header = Header(
        A, block.key, fingerprint, block.token_count, table_of(block.planes, rows[::-1]), b"w" * 16, 7,
        flags, payload.nbytes, parent=b"p" * 16,
    )  # fmt: skip
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), payload])


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_a_block_comes_back_whatever_codec_it_was_sealed_with(start: Start, codec: str) -> None:
    tier = start()
    _, blocks = random_prompt(small_spec(), 3, seed=1)
    # a plane of zeros is one that lz4 does code
    blocks[0].data[0][:] = 0
    put = [(block.key, sealed(block, codec, flags=DURABLE)) for block in blocks]
    assert tier.put_many(A, put, None, soon()) == [True] * 3
    for block, (_, given), found in zip(blocks, put, tier.get_many(A, [k for k, _ in put], soon()), strict=True):
        assert isinstance(found, np.ndarray)
        header, before = Header.parse(found), Header.parse(given)
        out = np.empty(sum(plane.raw_bytes for plane in block.planes), dtype=np.uint8)
        decode_planes(header, range(len(block.planes)), found[header.size :], out)
        assert np.array_equal(out, np.concatenate(block.data)) and header.planes() == block.planes
        for name in ("namespace", "key", "fingerprint", "token_count", "writer", "sequence", "flags", "parent"):
            assert getattr(header, name) == getattr(before, name), name
        assert codec != "raw" or np.array_equal(found, given)
    for block, page in zip(blocks, tier.pages(A, F, [k for k, _ in put], soon()), strict=True):
        assert page is not None
        with page:
            assert np.array_equal(page.tensor.numpy(), np.concatenate(block.data)) and page.planes == block.planes


def test_every_byte_counts(start: Start) -> None:
    tier = start()
    _, (block,) = random_prompt(small_spec(), 1, seed=2)
    block.data[0][:] = 0
    for codec in ("raw", "lz4"):
        good = sealed(block, codec)
        header = Header.parse(good)
        stored = sum(row.stored_bytes for row in header.stored(range(len(header.table))))
        assert stored <= header.payload_bytes
        payload = np.zeros(header.payload_bytes, dtype=bool)
        for row in header.stored(range(len(header.table))):
            payload[row.offset : row.offset + row.stored_bytes] = True
        used = [*range(header.size), *(header.size + np.flatnonzero(payload))]
        for position in np.random.default_rng(3).choice(used, 200, replace=False):
            bad = good.copy()
            bad[position] ^= 1 << int(position) % 8
            (kept,) = tier.put_many(A, [(block.key, bad)], None, soon())
            if kept:
                # some codes have more than one form: what is kept is right all the same
                (page,) = tier.pages(A, F, [block.key], soon())
                assert page is not None and np.array_equal(page.tensor.numpy(), np.concatenate(block.data))
                page.release()
                tier.clear(A, soon())
    assert tier.healthy and tier.usage().used == 0


def test_what_is_no_block_of_this_name_is_refused(start: Start) -> None:
    tier = start(capacity=GRANULE)
    good = value(0)
    _, (block,) = random_prompt(small_spec(), 1, seed=2)
    hidden = sealed(block, "raw", flags=ENCRYPTED)
    too_large = sealed_block(A, KEYS[0], GRANULE + (1 << 16))
    for name, data in (
        (KEYS[1], good),
        (KEYS[0], good[:-64]),
        (KEYS[0], good[:100]),
        (KEYS[0], good[:0]),
        (block.key, hidden),
        (KEYS[0], too_large),
    ):
        assert tier.put_many(A, [(name, data)], None, soon()) == [False]
    assert tier.put_many(B, [(KEYS[0], good)], None, soon()) == [False]
    assert tier.put_many(A, [(KEYS[0], good)], None, soon(), durable=True) == [False]
    assert tier.healthy and tier.usage().used == 0 and not tier.present(A, KEYS[:1], soon())[0]


@pytest.mark.parametrize(("column", "wrong"), [("codec", 200), ("stored_bytes", 64), ("stored_checksum", 1)])
def test_a_table_that_contradicts_itself_is_refused(start: Start, column: str, wrong: int) -> None:
    header = Header.parse(value(0))
    table = header.table.copy()
    table[column] = wrong
    sealed_so = Header(A, KEYS[0], F, 64, table, bytes(16), 1, payload_bytes=header.payload_bytes).pack()
    data = np.concatenate([np.frombuffer(sealed_so, dtype=np.uint8), value(0)[header.size :]])
    assert start().put_many(A, [(KEYS[0], data)], None, soon()) == [False]


def test_only_leaves_leave_and_are_told(start: Start, gone: list[Departure]) -> None:
    tier = start(capacity=4 * GRANULE)
    blocks = chain(24, MIB)
    assert tier.put_many(A, blocks[:8], None, soon()) == [True] * 8
    assert not gone
    assert tier.put_many(A, [(key(90), sealed_block(A, key(90), MIB))], None, soon()) == [True]
    # eight fit; of the chain the deepest leaves first, though it came last
    assert [departure.key for departure in gone] == [key(7)] and gone[0].why == "evicted"
    assert tier.leading(A, [k for k, _ in blocks], soon()) == 7
    assert tier.ledger.content(A).blocks == 8 and tier.ledger.content(A).nbytes == 8 * gone[0].nbytes


def test_the_cap_holds_while_many_put_and_read(start: Start, gone: list[Departure]) -> None:
    tier = start(capacity=6 * GRANULE, slab=GRANULE)
    spaces = [bytes([number]) * 32 for number in range(4)]

    def work(worker: int) -> tuple[int, int]:
        draw = np.random.default_rng(worker)
        kept = good = 0
        for _ in range(60):
            space = spaces[int(draw.integers(4))]
            name = key(int(draw.integers(24)))
            nbytes = 1 << int(draw.integers(14, 20))
            kept += tier.put_many(space, [(name, sealed_block(space, name, nbytes))], None, soon())[0]
            with_pages = tier.pages(space, F, [key(int(n)) for n in draw.integers(24, size=3)], soon())
            usage = tier.usage()
            assert usage.used <= usage.capacity
            for page in with_pages:
                if page is not None:
                    page.check()
                    first = page.planes[0].raw_bytes
                    assert checksum(page.tensor[:first].numpy()) == page.header.table["raw_checksum"][0]
                    page.release()
                    page.release()
                    good += 1
            if not draw.integers(20):
                tier.clear(space, soon())
        return kept, good

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(work, range(6)))
    # one is refused while others read all that there is
    assert sum(kept for kept, _ in done) > 340 and sum(good for _, good in done) > 0 and gone
    for space in spaces:
        content = tier.ledger.content(space)
        assert content.blocks == len(tier.catalogue(space))
        figures = {(f.name, f.labels): f.value for f in tier.ledger.figures(space)}
        removed = sum(number for (name, _), number in figures.items() if name == "tier_removed")
        assert figures["tier_added", (("tier", "gpu"),)] == content.blocks + removed
        tier.clear(space, soon())
    assert tier.usage().used == 0 and tier.healthy


def test_held_pages_stay_and_what_is_reused_is_known(start: Start) -> None:
    tier = start(capacity=GRANULE)
    assert tier.put_many(A, [(key(0), sealed_block(A, key(0), MIB, seed=1))], None, soon()) == [True]
    (page,) = tier.pages(A, F, [key(0)], soon())
    assert page is not None
    before = page.tensor.clone()
    # two of these do not fit beside it, and it stays
    for number in range(1, 4):
        tier.put_many(A, [(key(number), sealed_block(A, key(number), MIB, seed=number))], None, soon())
        assert tier.present(A, [key(0)], soon()) == [True]
    # out of sight, but not out of use
    assert tier.delete_many(A, [key(0)], soon()) == [True]
    assert tier.put_many(A, [(key(9), sealed_block(A, key(9), MIB))], None, soon()) == [True]
    page.check()
    assert torch.equal(page.tensor, before)
    page.release()
    with pytest.raises(CorruptBlock, match="stale"):
        page.check()


def test_when_everything_is_held_the_new_block_is_refused(start: Start, gone: list[Departure]) -> None:
    tier = start(capacity=GRANULE)
    blocks = chain(2, MIB)
    tier.put_many(A, blocks, None, soon())
    pages = tier.pages(A, F, [k for k, _ in blocks], soon())
    assert tier.put_many(B, [(key(5), sealed_block(B, key(5), MIB))], None, soon()) == [False]
    assert tier.put_many(A, [(key(5), sealed_block(A, key(5), MIB))], None, soon()) == [False]
    assert not gone and tier.healthy
    for page in pages:
        assert page is not None
        page.release()
    assert tier.put_many(B, [(key(5), sealed_block(B, key(5), MIB))], None, soon()) == [True]


class Closing(HostMemory):
    """Somebody closes the tier while a block is being written."""

    tier: GpuTier

    def fill(self, page: torch.Tensor, write: Callable[[Buffer], None]) -> None:
        super().fill(page, write)
        self.tier.close()


def test_a_block_that_comes_after_the_end_is_refused() -> None:
    memory = Closing()
    memory.tier = tier = GpuTier(lambda: memory, 4 * GRANULE, GRANULE, Lru())
    tier.open(departed)
    assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [False]
    assert tier.ledger.content(A).blocks == 0 and not tier.present(A, KEYS[:1], soon())[0]


def test_nobody_leaves_in_vain(start: Start, gone: list[Departure]) -> None:
    tier = start(capacity=2 * GRANULE, slab=GRANULE)
    blocks = [(key(number), sealed_block(A, key(number), MIB)) for number in range(4)]
    tier.put_many(A, blocks, None, soon())
    slabs = {entry.slab: entry.key for entry in tier.catalogue(A)}
    pages = tier.pages(A, F, list(slabs.values()), soon())
    # of each slab one page is held, so none can change its owner whatever else leaves
    assert len(slabs) == 2 and tier.put_many(B, [(key(5), sealed_block(B, key(5)))], None, soon()) == [False]
    assert not gone and None not in pages


class Failing(HostMemory):
    """A device that stops working when told so, as a CUDA device does after a fault."""

    broken = False

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.fill(target, lambda host: np.copyto(host, source.numpy()))

    def fill(self, page: torch.Tensor, write: Callable[[Buffer], None]) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super().fill(page, write)


def test_a_device_that_fails_is_given_up_and_tried_again(
    gone: list[Departure], eventually: Callable[..., None]
) -> None:
    memory = Failing()
    tier = GpuTier(lambda: memory, 4 * GRANULE, GRANULE, Lru())
    tier.open(gone.extend)
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    memory.broken = True
    for _ in range(4):
        assert tier.get_many(A, KEYS[:1], soon()) == [None]
        assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [False]
    assert not tier.healthy and tier.usage().used == 0 and tier.present(A, KEYS[:1], soon()) == [False]
    memory.broken = False
    eventually(lambda: tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [True])
    assert tier.healthy and tier.present(A, KEYS[:2], soon()) == [True, True] and not gone
    assert equal(tier.get_many(A, KEYS[:1], soon())[0], value(0))
    tier.close()


def test_whoever_holds_most_gives_the_slab(start: Start, gone: list[Departure]) -> None:
    tier = start(capacity=8 * GRANULE, slab=GRANULE)
    assert all(tier.put_many(A, chain(16, MIB), None, soon()))
    assert all(tier.put_many(B, chain(2, MIB, B), None, soon()))
    # a slab holds two: no more than those and what lies deeper in their chain has to go
    assert {departure.namespace for departure in gone} == {A} and len(gone) <= 4
    assert all(tier.put_many(B, chain(30, MIB, B), None, soon()))
    assert 6 <= len(tier.catalogue(A)) <= 8 and len(tier.catalogue(B)) == 8


def test_a_block_ends_when_its_header_says(
    start: Start, gone: list[Departure], eventually: Callable[..., None]
) -> None:
    tier = start()
    ends = int(time.time() * 1000)
    over, soon_over, long = (
        sealed_block(A, k, expires=ends + ms) for k, ms in zip(KEYS, (-5, 80, 60_000), strict=False)
    )
    put = list(zip(KEYS, (over, soon_over, long), strict=False))
    assert tier.put_many(A, put, None, soon()) == [False, True, True]
    eventually(lambda: tier.present(A, KEYS[:3], soon()) == [False, False, True])
    assert [(departure.key, departure.why) for departure in gone] == [(KEYS[1], "ttl")]
    assert tier.get_many(A, KEYS[1:2], soon()) == [None] == tier.pages(A, F, KEYS[1:2], soon())


def test_a_page_that_changed_is_a_miss_and_gone(start: Start, gone: list[Departure]) -> None:
    tier = start()
    tier.put_many(A, [(KEYS[0], value(0)), (KEYS[1], value(1))], None, soon())
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None
    page.tensor[5] ^= 4
    page.release()
    assert [p is None for p in tier.pages(A, F, KEYS[:2], soon())] == [True, False]
    assert [(departure.key, departure.why) for departure in gone] == [(KEYS[0], "corrupt")]
    assert tier.present(A, KEYS[:2], soon()) == [False, True] and tier.healthy


def test_a_page_is_handed_out_under_its_fingerprint_only(start: Start) -> None:
    tier = start()
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    assert tier.pages(A, b"g" * 32, KEYS[:1], soon()) == [None] == tier.pages(B, F, KEYS[:1], soon())


PAYLOADS = {
    "nan, inf, -0.0 and subnormal": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45] * 64),
    "bfloat16": torch.randn(16, 32).bfloat16(),
    "float8": torch.randn(512).to(torch.float8_e4m3fn),
    "int8": torch.arange(-128, 128, dtype=torch.int8),
    "not in one piece": torch.randn(64, 48).T[::2],
    "with a gradient": torch.randn(64, requires_grad=True),
    "one element": torch.tensor(-0.0),
    "a size of no whole word": torch.arange(77, dtype=torch.uint8),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_device_blocks_come_back_bit_by_bit(start: Start, name: str) -> None:
    tensor = PAYLOADS[name]
    tier = start()
    half = tensor.nbytes // 2
    sizes = [half, tensor.nbytes - half]
    planes = tuple(PlaneId(slot, Half.K, 0, tensor.element_size(), size) for slot, size in enumerate(sizes))
    block = DeviceBlock(KEYS[0], 16, planes, tensor, short=True, parent=b"p" * 16)
    assert tier.put_pages(A, F, [block], soon()) == [True]
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None and torch.equal(page.tensor, raw) and page.planes == planes
    (found,) = tier.get_many(A, KEYS[:1], soon())
    assert isinstance(found, np.ndarray)
    header = Header.parse(found)
    header.check_identity(A, KEYS[0], F)
    out = np.empty(tensor.nbytes, dtype=np.uint8)
    decode_planes(header, range(2), found[header.size :], out)
    assert np.array_equal(out, raw.numpy()) and header.parent == b"p" * 16 and header.token_count == 16
    # as a sealed block it can go on to any tier, this one, too
    other = start()
    assert other.put_many(A, [(KEYS[0], found)], None, soon()) == [True]


def test_the_first_device_block_of_a_key_stays(start: Start) -> None:
    tier = start()
    plane = (PlaneId(0, Half.OPAQUE, 0, 1, 128),)
    first, second = (DeviceBlock(KEYS[0], 1, plane, torch.full((128,), n, dtype=torch.uint8)) for n in (1, 2))
    assert tier.put_pages(A, F, [first, second], soon()) == [True, True]
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None and page.tensor.tolist() == [1] * 128
    assert tier.put_pages(A, b"g" * 32, [second], soon()) == [False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": ()}, "1 to"),
        ({"planes": (PlaneId(0, Half.K, 0, 1, 0),), "tensor": torch.empty(0)}, "1 byte or more"),
        ({"tensor": torch.empty(3)}, "want 16 bytes, the tensor has 12"),
        ({"key": b"k"}, "a key has 32 bytes"),
        ({"parent": b"p"}, "a parent 16"),
    ],
)
def test_device_blocks_that_cannot_be_meant(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "key": KEYS[0], "token_count": 1, "planes": (PlaneId(0, Half.K, 0, 1, 16),),
        "tensor": torch.zeros(16, dtype=torch.uint8),
    }  # fmt: skip
    with pytest.raises(InvalidArgument, match=message):
        DeviceBlock(**(given | change))  # type: ignore[arg-type]


def test_a_tensor_on_another_device_is_refused(start: Start) -> None:
    block = DeviceBlock(KEYS[0], 1, (PlaneId(0, Half.K, 0, 4, 16),), torch.empty(4, device="meta"))
    with pytest.raises(InvalidArgument, match="the tensor is on meta, the tier's pages on cpu"):
        start().put_pages(A, F, [block], soon())


def test_checksums_can_be_taken_by_another_kernel(start: Start) -> None:
    tier = start()
    asked: list[Sequence[int]] = []
    taken = tier.checksums

    def count(page: torch.Tensor, sizes: Sequence[int]) -> list[int]:
        asked.append(sizes)
        return taken(page, sizes)

    tier.checksums = count
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    assert tier.pages(A, F, KEYS[:1], soon()) != [None] and [list(sizes) for sizes in asked] == [[320, 320]]


def test_after_the_end_nothing_is_here_and_nothing_breaks(start: Start) -> None:
    tier = start()
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None
    before = page.tensor.clone()
    tier.close()
    # its memory is there as long as somebody has it, but it is no page any more
    assert torch.equal(page.tensor, before)
    with pytest.raises(CorruptBlock, match="stale"):
        page.check()
    page.release()
    assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [False]
    assert tier.pages(A, F, KEYS[:1], soon()) == [None] and tier.catalogue(A) == []
    assert tier.delete_many(A, KEYS[:1], soon()) is None and tier.clear(A, soon()) is None
    with tier.export(A) as export:
        assert list(export.handles) == []
    tier.open(departed)
    assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]


@pytest.mark.parametrize("device", ["cuda:7777", "cuda:9"])
def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do(device: str) -> None:
    with pytest.raises(ConfigError, match=f'tiers.gpu.device = "{device}" .*use device = "cpu" or remove the tier'):
        Gpu(capacity=GRANULE, device=device).start(Lru()).open(departed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 1000}, "tiers.gpu.capacity must be at least 2MiB"),
        ({"capacity": GRANULE, "device": "tpu"}, "tiers.gpu.device"),
        ({"capacity": GRANULE, "slab": GRANULE + 1}, "tiers.gpu.slab"),
        ({"capacity": GRANULE, "slab": -1}, "tiers.gpu.slab"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Gpu(**settings)  # type: ignore[arg-type]


LIMITED = """
import resource, time
from cachestore.eviction.lru import Lru
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import A, B, KEYS, soon
from cachestore.tiers.gpu import Gpu

tier = Gpu(capacity=1 << 30, device="cpu", slab=64 << 20).start(Lru())
gone = []
tier.open(gone.extend)
blocks = [(key, sealed_block(A, key, 24 << 20)) for key in KEYS[:4]]
other = [(KEYS[0], sealed_block(B, KEYS[0], 1 << 20))]
assert tier.put_many(A, blocks[:2], None, soon()) == [True, True]
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (48 << 20), resource.RLIM_INFINITY))
assert tier.put_many(B, other, None, soon()) == [False]
assert tier.healthy and not gone and tier.present(A, KEYS[:2], soon()) == [True, True]
# what it has it still uses
assert tier.put_many(A, blocks[2:], None, soon()) == [True, True] and len(gone) == 2
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
until = soon()
while tier.put_many(B, other, None, soon()) == [False]:
    until.check("waiting for the device to be asked again")
    time.sleep(0.05)
print("healed")
"""
"""Run in a process of its own, whose address space is limited so that the system really refuses memory."""


def test_device_memory_that_is_refused_is_a_put_refused() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "healed", done.stderr
