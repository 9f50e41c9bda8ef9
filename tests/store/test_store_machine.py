"""The whole store against a dictionary: whatever happens, it gives the bytes that were put, or a miss.

Calls, broken copies in every tier, restarts, kills and the passing of time come in any order; after each of them all
that must hold is looked at. Values differ each time that a block is put anew, so that nothing old can come back unseen.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cachestore.block import Block, BlockSpec, Slot
from cachestore.deadline import Deadline
from cachestore.errors import DurabilityUnmet, LeaseExpired, Overloaded
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import Figure, total
from cachestore.store.base import Durability, Lease, PutStatus, Verdict
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_blocks, random_tokens, same, write_blocks

SPEC = BlockSpec("test/machine", "0" * 40, "float32", (Slot(2, 128, 128), Slot(2, 128, 128)), 2, block_tokens=16)
BLOCK = 66048
"""What one of these blocks, of 8 planes of 8 KiB, takes of memory."""

COUNT = 6
PROMPTS = {
    seed: (chain(SPEC, tokens := random_tokens(COUNT * SPEC.block_tokens, seed)), random_blocks(SPEC, tokens, seed))
    for seed in range(2)
}
NAMES = "ab"
QUOTA = 4 * BLOCK
"""Of namespace b; a may have all of memory."""

DURABLE_QUOTA = 6 * BLOCK
TTL = 0.05
LATE = 0.02
"""Seconds by which nobody can say whether a block's time is over."""
STUTTER = 1.0
"""Seconds that whoever counts later may be behind."""

prompts, names, counts = st.sampled_from(sorted(PROMPTS)), st.sampled_from(NAMES), st.integers(1, COUNT)
durabilities = st.sampled_from([Durability.CACHE, Durability.CACHE, Durability.DURABLE])
ttls = st.sampled_from([None, None, None, TTL])
SPOILS: dict[str, Callable[[bytes, int], bytes]] = {
    "flip": lambda data, at: data[: at % len(data)] + bytes([data[at % len(data)] ^ 4]) + data[at % len(data) + 1 :],
    "cut": lambda data, at: data[: at % len(data)],
    "longer": lambda data, at: data + bytes(1 + at % 5000),
    "zeros": lambda data, at: bytes(len(data)),
    "pickle": lambda data, at: b"\x80\x04cos\nsystem\n." * 100,
}


class Stored(NamedTuple):
    """What the model knows of a block: which value it has, when its time is over, and who promised to keep it."""

    version: int
    ends: float
    durable: bool


class OpenLease(NamedTuple):
    name: str
    prompt: int
    lease: Lease
    versions: list[int]
    ends: float


class OpenPut(NamedTuple):
    name: str
    put: LocalPut
    version: int
    ttl: float | None
    durability: Durability


@dataclass
class World:
    """What outlives a store: its folder, its Redis server, and how it is set up."""

    folder: Path
    redis: Any
    hot: bool
    store: dict[str, Any]

    def open(self) -> TieredStore:
        """A new store over what the last one left."""
        tiers = [
            {"name": "cpu", "capacity": 9 * BLOCK},
            *([{"name": "gpu", "device": "cpu", "capacity": "4MiB"}] if self.hot else []),
            {"name": "disk", "path": str(self.folder), "capacity": 1 << 20},
            {"name": "redis", "url": self.redis.url, "connect_timeout": 5.0, "timeout": 5.0},
        ]
        table = {"quotas": {"b": QUOTA}, "durable_quota": DURABLE_QUOTA, "staging": 4 * BLOCK, **self.store}
        tiered = compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": table})
        tiered.open()
        return tiered


class Copies:
    """The copies of one block, by tier in the order in which a read looks for them; each can be spoiled."""

    def __init__(self, world: World, tiered: TieredStore, store: LocalStore, key: bytes) -> None:
        self.tiered, self.namespace, self.key = tiered, store.namespace, key
        self.client = world.redis.client()
        self.redis_name = f"cachestore:block:{store.namespace.hex()}:{key.hex()}"
        self.file = world.folder / store.namespace.hex() / key.hex()[:2] / key.hex()
        self.entry = tiered.index.get(Name(store.namespace, key))

    def tiers(self) -> list[str]:
        there = ["cpu"] if self.entry is not None and self.entry.ready else []
        for tier in self.tiered.lower:
            if tier.present(self.namespace, [self.key], Deadline.after(5)) == [True]:
                there.append(tier.name)
        return there

    def spoil(self, tier: str, how: Callable[[bytes, int], bytes], at: int) -> None:
        if tier == "disk":
            self.file.write_bytes(how(self.file.read_bytes(), at))
        elif tier == "redis":
            value = how(self.client.get(self.redis_name), at)
            self.client.set(self.redis_name, value, ex=100)
        else:
            # memory has no length that could be wrong: one bit of it flips
            data = self.entry.slot.bytes if tier == "cpu" and self.entry is not None else self._page()
            data[at % data.nbytes] ^= np.uint8(4)

    def remove(self, tier: str) -> None:
        """Takes a copy away behind the store's back."""
        self.file.unlink() if tier == "disk" else self.client.delete(self.redis_name)

    def _page(self) -> Any:
        blocks: Any = self.tiered.hot[0]
        return blocks._work.blocks.find(self.namespace, self.key).slot.tensor.numpy()


class StoreMachine(RuleBasedStateMachine):
    """`stored` says what may be there and how it must look; what it does not name must never be seen.

    What is open depends on the clock as well, so no rule has a precondition: draws must be the same every time.
    """

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.tiered = self.world.open()
        for name in NAMES:
            self.store(name).clear()
        self.stored: dict[tuple[str, bytes], Stored] = {}
        self.leases: list[OpenLease] = []
        self.puts: list[OpenPut] = []
        self.versions = 0
        self.calm = False
        self.counted: Counter[str] = Counter()
        self.lurking: set[tuple[str, bytes, str]] = set()
        """Spoiled copies that nobody has read yet."""

    def store(self, name: str) -> LocalStore:
        return self.tiered.namespace(name)

    def keys(self, prompt: int, count: int = COUNT) -> Chain:
        return PROMPTS[prompt][0].first(count)

    def blocks(self, prompt: int, count: int, version: int) -> list[Block]:
        return [
            Block(block.key, block.token_count, block.planes, [data ^ np.uint8(version % 251) for data in block.data])
            for block in PROMPTS[prompt][1][:count]
        ]

    def right(self, name: str, prompt: int, block: Block) -> bool:
        """Whether this is what was put last under this key."""
        stored = self.stored.get((name, block.key))
        if stored is None:
            return False
        (wanted,) = [b for b in self.blocks(prompt, COUNT, stored.version) if b.key == block.key]
        return same(block, wanted)

    def finish(self, name: str, put: LocalPut, version: int, ttl: float | None, durability: Durability) -> None:
        """Takes over what became of a put."""
        ends = math.inf if ttl is None else time.monotonic() + ttl
        for plan, answer in zip(put.plans, put.answers, strict=True):
            if answer.status is PutStatus.STORED:
                self.stored[name, plan.key] = Stored(version, ends, durability is Durability.DURABLE)

    def upgrade(self, name: str, put: LocalPut, ttl: float | None, durability: Durability) -> None:
        """Takes over what a durable put made of the blocks that were there before it."""
        ends = math.inf if ttl is None else time.monotonic() + ttl
        for plan, answer in zip(put.plans, put.answers, strict=True):
            before = self.stored.get((name, plan.key))
            if answer.status is PutStatus.ALREADY_EXISTS and before is not None and durability is Durability.DURABLE:
                self.stored[name, plan.key] = before._replace(durable=True, ends=max(before.ends, ends))

    @initialize(calm=st.booleans())
    def begin(self, calm: bool) -> None:
        """A calm store finishes what it does in the background after every step: what fails there fails again."""
        self.calm = calm

    @rule(name=names, prompt=prompts, count=counts, durability=durabilities, ttl=ttls, lease=st.booleans())
    def put(self, name: str, prompt: int, count: int, durability: Durability, ttl: float | None, lease: bool) -> None:
        keys, self.versions = self.keys(prompt, count), self.versions + 1
        blocks = self.blocks(prompt, count, self.versions)
        with (
            suppress(Overloaded),
            self.store(name).put(keys.fingerprint, plans_of(blocks), durability=durability, ttl=ttl) as put,
        ):
            for plan, answer in zip(put.plans, put.answers, strict=True):
                known = (name, plan.key) in self.stored
                assert known or answer.status != PutStatus.ALREADY_EXISTS
            self.upgrade(name, put, ttl, durability)
            write_blocks(put, blocks)
            try:
                granted = put.commit(lease=10.0 if lease and len(self.leases) < 3 else 0.0)
            except DurabilityUnmet:
                granted = None
            self.finish(name, put, self.versions, ttl, durability)
            if granted is not None:
                self.leased(name, prompt, granted, math.inf)

    @rule(name=names, prompt=prompts, count=counts, wrote=st.booleans(), durability=durabilities, after=st.booleans())
    def begin_put(self, name: str, prompt: int, count: int, wrote: bool, durability: Durability, after: bool) -> None:
        if len(self.puts) == 2:
            return
        self.versions += 1
        keys, blocks = self.keys(prompt, count), self.blocks(prompt, count, self.versions)
        parent = keys.keys[0] if after and count > 1 else None
        blocks = blocks[1:] if parent is not None else blocks
        with suppress(Overloaded):
            put = self.store(name).put(keys.fingerprint, plans_of(blocks), after=parent, durability=durability)
            self.upgrade(name, put, None, durability)
            if wrote:
                write_blocks(put, blocks)
            self.puts.append(OpenPut(name, put, self.versions, None, durability))

    @rule(commit=st.booleans(), some=st.booleans())
    def end_put(self, commit: bool, some: bool) -> None:
        if not self.puts:
            return
        name, put, version, ttl, durability = self.puts.pop(0)
        with put:
            if commit:
                with suppress(DurabilityUnmet):
                    put.commit([0] if some else None)
        self.finish(name, put, version, ttl, durability)

    @rule(name=names, prompt=prompts, count=counts, own=st.booleans())
    def read(self, name: str, prompt: int, count: int, own: bool) -> None:
        keys = self.keys(prompt, count)
        self.over()
        into = [np.empty(sum(p.raw_bytes for p in SPEC.planes()), np.uint8) for _ in keys.keys] if own else None
        with self.store(name).read(keys, into=into) as reading:
            got = [block for block, _ in reading]
        assert all(self.right(name, prompt, block) for block in got)
        assert [block.key for block in got] == list(keys.keys[: len(got)])
        if len(got) < count:
            self.may_be_missing(name, keys.keys[len(got)])
        for index, block in enumerate(got if into is not None else ()):
            assert np.shares_memory(block.data[0], into[index])  # type: ignore[index]

    def may_be_missing(self, name: str, key: bytes) -> None:
        """What was acknowledged as durable is there, unless its time is over or every copy was spoiled."""
        stored = self.stored.get((name, key))
        if stored is not None and stored.durable and stored.ends > time.monotonic() + LATE:
            raise AssertionError(f"durable block {key.hex()[:8]} of {name} is gone: {stored}")

    @rule(name=names, prompt=prompts, count=counts)
    def lookup(self, name: str, prompt: int, count: int) -> None:
        store, keys = self.store(name), self.keys(prompt, count)
        self.settle()
        before = lasting(store.stats())
        found = store.lookup(keys)
        assert found == store.lookup(keys) and sum(run.blocks for run in found.runs) == found.ready
        assert lasting(store.stats()) == before
        assert all((name, key) in self.stored for key in keys.keys[: found.ready])

    def leased(self, name: str, prompt: int, lease: Lease, ends: float) -> None:
        versions = [self.stored[name, key].version for key in self.keys(prompt, lease.blocks).keys]
        self.leases.append(OpenLease(name, prompt, lease, versions, ends))

    @rule(name=names, prompt=prompts, count=counts, short=st.booleans())
    def take_lease(self, name: str, prompt: int, count: int, short: bool) -> None:
        if len(self.leases) < 3:
            lease = self.store(name).lease(self.keys(prompt, count), ttl=TTL if short else None)
            self.leased(name, prompt, lease, time.monotonic() + TTL if short else math.inf)

    @rule()
    def renew(self) -> None:
        if not self.leases:
            return
        name, prompt, lease, versions, ends = self.leases.pop(0)
        try:
            lease = self.store(name).renew(lease.id, 10.0)
        except LeaseExpired:
            assert ends < math.inf
        else:
            self.leases.append(OpenLease(name, prompt, lease, versions, math.inf))

    @rule(read=st.booleans(), verdict=st.sampled_from(list(Verdict)))
    def end_lease(self, read: bool, verdict: Verdict) -> None:
        if not self.leases:
            return
        name, prompt, lease, versions, ends = self.leases.pop(0)
        store, keys = self.store(name), self.keys(prompt, lease.blocks)
        over = ends < time.monotonic() - LATE
        try:
            if not read:
                store.release(lease, [verdict] * lease.blocks)
                self.counted["verdicts"] += lease.blocks if verdict is Verdict.CORRUPT else 0
                assert not over
                return
            with store.read(keys, lease=lease) as reading:
                got = [block for block, _ in reading]
            assert not over
        except LeaseExpired:
            assert ends < math.inf
            return
        in_memory = lease.runs[0].blocks if lease.runs and lease.runs[0].tier == "cpu" else 0
        # nothing takes away what a lease holds in memory, not even its deletion
        assert len(got) >= in_memory or ends < math.inf
        for block, version in zip(got, versions, strict=False):
            wanted = [b for b in self.blocks(prompt, COUNT, version) if b.key == block.key]
            assert same(block, wanted[0]) or self.right(name, prompt, block)

    @rule(name=names, prompt=prompts, count=counts, short=st.booleans())
    def pin(self, name: str, prompt: int, count: int, short: bool) -> None:
        assert 0 <= self.store(name).pin(self.keys(prompt, count), TTL if short else 60.0) <= count

    @rule(name=names, prompt=prompts, count=counts)
    def unpin(self, name: str, prompt: int, count: int) -> None:
        keys = self.keys(prompt, count)
        self.store(name).unpin(keys)
        assert not {pin.key for pin in self.store(name).pins()} & set(keys.keys)

    @rule(name=names, prompt=prompts, count=counts)
    def delete(self, name: str, prompt: int, count: int) -> None:
        keys = self.keys(prompt, count)
        self.store(name).delete(keys)
        self.forget((name, key) for key in keys.keys)

    @rule(name=names, tier=st.sampled_from(["", "cpu", "disk", "redis", "gpu"]))
    def clear(self, name: str, tier: str) -> None:
        if tier == "gpu" and not self.world.hot:
            return
        self.store(name).clear(tier)
        mine = [place for place in self.stored if place[0] == name]
        if not tier:
            self.forget(mine)
        elif tier == "disk":
            for place in mine:
                self.stored[place] = self.stored[place]._replace(durable=False)
        self.lurking = {place for place in self.lurking if place[0] != name or tier not in ("", place[2])}

    def forget(self, places: Iterator[tuple[str, bytes]] | Sequence[tuple[str, bytes]]) -> None:
        """These blocks are gone from everywhere, and no copy that was under way brings one back."""
        for name, key in places:
            self.stored.pop((name, key), None)
            self.lurking = {place for place in self.lurking if place[:2] != (name, key)}
            assert not self.found(name, key)
        assert self.tiered.settle()

    def found(self, name: str, key: bytes) -> bool:
        """Whether a lookup says that a block is there."""
        return self.store(name).lookup(Chain(self.keys(0).fingerprint, (key,))).ready == 1

    @rule(name=names, prompt=prompts, number=st.integers(0, COUNT - 1), spoiled=st.integers(1, 4), at=st.integers(0))
    def spoil_and_read(self, name: str, prompt: int, number: int, spoiled: int, at: int) -> None:
        """Every copy that a read meets before a good one is a corruption; with none left the block is lost."""
        # a copy that is made just now would carry the flipped bit on: two corruptions, and both are counted
        copies = self.idle_copies(name, self.keys(prompt).keys[number])
        if copies is None or any(place[:2] == (name, copies.key) for place in self.lurking):
            return
        self.over()
        stored, tiers = self.stored.get((name, copies.key)), copies.tiers()
        if stored is None or stored.ends < math.inf:
            return
        store, chosen = self.store(name), tiers[:spoiled]
        for tier in chosen:
            copies.spoil(tier, SPOILS["flip"], at)
        before = store.stats()
        with store.read(Chain(self.keys(prompt).fingerprint, (copies.key,))) as reading:
            got = list(reading)
        assert self.tiered.settle()
        figures = store.stats()
        self.counted["spoiled"] += len(chosen)
        for tier in chosen:
            assert total(figures, "corruptions", tier=tier) == total(before, "corruptions", tier=tier) + 1
        assert [tier for _, tier in got] == tiers[spoiled : spoiled + 1]
        assert all(self.right(name, prompt, block) for block, _ in got)
        lost = stored.durable and not got
        assert total(figures, "data_loss") == total(before, "data_loss") + lost
        if not got:
            self.forget([(name, copies.key)])

    @rule(
        name=names,
        prompt=prompts,
        number=st.integers(0, COUNT - 1),
        tier=st.sampled_from(["disk", "redis"]),
        how=st.sampled_from(sorted([*SPOILS, "remove"])),
        at=st.integers(0),
    )
    def spoil(self, name: str, prompt: int, number: int, tier: str, how: str, at: int) -> None:
        """A copy goes bad, and nobody reads it now."""
        copies = self.idle_copies(name, self.keys(prompt).keys[number])
        place = (name, self.keys(prompt).keys[number])
        if copies is None or tier not in copies.tiers() or (*place, tier) in self.lurking or place not in self.stored:
            return
        if how == "remove":
            copies.remove(tier)
        else:
            copies.spoil(tier, SPOILS[how], at)
            self.counted["lurking"] += 1
            self.lurking.add((*place, tier))
        if tier == "disk":
            self.stored[place] = self.stored[place]._replace(durable=False)

    def idle_copies(self, name: str, key: bytes) -> Copies | None:
        """A block that nothing happens to just now."""
        self.settle()
        copies = Copies(self.world, self.tiered, self.store(name), key)
        return None if copies.entry is not None and (not copies.entry.ready or copies.entry.users) else copies

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        for _, put, *_ in self.puts:
            put.abort()
        if kill:
            # nothing under way reaches a tier any more
            for tier in self.tiered.lower:
                tier.close()
        self.tiered.close()
        self.tiered = self.world.open()
        self.leases, self.puts = [], []
        self.counted.clear()
        self.counted["lurking"] = len(self.lurking)

    @rule()
    def wait(self) -> None:
        time.sleep(TTL + LATE)
        self.tiered.expire()
        self.over()

    def over(self) -> None:
        """What must have left by now because its time is over."""
        now = time.monotonic()
        self.tiered.expire()
        ended = [place for place, stored in self.stored.items() if stored.ends < now - LATE]
        if ended:
            self.settle()
        for name, key in ended:
            # Redis counts from when it hears of a block, and on a machine that stutters that is later
            until = now + STUTTER
            while self.found(name, key) and time.monotonic() < until:
                time.sleep(0.005)
        self.forget(ended)

    @rule()
    def settle(self) -> None:
        assert self.tiered.settle()

    @invariant()
    def everything_adds_up(self) -> None:
        if self.calm:
            self.settle()
        self.tiered.check()
        for tier in self.tiered.lower:
            usage = tier.usage()
            assert tier.name == "redis" or usage.used <= usage.capacity
        for name in NAMES:
            store = self.store(name)
            figures = store.stats()
            check_sums(figures)
            held = self.tiered.index.held(store.namespace) - self.tiered.staging.usage().used
            assert held <= (QUOTA if name == "b" else 9 * BLOCK)
            assert total(figures, "tier_durable_bytes", tier="disk") <= DURABLE_QUOTA
            assert total(figures, "pinned_bytes") <= self.tiered.pins.quota
            for pin in store.pins():
                runs = store.lookup(Chain(self.keys(0).fingerprint, (pin.key,))).runs
                assert [run.tier for run in runs] == ["cpu"] or not pin.ttl
        found = [figure for name in NAMES for figure in self.store(name).stats()]
        transit = total(found, "corruptions", tier="transit")
        read = total(found, "corruptions") - transit
        assert self.counted["spoiled"] <= read <= self.counted["spoiled"] + self.counted["lurking"]
        assert transit <= self.counted["verdicts"]

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.tiered.close()

    def everything_ends(self) -> None:
        """Once all is given back and removed, nothing is held and nothing counted as open."""
        for _, put, *_ in self.puts:
            put.abort()
        for name, _, lease, _, _ in self.leases:
            with suppress(LeaseExpired):
                self.store(name).release(lease)
        for name in NAMES:
            self.store(name).clear()
        assert self.tiered.settle() and self.tiered.memory.usage().used == 0 == self.tiered.staging.usage().used
        for name in NAMES:
            figures = self.store(name).stats()
            for gauge in ("read_open", "put_open", "puts_open", "leases_open", "pins", "tier_blocks"):
                assert total(figures, gauge) == 0, gauge


def lasting(figures: list[Figure]) -> list[Figure]:
    """The figures that looking must not change."""
    own = ("lookups", "lookup_blocks", "time_count", "time_sum_us", "time_bucket", "tier_used_bytes")
    return [figure for figure in figures if figure.name not in own]


@contextmanager
def machine(world: World) -> Iterator[type[StoreMachine]]:
    yield type("OpenStoreMachine", (StoreMachine,), {"world": world})


WORLDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "through": (True, {"write": "through", "hot_after": 1}),
    "back": (False, {"write": "back", "write_delay": 0.01, "promote_after": 2, "prefetch": False}),
    "eviction": (True, {"write": "eviction", "fetch_bytes": 1}),
}


def run(tmp_path: Path, redis: Any, name: str, examples: int) -> None:
    hot, store = WORLDS[name]
    with machine(World(tmp_path / "blocks", redis, hot, store)) as opened:
        run_state_machine_as_test(
            opened,
            settings=settings(
                max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


@pytest.mark.parametrize("name", WORLDS)
def test_the_store_against_a_dict(tmp_path: Path, redis_server: Callable[..., Any], name: str) -> None:
    run(tmp_path, redis_server(), name, 15)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WORLDS)
def test_the_store_against_a_dict_for_long(tmp_path: Path, redis_server: Callable[..., Any], name: str) -> None:
    run(tmp_path, redis_server(), name, 150)
