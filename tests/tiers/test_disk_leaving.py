"""What leaves a full disk for others, and what does not: leased blocks, and such as are not what was put."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cachestore.block import Buffer
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
