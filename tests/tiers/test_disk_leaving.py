"""What leaves a full disk for others, and what does not: leased blocks, and such as are not what was put."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.testing.tiers import KEYS, A, equal, soon, value
from cachestore.tiers.base import ColdTier, Departure
from cachestore.tiers.disk import Disk, DiskTier
from cachestore.tiers.disk_files import place_of

NBYTES = 200_000
"""Of a block: five of them fill a disk of 1 MiB, beside which a `SMALL` one has room."""
SMALL = 20_000


@dataclass
class Full:
    """A full disk above another one, and what the upper one let go."""

    tier: DiskTier
    below: DiskTier
    folder: Path
    gone: list[Departure] = field(default_factory=list)

    def put(self, number: int, nbytes: int = NBYTES) -> bool:
        return self.tier.put_many(A, [(KEYS[number], value(number, nbytes))], None, soon()) == [True]

    def left(self) -> list[tuple[bytes, str, str]]:
        """Which blocks left since this was asked last, and why."""
        left = [(departure.key, departure.why, departure.reason) for departure in self.gone]
        self.gone.clear()
        return left


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Full]:
    above, below = (Disk(str(tmp_path / name), 1 << size).start(Lru()) for name, size in (("above", 20), ("below", 24)))
    above.below = below
    full = Full(above, below, tmp_path / "above")
    below.open(lambda departures: None)
    above.open(full.gone.extend)
    assert all(full.put(number) for number in range(5)) and not full.gone
    yield full
    above.close()
    below.close()


def held(tier: ColdTier, count: int = 6) -> list[int]:
    """Which of the first blocks are there."""
    return [number for number, there in enumerate(tier.present(A, KEYS[:count], soon())) if there]


def test_nothing_leaves_for_a_block_that_leases_leave_no_room_for(full: Full) -> None:
    assert full.tier.protect(A, KEYS[:4]) == [True] * 4 and full.tier.protect(A, KEYS[:1]) == [True]
    assert not full.put(5, 2 * NBYTES) and not full.left()
    # one that takes the place of a leased one is leased as well
    assert full.put(0, NBYTES // 2) and full.left() == [(KEYS[4], "demoted", "capacity")]
    assert full.put(4, SMALL)
    full.tier.unprotect(A, KEYS[:1])
    assert not full.put(5, 2 * NBYTES) and not full.left()
    full.tier.unprotect(A, KEYS[:1])
    assert full.put(5, 2 * NBYTES) and full.left() == [(KEYS[0], "demoted", "capacity")]


def test_what_is_removed_under_its_lease_takes_no_room(full: Full) -> None:
    assert full.tier.protect(A, KEYS[:3]) == [True] * 3
    assert full.tier.delete_many(A, KEYS[:2], soon()) == [True] * 2
    assert full.put(5, 4 * NBYTES) and {why for _, why, _ in full.left()} == {"demoted"} and held(full.tier) == [2, 5]
    full.tier.unprotect(A, KEYS[:3])
    assert full.put(0, 5 * NBYTES) and full.tier.protect(A, KEYS[:1]) == [True] and held(full.tier) == [0]
    full.gone.clear()
    assert full.put(1, SMALL) and not full.put(2, NBYTES) and not full.left()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def of_another(path: Path) -> None:
    other: Buffer = value(7, NBYTES)
    path.write_bytes(other.tobytes())


@pytest.mark.parametrize(
    "damage, why, reason",
    [
        (flipped, "corrupt", "checksum"),
        (of_another, "corrupt", "identity"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "corrupt", "truncated"),
        (Path.unlink, "lost", "capacity"),
    ],
    ids=["flipped", "of another", "truncated", "gone"],
)
def test_what_is_not_the_block_is_not_handed_down(
    full: Full, damage: Callable[[Path], None], why: str, reason: str
) -> None:
    damage(full.folder / place_of(A, KEYS[0]))
    assert full.put(5) and full.left() == [(KEYS[0], why, reason)]
    assert full.put(6) and full.left() == [(KEYS[1], "demoted", "capacity")]
    assert held(full.below) == [1] and held(full.tier, 7) == [2, 3, 4, 5, 6]
    (found,) = full.below.get_many(A, KEYS[1:2], soon())
    assert equal(found, value(1, NBYTES))


def test_want_of_memory_for_what_leaves_costs_that_block_only(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    work = full.tier._work
    assert work is not None

    def refused(nbytes: int) -> Buffer:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(work.memory, "take", refused)
        assert full.put(5) and full.left() == [(KEYS[0], "evicted", "capacity")]
    assert full.put(6) and full.left() == [(KEYS[1], "demoted", "capacity")]
    assert held(full.below) == [1] and held(full.tier, 7) == [2, 3, 4, 5, 6]


def test_a_put_that_fails_for_want_of_memory_leaves_nothing(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    work = full.tier._work
    assert work is not None and full.tier.delete_many(A, KEYS[:5], soon()) == [True] * 5
    create, made = work.files.create, list[int]()

    def third(*arguments: object) -> tuple[str, int]:
        made.append(1)
        if len(made) == 3:
            raise MemoryError
        return create()

    used = full.tier.usage().used
    with monkeypatch.context() as patched:
        patched.setattr(work.files, "create", third)
        blocks = [(key, value(number, NBYTES)) for number, key in enumerate(KEYS[:4])]
        with suppress(MemoryError):
            full.tier.put_many(A, blocks, None, soon())
    assert full.tier.usage().used == used and not list((full.folder / ".writing").iterdir())
    assert all(full.put(number) for number in range(5)) and not full.left()


@dataclass
class Waiting:
    """Holds up what a tier is to keep, until `go_on`."""

    put_many: Callable[..., list[bool]]
    asked: Event = field(default_factory=Event)
    go_on: Event = field(default_factory=Event)

    def __call__(self, namespace: bytes, blocks: Any, ttl: float | None, deadline: Deadline) -> list[bool]:
        self.asked.set()
        if self.go_on.wait(deadline.remaining()):
            return self.put_many(namespace, blocks, ttl, deadline)
        return [False] * len(blocks)


@pytest.fixture
def waiting(full: Full, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    waiting = Waiting(full.below.put_many)
    monkeypatch.setattr(full.below, "put_many", waiting)
    yield waiting
    waiting.go_on.set()


def test_a_tier_below_that_takes_its_time_holds_nobody_else_up(full: Full, waiting: Waiting) -> None:
    with ThreadPoolExecutor() as pool:
        try:
            making_room = pool.submit(full.put, 5)
            assert waiting.asked.wait(10)
            assert held(full.tier) == [0, 1, 2, 3, 4]
            for number in range(2):
                (found,) = full.tier.get_many(A, KEYS[number : number + 1], soon())
                assert equal(found, value(number, NBYTES))
            assert full.tier.delete_many(A, KEYS[1:2], soon()) == [True]
            assert full.put(6) and not making_room.done() and full.tier.healthy
        finally:
            waiting.go_on.set()
        assert making_room.result(10)
    assert full.left() == [(KEYS[0], "demoted", "capacity")]
    assert held(full.tier, 7) == [2, 3, 4, 5, 6] and held(full.below) == [0]


def test_room_is_made_in_time_though_the_tier_below_does_not_answer(full: Full, waiting: Waiting) -> None:
    assert full.tier.put_many(A, [(KEYS[5], value(5, NBYTES))], None, Deadline.after(1.0)) == [True]
    assert full.left() == [(KEYS[0], "evicted", "capacity")] and full.tier.healthy
    assert held(full.tier) == [1, 2, 3, 4, 5] and not held(full.below)


def test_who_removes_what_is_on_its_way_down_finds_it_there(full: Full, waiting: Waiting) -> None:
    with ThreadPoolExecutor() as pool:
        try:
            making_room = pool.submit(full.put, 5)
            assert waiting.asked.wait(10)
            assert full.tier.delete_many(A, KEYS[:1], Deadline.after(0.2)) is None
            removing = pool.submit(full.tier.delete_many, A, KEYS[:2], soon())
            assert not wait([removing], 0.2).done
        finally:
            waiting.go_on.set()
        assert removing.result(10) == [False, True] and held(full.below) == [0]
        assert making_room.result(10)


def test_what_others_make_room_for_leaves_room_for_more(full: Full, waiting: Waiting) -> None:
    assert full.tier.protect(A, KEYS[1:5]) == [True] * 4
    with ThreadPoolExecutor() as pool:
        try:
            small = pool.submit(full.put, 5, SMALL * 3)
            assert waiting.asked.wait(10)
            another = pool.submit(full.put, 6, SMALL * 3)
            assert not wait([another], 0.2).done
        finally:
            waiting.go_on.set()
        assert small.result(10) and another.result(10)
    assert held(full.tier, 7) == [1, 2, 3, 4, 5, 6]
