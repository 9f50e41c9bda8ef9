"""Hostile sealed blocks: whatever the bytes are, and whoever changes them meanwhile, what passes is what was stored.

Blocks are changed where it hurts, and mostly under checksums that fit, so that the change reaches the code behind them.
They end right before a page that nobody may read, so that whoever reads beyond them ends the test run.
"""

import ctypes
import mmap
import random
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from threading import Thread

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from cachestore.block import Buffer, Half, Part, PlaneId
from cachestore.codecs import create
from cachestore.codecs.planes import encode_plane
from cachestore.index import Name
from cachestore.plane_table import TABLE, Stored, table_of
from cachestore.seal import CorruptBlock, Header, aligned, checksum
from cachestore.sealing import Sealer
from cachestore.store.inspection import decodes, intact, opened
from cachestore.store.local_reading import decoded
from cachestore.testing import bf16_normal

NAME, FINGERPRINT = Name(b"n" * 32, b"k" * 32), b"f" * 32
PARTS = (
    Part(),
    Part(halves=frozenset({Half.V})),
    Part(slots=range(1, 3)),
    Part(groups=range(1, 2)),
    Part(slots=range(99, 100)),
)
SEALER = Sealer({3: b"s" * 32}, 3)
FIXED = {"magic": (0, 4), "version": (4, 2), "flags": (6, 2), "header_bytes": (8, 4), "planes": (12, 4),
         "token_count": (112, 4), "key_epoch": (116, 4), "payload_bytes": (136, 8)}  # fmt: skip
VALUES = (0, 1, 2, 16, 17, 63, 64, 65, 127, 255, 256, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 64,
          2**63, 2**64 - 64, 2**64 - 1)  # fmt: skip


def block_of(codec: str, planes: int, elements: int, seed: int) -> Buffer:
    """A block under NAME, written as the store does it."""
    places = [PlaneId(number // 2, Half(number % 2), number % 3, 2, 2 * elements) for number in range(planes)]
    rows, pieces, at = [], [], 0
    for number, place in enumerate(places):
        coded = encode_plane(create(codec), bf16_normal(elements * 2, seed * 100 + number)[: 2 * elements], place)
        rows.append(Stored(coded.codec, at, coded.stored.nbytes, coded.stored_checksum, coded.raw_checksum))
        pieces.append(np.pad(coded.stored, (0, aligned(coded.stored.nbytes) - coded.stored.nbytes)))
        at += pieces[-1].nbytes
    header = Header(*NAME, FINGERPRINT, 64, table_of(places, rows), b"w" * 16, seed, payload_bytes=at)
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), *pieces])


@cache
def corpus() -> list[Buffer]:
    blocks = [
        block_of(codec, planes, elements, seed)
        for seed, (codec, planes, elements) in enumerate(
            [("raw", 1, 40), ("raw", 6, 512), ("lz4", 5, 700), ("entropy", 4, 3000), ("raw", 33, 100)]
        )
    ]
    return [*blocks, *map(SEALER.seal, blocks[1:3])]


@cache
def stored() -> dict[int, bytes]:
    """Every plane of the corpus by its raw checksum."""
    planes = {}
    for block in corpus()[:5]:
        header = opened(block, NAME, FINGERPRINT)
        for data in decoded(header, block[header.size :], Part()).data:
            planes[checksum(data)] = data.tobytes()
    return planes


def resealed(block: Buffer) -> Buffer:
    """Makes the header's checksum fit, if there is a header."""
    if block.nbytes >= 192:
        size = min(struct.unpack_from("<I", block, 8)[0], block.nbytes)
        if size >= 200:
            digest = xxhash.xxh3_64_intdigest(block[: size - 8].tobytes()).to_bytes(8, "little")
            block[size - 8 : size] = np.frombuffer(digest, dtype=np.uint8)
    return block


def mutant(seed: int) -> Buffer:
    """A block of the corpus with one to four things changed; the same for the same seed."""
    chance = random.Random(seed)
    block = chance.choice(corpus()).copy()
    for _ in range(chance.choice((1, 1, 2, 4))):
        block = changed(block, chance)
    return resealed(block) if chance.random() < 0.8 else block


def changed(block: Buffer, chance: random.Random) -> Buffer:
    if block.nbytes < 300:
        return block
    rows = max(1, min((block.nbytes - 200) // 48, struct.unpack_from("<I", block, 12)[0]))
    at = 192 + 48 * chance.randrange(rows)
    number = chance.choice((*VALUES, chance.getrandbits(64), chance.getrandbits(12), 64 * chance.getrandbits(6)))
    match chance.randrange(10):
        case 0:
            block[chance.randrange(block.nbytes)] ^= np.uint8(1 << chance.randrange(8))
        case 1:
            name = chance.choice(TABLE.names)
            dtype, offset = TABLE.fields[name][:2]
            put(block, at + offset, dtype.itemsize, number)
        case 2:
            put(block, *FIXED[chance.choice(list(FIXED))], number)
        case 3:
            other = 192 + 48 * chance.randrange(rows)
            block[at : at + 48] = block[other : other + 48].copy()
        case 4:
            block = block[: chance.randrange(block.nbytes)].copy()
        case 5:
            block = np.concatenate([block, np.full(chance.randrange(1, 300), chance.randrange(256), dtype=np.uint8)])
        case 6:
            start = chance.randrange(192, block.nbytes)
            block[start : start + chance.choice((1, 8, 64, 4096))] = chance.randrange(256)
        case 7:
            # a field a little off
            name = chance.choice(("offset", "stored_bytes", "raw_bytes"))
            offset = at + TABLE.fields[name][1]
            value = int.from_bytes(block[offset : offset + 8].tobytes(), "little")
            put(block, offset, 8, value + chance.choice((-64, -17, -16, -2, -1, 1, 2, 16, 64)))
        case 8:
            donor = chance.choice(corpus())
            start = chance.randrange(192, min(block.nbytes, donor.nbytes))
            block[start : donor.nbytes] = donor[start : block.nbytes]
        case _:
            block[at + 5] = chance.choice((0, 1, 2, 3, 4, 5, 6, 255))
    return block


def put(block: Buffer, offset: int, nbytes: int, value: int) -> None:
    raw = (value % (1 << 8 * nbytes)).to_bytes(nbytes, "little")
    block[offset : offset + nbytes] = np.frombuffer(raw, dtype=np.uint8)


@dataclass
class Guarded:
    """Memory that ends where none may be read."""

    nbytes: int
    memory: Buffer = field(init=False)

    def __post_init__(self) -> None:
        pages = -(-self.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = np.frombuffer(mmap.mmap(-1, pages + mmap.PAGESIZE), dtype=np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(self.memory.ctypes.data + pages), mmap.PAGESIZE, 0) == 0
        self.memory = self.memory[:pages]

    def hold(self, block: Buffer) -> Buffer:
        held = self.memory[self.memory.nbytes - block.nbytes :]
        held[:] = block
        return held


def attempt(block: Buffer) -> str:
    """Reads a block in every way the store does; how it ended. What is handed out must have been stored."""
    try:
        header = opened(block, NAME, FINGERPRINT)
        payload = block[header.size :]
        intact(header, payload)
        decodes(header, payload)
        found = [decoded(header, payload, part) for part in PARTS]
    except CorruptBlock as corrupt:
        return corrupt.reason
    for read in found:
        for plane, data in zip(read.planes, read.data, strict=True):
            assert data.nbytes == plane.raw_bytes and stored()[checksum(data)] == data.tobytes()
    return "passed"


def attempt_encrypted(block: Buffer) -> str:
    """Opens an encrypted block; what comes out must be a block of the corpus, bit by bit."""
    try:
        found = SEALER.open(block, *NAME)
    except CorruptBlock as corrupt:
        return corrupt.reason
    assert any(np.array_equal(found, block) for block in corpus()[:5])
    return "passed"


def attempt_sealing(block: Buffer) -> None:
    """Seals a block and opens it; what is not refused must come back with every plane."""
    try:
        encrypted = SEALER.seal(block)
    except CorruptBlock:
        return
    header = Header.parse(block)
    found = SEALER.open(encrypted, header.namespace, header.key)
    assert found[: header.size].tobytes() == header.pack() and intact(header, found[header.size :])


def fuzz(seeds: Iterator[int], until: float) -> dict[str, int]:
    """How many mutants ended in which way."""
    ends: dict[str, int] = {}
    guarded = Guarded(max(block.nbytes for block in corpus()) + 8192)
    for seed in seeds:
        if time.monotonic() > until:
            break
        block = guarded.hold(mutant(seed))
        try:
            attempt_sealing(block)
            outcomes = attempt(block), "open " + attempt_encrypted(block)
        except Exception as error:
            raise AssertionError(f"mutant({seed})") from error
        for outcome in outcomes:
            ends[outcome] = ends.get(outcome, 0) + 1
    return ends


ENDS = {"passed", "truncated", "foreign", "version", "header", "identity", "fingerprint", "checksum", "codec", "epoch"}
OPENED = {
    f"open {end}"
    for end in ("passed", "truncated", "foreign", "version", "header", "identity", "plain", "epoch", "tag")
}


def test_the_corpus_itself_passes() -> None:
    for block in corpus()[:5]:
        assert attempt(block.copy()) == "passed"
        assert attempt_encrypted(SEALER.seal(block)) == "passed" and attempt_encrypted(block) == "plain"


def test_what_hostile_blocks_hand_out_was_stored() -> None:
    ends = fuzz(iter(range(3000)), time.monotonic() + 60)
    # every way to end is reached, so the depth is
    assert set(ends) == ENDS | OPENED and sum(ends.values()) == 6000


@pytest.mark.slow
def test_what_hostile_blocks_hand_out_was_stored_for_long() -> None:
    assert set(fuzz(iter(range(3000, 10**9)), time.monotonic() + 60)) == ENDS | OPENED


numbers = st.one_of(st.sampled_from(VALUES), st.integers(0, 2**64 - 1), st.integers(0, 8192))


@given(st.integers(0, 4), st.lists(st.tuples(st.sampled_from(TABLE.names), st.integers(0, 32), numbers), max_size=6))
@settings(max_examples=200)
def test_tables_of_any_numbers_never_hand_out_anything_else(which: int, changes: list[tuple[str, int, int]]) -> None:
    block = corpus()[which].copy()
    rows = struct.unpack_from("<I", block, 12)[0]
    for name, row, value in changes:
        dtype, offset = TABLE.fields[name][:2]
        put(block, 192 + 48 * (row % rows) + offset, dtype.itemsize, value)
    attempt(resealed(block))


@given(st.binary(max_size=800), st.booleans())
def test_random_bytes_never_pass(data: bytes, with_magic: bool) -> None:
    block = np.frombuffer((b"KVCB\1\0" if with_magic else b"") + data, dtype=np.uint8).copy()
    assert attempt(resealed(block)) != "passed" and attempt_encrypted(block) != "passed"


@pytest.mark.parametrize("which", range(5))
def test_bytes_that_change_while_they_are_read_never_pass_as_others(which: int) -> None:
    original = corpus()[which]
    shared = Guarded(original.nbytes).hold(original)
    over, ends = False, set()

    def flip() -> None:
        chance = random.Random(which)
        while not over:
            at = chance.randrange(original.nbytes)
            shared[at] ^= np.uint8(1 << chance.randrange(8))
            # a reader may only get its turn here
            time.sleep(1e-6)
            if chance.random() < 0.7:
                shared[:] = original

    flipping = Thread(target=flip)
    flipping.start()
    until = time.monotonic() + 0.3
    try:
        while time.monotonic() < until:
            ends.add(attempt(shared))
    finally:
        over = True
        flipping.join()
    assert ends & {"checksum", "codec", "header", "identity", "foreign"}


def test_a_block_that_claims_to_be_huge_takes_no_memory() -> None:
    """In a process of its own, that may have little more than it has now."""
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr


def test_tables_of_many_planes_do_not_stay_in_memory() -> None:
    blocks = [many_planes(number) for number in range(2)]
    tracemalloc.start()
    try:
        attempt(corpus()[0])
        before = tracemalloc.get_traced_memory()[0]
        for block in blocks:
            header = opened(block, NAME, FINGERPRINT)
            assert len(decoded(header, block[header.size :], Part()).data) == 1 << 13
        del header
        assert tracemalloc.get_traced_memory()[0] - before < 2 << 20
    finally:
        tracemalloc.stop()


def many_planes(number: int) -> Buffer:
    """Many planes, all of them the same two bytes; another table for another number."""
    row = Stored(0, 0, 2, *[checksum(np.zeros(2, dtype=np.uint8))] * 2)
    places = [PlaneId(slot, Half.K, number, 2, 2) for slot in range(1 << 13)]
    header = Header(*NAME, FINGERPRINT, 64, table_of(places, [row] * len(places)), bytes(16), 1, payload_bytes=64)
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), np.zeros(64, dtype=np.uint8)])


def claiming(codec: int, raw_bytes: int, planes: int) -> Buffer:
    places = [PlaneId(number, Half.K, 0, 2, raw_bytes) for number in range(planes)]
    rows = [Stored(codec, 0, 64, 1, 2)] * planes
    header = Header(*NAME, FINGERPRINT, 64, table_of(places, rows), bytes(16), 1, payload_bytes=64)
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), np.zeros(64, dtype=np.uint8)])


def main() -> None:
    hostile = [claiming(codec, (1 << 32) // planes, planes) for codec in range(7) for planes in (1, 64)]
    attempt(corpus()[2])
    attempt(corpus()[3])
    used = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
    for block in hostile:
        assert attempt(block) != "passed"
    print("ok")


if __name__ == "__main__":
    main()
