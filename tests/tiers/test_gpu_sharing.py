"""Pages read by a second process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.errors import Mismatch, Unavailable
from cachestore.eviction.lru import Lru
from cachestore.seal import CorruptBlock, Header, checksum
from cachestore.testing import sealed_block
from cachestore.testing.tiers import KEYS, A, B, departed, soon
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_memory import GRANULE
from cachestore.tiers.gpu_sharing import Export, Registered, SlabHandle, attach
from cachestore.tiers.gpu_tier import GpuTier

READER = Path(__file__).with_name("gpu_reader.py")


@contextmanager
def opened(device: str, capacity: int = 4 * GRANULE) -> Iterator[GpuTier]:
    tier = Gpu(capacity=capacity, device=device, slab=GRANULE).start(Lru())
    tier.open(departed)
    try:
        yield tier
    finally:
        tier.close()


@pytest.fixture
def tier() -> Iterator[GpuTier]:
    with opened("cpu") as tier:
        yield tier


class Reader:
    """The second process, with the slabs of one export."""

    def __init__(self, export: Export) -> None:
        ours, theirs = socket.socketpair()
        descriptors = [descriptor for handle in export.handles for descriptor in handle.descriptors]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(READER), str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *descriptors],
                stderr=subprocess.PIPE,
            )
        self.connection = ours
        ours.settimeout(60)
        self.lines = ours.makefile("rw")
        handles = [{**vars(one), "namespace": one.namespace.hex(), "token": one.token.hex()} for one in export.handles]
        print(json.dumps(handles), file=self.lines, flush=True)

    def ask(self, **what: Any) -> Any:
        print(json.dumps(what), file=self.lines, flush=True)
        line = self.lines.readline()
        assert line, self.process.communicate()[1].decode()
        return json.loads(line)

    def find(self, entry: Registered) -> Any:
        return self.ask(register=[entry.key.hex(), entry.slab, entry.offset, entry.generation, entry.header.hex()])

    def close(self) -> None:
        self.lines.close()
        self.connection.close()
        assert self.process.stderr is not None
        with self.process.stderr:
            assert self.process.wait(60) == 0, self.process.stderr.read().decode()


@contextmanager
def reading(export: Export) -> Iterator[Reader]:
    reader = Reader(export)
    try:
        yield reader
        reader.close()
    finally:
        reader.process.kill()
        reader.process.wait()


def put(tier: GpuTier, namespace: bytes, *numbers: int, nbytes: int = 1 << 20) -> dict[bytes, np.ndarray]:
    blocks = {KEYS[number]: sealed_block(namespace, KEYS[number], nbytes, seed=number) for number in numbers}
    assert all(tier.put_many(namespace, list(blocks.items()), None, soon()))
    return blocks


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_another_process_sees_the_bytes_and_generations_of_one_namespace(device: str) -> None:
    with opened(device) as tier:
        blocks = put(tier, A, 0, 1, 2)
        put(tier, B, 3)
        catalogue = {entry.key: entry for entry in tier.catalogue(A)}
        with tier.export(A) as export, reading(export) as reader:
            for key, entry in catalogue.items():
                payload = blocks[key][Header.parse(blocks[key]).size :]
                assert reader.find(entry) == [checksum(payload), device, key.hex()]
            assert reader.ask(check=KEYS[1].hex()) == "good"
            # another namespace's slab was not among them, so its page cannot be found there
            other = tier.catalogue(B)[0]
            assert other.slab not in {entry.slab for entry in catalogue.values()}
            # deleted, then reused: whoever looked it up before sees that
            tier.delete_many(A, [KEYS[1]], soon())
            assert reader.ask(check=KEYS[1].hex()) == "stale" == reader.find(catalogue[KEYS[1]])
            new = put(tier, A, 5)[KEYS[5]]
            assert reader.ask(check=KEYS[1].hex()) == "stale" and reader.ask(check=KEYS[0].hex()) == "good"
            (entry,) = [entry for entry in tier.catalogue(A) if entry.key == KEYS[5]]
            assert reader.find(entry)[0] == checksum(new[Header.parse(new).size :])
            tier.close()
            assert reader.ask(check=KEYS[0].hex()) == "stale"


def test_what_a_reader_writes_is_its_own(tier: GpuTier) -> None:
    block = put(tier, A, 0)[KEYS[0]]
    with tier.export(A) as export, reading(export) as reader:
        reader.find(tier.catalogue(A)[0])
        assert reader.ask(write=KEYS[0].hex()) == "written"
    (found,) = tier.get_many(A, KEYS[:1], soon())
    assert isinstance(found, np.ndarray) and np.array_equal(found, block)


def test_a_slab_stays_while_another_process_may_have_it_open(tier: GpuTier) -> None:
    put(tier, A, *range(8))
    export = tier.export(A)
    tier.clear(A, soon())
    foreign = [(KEYS[0], sealed_block(B, KEYS[0]))]
    assert tier.put_many(B, foreign, None, soon()) == [False]
    put(tier, A, 1)
    export.close()
    export.close()
    assert tier.put_many(B, foreign, None, soon()) == [True]


def test_an_export_speaks_of_one_namespace_and_leaves_no_descriptor(tier: GpuTier) -> None:
    put(tier, A, 0, 1, 2)
    put(tier, B, 3)
    before = len(os.listdir("/proc/self/fd"))
    with tier.export(A) as export:
        assert {handle.namespace for handle in export.handles} == {A} and len(export.handles) == 2
        attached = [attach(handle) for handle in copies(export.handles)]
        assert [slab.number for slab in attached] == [handle.number for handle in export.handles]
        del attached
    assert len(os.listdir("/proc/self/fd")) == before


def copies(handles: Sequence[SlabHandle]) -> list[SlabHandle]:
    return [replace(handle, words=os.dup(handle.words), memory=os.dup(handle.memory)) for handle in handles]


def test_a_catalogue_that_lies_is_refused(tier: GpuTier) -> None:
    put(tier, A, 0, 1)
    put(tier, B, 0)
    good, foreign = tier.catalogue(A)[0], tier.catalogue(B)[0]
    with tier.export(A) as export:
        slabs = {slab.number: slab for slab in map(attach, copies(export.handles))}
    slab = slabs[good.slab]
    assert slab.page(good).header.key == good.key
    for bad in (
        good._replace(key=KEYS[7]),
        good._replace(header=foreign.header),
        good._replace(header=good.header[:-1]),
        good._replace(slab=good.slab + 99),
        good._replace(offset=good.offset + 1),
        good._replace(offset=-4096),
        good._replace(offset=2 * GRANULE),
        good._replace(generation=good.generation + 1),
    ):
        with pytest.raises(CorruptBlock):
            slab.page(bad)


def test_bytes_that_are_no_slabs_are_refused(tier: GpuTier) -> None:
    put(tier, A, 0)
    before = len(os.listdir("/proc/self/fd"))
    with tier.export(A) as export:
        (handle,) = export.handles
        sizes = SlabHandle(A, 1, 2 * GRANULE, "cpu", b"", os.dup(handle.memory), os.dup(handle.words))
        unknown = SlabHandle(A, 1, GRANULE, "GPU-of-another-machine", b"", -1, os.dup(handle.words))
        nothing = SlabHandle(A, 1, GRANULE, "cpu", b"", -1, os.dup(handle.words))
        with pytest.raises(Unavailable, match="there is none"):
            attach(nothing)
        odd = SlabHandle(A, 1, GRANULE + 1, "cpu", b"", os.dup(handle.memory), os.dup(handle.words))
        for wrong in (sizes, unknown, odd):
            with pytest.raises(Mismatch):
                attach(wrong)
    assert len(os.listdir("/proc/self/fd")) == before
