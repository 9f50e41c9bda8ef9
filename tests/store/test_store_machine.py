"""The whole store against a dict: whatever the order of calls, it gives the bytes that were put, or a miss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cachestore.block import Block
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.store.base import Lease, Verdict, put_blocks
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_blocks, random_tokens, same, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
COUNT = 6
PROMPTS = {
    seed: (chain(SPEC, tokens := random_tokens(COUNT * SPEC.block_tokens, seed)), random_blocks(SPEC, tokens, seed))
    for seed in range(3)
}
prompts, names = st.sampled_from(sorted(PROMPTS)), st.sampled_from(["a", "b"])
counts = st.integers(1, COUNT)


class StoreMachine(RuleBasedStateMachine):
    """One store of eight blocks in memory and a Redis behind it; `put` says what was ever put and not removed since."""

    tiered: TieredStore

    def __init__(self) -> None:
        super().__init__()
        for name in "ab":
            self.store(name).clear()
        assert self.tiered.settle()
        self.stored: set[tuple[str, bytes]] = set()
        self.leases: list[tuple[str, int, Lease]] = []
        self.puts: list[tuple[str, int, LocalPut]] = []
        self.injected = {name: total(self.store(name).stats(), "corruptions") for name in "ab"}

    def store(self, name: str) -> LocalStore:
        return self.tiered.namespace(name)

    def prompt(self, prompt: int, count: int = COUNT) -> tuple[Chain, list[Block]]:
        keys, blocks = PROMPTS[prompt]
        return keys.first(count), blocks[:count]

    @rule(name=names, prompt=prompts, count=counts)
    def put(self, name: str, prompt: int, count: int) -> None:
        keys, blocks = self.prompt(prompt, count)
        for answer, block in zip(put_blocks(self.store(name), keys.fingerprint, blocks), blocks, strict=True):
            known = (name, block.key) in self.stored
            assert answer.status in ("stored", "already_exists", "in_progress", "not_kept")
            assert known or answer.status != "already_exists"
            if answer.status == "stored":
                self.stored.add((name, block.key))

    @rule(name=names, prompt=prompts, count=counts)
    def read(self, name: str, prompt: int, count: int) -> None:
        keys, blocks = self.prompt(prompt, count)
        ready = self.store(name).lookup(keys).ready
        with self.store(name).read(keys) as reading:
            got = [block for block, _ in reading]
        assert len(got) <= ready and all(map(same, got, blocks))
        assert all((name, block.key) in self.stored for block in got)

    @rule(name=names, prompt=prompts, count=counts)
    def take_lease(self, name: str, prompt: int, count: int) -> None:
        if len(self.leases) < 3:
            self.leases.append((name, prompt, self.store(name).lease(self.prompt(prompt, count)[0])))

    @precondition(lambda self: self.leases)
    @rule(read=st.booleans(), verdict=st.sampled_from([Verdict.USED, Verdict.UNREAD]))
    def end_lease(self, read: bool, verdict: Verdict) -> None:
        name, prompt, lease = self.leases.pop(0)
        store, (keys, blocks) = self.store(name), self.prompt(prompt, lease.blocks)
        in_memory = lease.runs[0].blocks if lease.runs and lease.runs[0].tier == "cpu" else 0
        if not read:
            store.release(lease, [verdict] * lease.blocks)
            return
        with store.read(keys, lease=lease) as reading:
            got = [block for block, _ in reading]
        # nothing takes away what a lease holds in memory, not even its deletion
        assert len(got) >= in_memory and all(map(same, got, blocks))

    @rule(name=names, prompt=prompts, count=counts, planes=st.booleans())
    def begin_put(self, name: str, prompt: int, count: int, planes: bool) -> None:
        if len(self.puts) < 2:
            keys, blocks = self.prompt(prompt, count)
            put = self.store(name).put(keys.fingerprint, plans_of(blocks))
            self.puts.append((name, prompt, put))
            if planes:
                write_blocks(put, blocks)

    @precondition(lambda self: self.puts)
    @rule(commit=st.booleans())
    def end_put(self, commit: bool) -> None:
        name, _, put = self.puts.pop(0)
        with put:
            if commit:
                put.commit()
        self.stored |= {(name, put.plans[a.block].key) for a in put.answers if a.status == "stored"}

    @rule(name=names, prompt=prompts, count=counts)
    def delete(self, name: str, prompt: int, count: int) -> None:
        keys, _ = self.prompt(prompt, count)
        self.store(name).delete(keys)
        self.stored -= {(name, key) for key in keys.keys}
        self.gone(name, keys)

    def gone(self, name: str, keys: Chain) -> None:
        for settled in (False, True):
            if settled:
                assert self.tiered.settle()
            for key in keys.keys:
                if (name, key) not in self.stored and settled:
                    assert self.store(name).lookup(Chain(keys.fingerprint, (key,))).ready == 0

    @rule(name=names, tier=st.sampled_from(["", "cpu", "redis"]))
    def clear(self, name: str, tier: str) -> None:
        self.store(name).clear(tier)
        if not tier:
            self.stored = {(other, key) for other, key in self.stored if other != name}
            for prompt in PROMPTS:
                self.gone(name, self.prompt(prompt)[0])

    @rule(name=names, prompt=prompts, count=counts, at=st.integers(0, 600))
    def flip(self, name: str, prompt: int, count: int, at: int) -> None:
        store, (keys, blocks) = self.store(name), self.prompt(prompt, count)
        # a copy that is made just now would carry the flipped bit to Redis: two corruptions, and both are counted
        assert self.tiered.settle()
        entry = self.tiered.index.get(Name(store.namespace, keys.keys[-1]))
        if entry is None or not entry.ready or entry.users:
            return
        entry.slot.bytes[at] ^= np.uint8(4)
        before = total(store.stats(), "corruptions")
        with store.read(Chain(keys.fingerprint, keys.keys[-1:])) as reading:
            assert all(same(block, blocks[-1]) for block, _ in reading)
        assert total(store.stats(), "corruptions") == before + 1
        self.injected[name] += 1

    @rule()
    def settle(self) -> None:
        assert self.tiered.settle()

    @invariant()
    def everything_adds_up(self) -> None:
        self.tiered.check()
        for name in "ab":
            figures = self.store(name).stats()
            check_sums(figures)
            added, removed = total(figures, "tier_added", tier="cpu"), total(figures, "tier_removed", tier="cpu")
            assert added - removed == total(figures, "tier_blocks", tier="cpu")
            assert total(figures, "corruptions") == self.injected[name]

    def teardown(self) -> None:
        for _, _, put in self.puts:
            put.abort()
        for name, _, lease in self.leases:
            self.store(name).release(lease)
        for name in "ab":
            self.store(name).clear()
        assert self.tiered.settle() and self.tiered.memory.usage().used == 0


@contextmanager
def machine(tables: dict[str, Any]) -> Iterator[type[StoreMachine]]:
    tiers = [{"name": "cpu", "capacity": 8 * BLOCK}, {"name": "redis", "capacity": "8MiB"}]
    with compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": tables}) as tiered:
        yield type("OpenStoreMachine", (StoreMachine,), {"tiered": tiered})


@pytest.mark.parametrize("write", ["through", "eviction"])
def test_the_store_against_a_dict(write: str) -> None:
    with machine({"write": write}) as opened:
        run_state_machine_as_test(
            opened,
            settings=settings(
                max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
