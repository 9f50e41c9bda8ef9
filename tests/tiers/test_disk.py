"""The disk tier: the contract of cold tiers, restarts, the cap, time to live, and whatever may lie in its folder."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, Event, Thread

import numpy as np
import pytest
import xxhash

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import ConfigError
from cachestore.eviction.lru import Lru
from cachestore.seal import CorruptBlock, Header
from cachestore.testing import TierTests
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, B, equal, soon, value
from cachestore.tiers.base import ColdTier, Departure, Found
from cachestore.tiers.disk import Disk, DiskTier
from cachestore.tiers.disk_entry import DiskEntry
from cachestore.tiers.disk_files import Files
from cachestore.tiers.disk_index import DiskIndex
from cachestore.tiers.ledger import Ledger

UNIT = 4096


@dataclass
class Opened:
    """Opens tiers on one folder, and remembers what they let go."""

    folder: Path
    gone: list[Departure] = field(default_factory=list)
    tiers: list[DiskTier] = field(default_factory=list)

    def __call__(self, capacity: int = 64 << 20, ttl: float = 0.0) -> DiskTier:
        """A tier on the folder, after a restart if there was one before."""
        self.close()
        tier = Disk(str(self.folder), capacity, ttl=ttl).start(Lru())
        tier.open(self.gone.extend)
        self.tiers.append(tier)
        return tier

    def close(self) -> None:
        while self.tiers:
            self.tiers.pop().close()

    def place(self, key: bytes, namespace: bytes = A) -> Path:
        """Where the file of a block is."""
        return self.folder / namespace.hex() / key[:1].hex() / key.hex()

    def room(self) -> int:
        """What all files take."""
        sizes = [path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir()]
        return sum(-(-size // UNIT) * UNIT for size in sizes)

    def why(self) -> list[str]:
        """Why blocks left since this was asked last."""
        why = [departure.why for departure in self.gone]
        self.gone.clear()
        return why


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "blocks")
    yield opened
    opened.close()


def put(tier: ColdTier, *blocks: Buffer, key: bytes | None = None, durable: bool = False) -> list[bool]:
    """Puts sealed blocks under the keys in their headers."""
    named = [(block[48:80].tobytes() if key is None else key, block) for block in blocks]
    return tier.put_many(blocks[0][16:48].tobytes(), named, None, soon(), durable=durable)


def get(tier: ColdTier, key: bytes, namespace: bytes = A) -> Found:
    return tier.get_many(namespace, [key], soon())[0]


class TestContract(TierTests):
    @pytest.fixture
    def tier(self, opened: Opened) -> Iterator[ColdTier]:
        yield opened()


class TestContractWhereTheDiskIsAlwaysAsked(TierTests):
    @pytest.fixture
    def tier(self, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColdTier]:
        # as in a network's file system
        monkeypatch.setattr("cachestore.tiers.disk_cached._LOCAL", set())
        yield opened()


def test_a_restart_finds_every_block(opened: Opened) -> None:
    tier = opened()
    blocks = [value(number, 100_000) for number in range(4)] + [value(4, 1000, B)]
    assert all(all(put(tier, block)) for block in blocks)
    many = sealed_block(A, KEYS[7], 200_000, planes=1000)
    assert put(tier, many) == [True]
    used = tier.usage().used
    tier = opened()
    assert all(equal(get(tier, KEYS[number]), blocks[number]) for number in range(4))
    assert equal(get(tier, KEYS[4], B), blocks[4]) and equal(get(tier, KEYS[7]), many)
    assert tier.usage().used == used == opened.room() and not opened.gone


def test_files_hold_the_bytes_given_and_are_private(opened: Opened) -> None:
    tier = opened()
    put(tier, value(0))
    assert opened.place(KEYS[0]).read_bytes() == value(0).tobytes()
    for path in [opened.folder, *opened.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_of_a_full_tier_the_least_recently_read_leaves(opened: Opened) -> None:
    tier = opened(1 << 20)
    blocks = [value(number, 200_000) for number in range(7)]
    for block in blocks[:5]:
        assert put(tier, block) == [True]
    assert get(tier, KEYS[0]) is not None
    assert put(tier, blocks[5]) == [True]
    assert opened.gone == [Departure(A, KEYS[1], blocks[1].nbytes, "evicted", reason="capacity")]
    assert tier.present(A, KEYS[:6], soon()) == [True, False, True, True, True, True]
    assert tier.usage().used == opened.room() <= 1 << 20


def test_children_leave_before_their_parents(opened: Opened) -> None:
    tier = opened(1 << 20)
    chain = [sealed_block(A, KEYS[n], 200_000, parent=KEYS[n - 1][:16] if n else bytes(16)) for n in range(5)]
    for block in chain:
        assert put(tier, block) == [True]
    for other in (6, 7):
        tier = opened(1 << 20)
        assert put(tier, value(other, 200_000)) == [True]
    assert tier.leading(A, KEYS[1:6], soon()) == 3


def test_the_namespace_that_holds_most_gives_first(opened: Opened) -> None:
    tier = opened(1 << 20)
    assert put(tier, value(0, 200_000, B)) == [True]
    for number in range(4):
        assert put(tier, value(number, 200_000)) == [True]
    for number in range(4, 7):
        assert put(tier, value(number, 200_000)) == [True]
    assert tier.present(B, KEYS[:1], soon()) == [True]
    assert {departure.namespace for departure in opened.gone} == {A}


def test_durable_blocks_do_not_leave_and_the_rest_is_refused(opened: Opened) -> None:
    tier = opened(1 << 20)
    durable = [sealed_block(A, KEYS[number], 300_000, number, durable=True) for number in range(3)]
    assert put(tier, *durable, durable=True) == [True] * 3
    for _ in range(2):
        # the second time round they are known by their headers only
        assert put(tier, value(3, 300_000)) == [False] and not opened.gone
        assert put(tier, value(3, 50_000)) == [True]
        assert tier.delete_many(A, [KEYS[3]], soon()) == [True]
        tier = opened(1 << 20)
    # a copy that is not durable does not take the place of one that is
    assert put(tier, value(0, 1000)) == [True] and equal(get(tier, KEYS[0]), durable[0])
    assert tier.delete_many(A, [KEYS[0]], soon()) == [True] and tier.present(A, KEYS[:1], soon()) == [False]
    tier = opened(1 << 20)
    assert tier.present(A, KEYS[:3], soon()) == [False, True, True]


def test_a_durable_put_upgrades_what_is_there(opened: Opened) -> None:
    tier = opened(1 << 20)
    assert put(tier, value(0, 300_000)) == [True]
    assert put(tier, sealed_block(A, KEYS[0], 300_000, durable=True), durable=True) == [True]
    for number in range(1, 6):
        put(tier, value(number, 300_000))
    assert tier.present(A, KEYS[:1], soon()) == [True] and set(opened.why()) == {"evicted"}


def test_a_block_larger_than_the_tier_is_refused_and_nothing_leaves_for_it(opened: Opened) -> None:
    tier = opened(1 << 20)
    assert put(tier, value(0)) == [True] and put(tier, value(1, 2 << 20)) == [False]
    assert tier.present(A, KEYS[:1], soon()) == [True] and not opened.gone and tier.healthy


def test_a_smaller_cap_after_a_restart_holds_at_once(opened: Opened) -> None:
    tier = opened(8 << 20)
    for number in range(8):
        assert put(tier, value(number, 500_000)) == [True]
        os.utime(opened.place(KEYS[number]), (number, number))
    tier = opened(2 << 20)
    assert opened.room() == tier.usage().used <= 2 << 20
    assert tier.present(A, KEYS, soon()) == [False] * 4 + [True] * 4 and opened.why() == ["evicted"] * 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """Where mounting is allowed, a disk that takes 4 MiB and not a byte more."""
    options = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", str(tmp_path)]
    mounted = subprocess.run(options, capture_output=True, check=False).returncode == 0
    yield
    if mounted:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_cap_holds_while_many_write_and_every_block_is_accounted_for(
    small_disk: None, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    capacity = 4 << 20
    tier = opened(capacity)
    namespaces = [bytes([number]) * 32 for number in range(4)]
    kept: list[tuple[bytes, bytes]] = []
    most = [0]

    def write(namespace: bytes) -> None:
        for number in range(40):
            keys = [os.urandom(32) for _ in range(3)]
            blocks = [(key, sealed_block(namespace, key, 90_000 + 1000 * number)) for key in keys]
            answers = tier.put_many(namespace, blocks, None, soon(), durable=number == 20)
            kept.extend((namespace, key) for key, ok in zip(keys, answers, strict=True) if ok)
            most.append(tier.usage().used)
            found = tier.get_many(namespace, keys, soon())
            assert all(data is None or equal(data, block) for data, (_, block) in zip(found, blocks, strict=True))

    threads = [Thread(target=write, args=(namespace,)) for namespace in namespaces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= capacity and len(kept) == 4 * 40 * 3
    # no write ever met the end of the disk
    assert tier.healthy and not caplog.records
    gone = {(departure.namespace, departure.key) for departure in opened.gone}
    there = {(ns, key) for ns, key in kept if tier.present(ns, [key], soon()) == [True]}
    assert len(opened.gone) == len(gone) and set(opened.why()) == {"evicted"}
    assert there | gone == set(kept) and not there & gone
    for namespace in namespaces:
        figures = {figure.name: figure.value for figure in tier.ledger.figures(namespace)}
        blocks = sum(owner == namespace for owner, _ in there)
        assert figures["tier_added"] == 120 == blocks + figures["tier_removed"] and figures["tier_blocks"] == blocks
    assert tier.usage().used == opened.room()


@pytest.mark.parametrize("durable", [False, True])
def test_of_two_writers_of_one_key_one_wins_whole(opened: Opened, durable: bool) -> None:
    tier = opened()
    blocks = [sealed_block(A, KEYS[0], 100_000 * (1 + number), number, durable=durable) for number in range(4)]
    for _ in range(10):
        together = Barrier(len(blocks))
        answers: list[bool] = []

        def write(block: Buffer, together: Barrier = together, answers: list[bool] = answers) -> None:
            together.wait()
            answers.extend(put(tier, block, durable=durable))

        threads = [Thread(target=write, args=(block,)) for block in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            found = get(tier, KEYS[0])
            assert found is None or any(equal(found, block) for block in blocks)
            thread.join()
        assert answers == [True] * 4
        assert any(equal(get(tier, KEYS[0]), block) for block in blocks)
        assert tier.usage().used == opened.room() and not list((opened.folder / ".writing").iterdir())
    assert tier.ledger.content(A).blocks == 1 and not opened.gone


def test_a_cache_put_at_once_with_a_durable_one_does_not_take_its_place(opened: Opened) -> None:
    tier = opened()
    durable = sealed_block(A, KEYS[0], 100_000, 1, durable=True)
    for _ in range(20):
        together = Barrier(3)
        answers: list[bool] = []

        def write(block: Buffer, durable: bool, together: Barrier = together, kept: list[bool] = answers) -> None:
            together.wait()
            kept.extend(put(tier, block, durable=durable) if durable else [True] * len(put(tier, block)))

        writes = ((durable, True), (value(0), False), (value(0, 5000), False))
        threads = [Thread(target=write, args=arguments) for arguments in writes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 3 and equal(get(tier, KEYS[0]), durable)
        assert tier.delete_many(A, KEYS[:1], soon()) == [True]


def test_a_block_that_is_being_read_does_not_leave() -> None:
    index = DiskIndex(Lru(), 1 << 20, Ledger("disk"))
    for number in range(2):
        block = value(number)
        assert index.reserve(block.nbytes)
        index.add(DiskEntry.of(A, KEYS[number], block.nbytes, Header.parse(block)))
    read = index.use(A, KEYS[:1])
    leaving = index.evict()
    assert leaving is not None and leaving.key == KEYS[1] and index.take(leaving)
    assert index.evict() is None
    index.leave(read)
    leaving = index.evict()
    assert leaving is not None and leaving.key == KEYS[0]


def test_a_leased_block_stays_as_long_as_one_lease_does_also_when_it_is_replaced(opened: Opened) -> None:
    tier = opened(1 << 20)
    put(tier, *(value(number, 200_000) for number in range(5)))
    assert tier.protect(A, [KEYS[0], KEYS[6]]) == [True, False] and tier.protect(A, KEYS[:1]) == [True]
    other = sealed_block(A, KEYS[0], 210_000, seed=9)
    assert put(tier, other) == [True]
    tier.unprotect(A, KEYS[:1])
    assert put(tier, *(value(number, 200_000) for number in (5, 6, 7, 1))) == [True] * 4
    assert equal(get(tier, KEYS[0]), other)
    tier.unprotect(A, KEYS[:1])
    assert put(tier, *(value(number, 200_000) for number in (2, 3, 4, 5))) == [True] * 4
    assert put(tier, value(6, 200_000)) == [True] and get(tier, KEYS[0]) is None


def test_a_lease_holds_that_comes_when_its_block_is_just_about_to_leave(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened(1 << 20)
    put(tier, *(value(number, 200_000) for number in range(5)))
    evict = DiskIndex.evict

    def leased(index: DiskIndex) -> DiskEntry | None:
        entry = evict(index)
        if entry is not None and entry.key == KEYS[0]:
            assert index.protect(A, KEYS[:1]) == [True]
        return entry

    monkeypatch.setattr(DiskIndex, "evict", leased)
    assert put(tier, value(5, 200_000)) == [True]
    assert tier.present(A, KEYS[:6], soon()) == [True, False, True, True, True, True]
    tier.unprotect(A, KEYS[:1])
    monkeypatch.undo()
    # it counts as just read, and is in the order still
    assert put(tier, *(value(number, 200_000) for number in (6, 7))) == [True] * 2
    assert put(tier, *(value(number, 200_000) for number in (1, 2))) == [True] * 2
    assert tier.present(A, KEYS[:3], soon()) == [False, True, True]


def milliseconds(seconds: float) -> int:
    return int(1000 * (time.time() + seconds))


def test_the_end_in_the_header_holds_across_restarts(opened: Opened, eventually: Callable[..., None]) -> None:
    tier = opened()
    ends = {0: milliseconds(0.6), 1: milliseconds(2.0), 2: milliseconds(1000)}
    for number, end in ends.items():
        # what the header says goes before what the caller says
        block = sealed_block(A, KEYS[number], 1000, expires=end, durable=number == 0)
        assert tier.put_many(A, [(KEYS[number], block)], 500.0 - 499.9 * (number == 2), soon()) == [True]
    opened.close()
    time.sleep(max(0, ends[0] / 1000 - time.time()))
    tier = opened()
    assert opened.gone == [Departure(A, KEYS[0], opened.gone[0].nbytes, "ttl", True)]
    assert not opened.place(KEYS[0]).exists()
    time.sleep(max(0, ends[1] / 1000 - time.time()))
    assert tier.present(A, KEYS[:3], soon()) == [False, False, True] and get(tier, KEYS[1]) is None
    eventually(lambda: len(opened.gone) == 2)
    assert opened.why() == ["ttl", "ttl"]
    assert not opened.place(KEYS[1]).exists()


def test_the_tiers_own_time_to_live_is_for_blocks_that_have_none(opened: Opened) -> None:
    tier = opened(ttl=0.05)
    assert put(tier, value(0)) == [True]
    assert put(tier, sealed_block(A, KEYS[1], expires=milliseconds(1000))) == [True]
    time.sleep(0.06)
    assert tier.present(A, KEYS[:2], soon()) == [False, True]


def test_the_tiers_own_time_to_live_is_not_for_durable_blocks(opened: Opened) -> None:
    tier = opened(ttl=0.05)
    assert put(tier, value(0), durable=True) == put(tier, sealed_block(A, KEYS[1], durable=True)) == [True]
    # a time that was asked for holds
    assert tier.put_many(A, [(KEYS[2], value(2))], 0.05, soon(), durable=True) == [True]
    time.sleep(0.06)
    assert tier.present(A, KEYS[:3], soon()) == [True, True, False]


@pytest.mark.parametrize("before", ["cache", "durable"])
def test_a_durable_put_that_came_too_late_leaves_nothing_durable_that_was_not(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None], before: str
) -> None:
    tier = opened()
    assert put(tier, value(0), durable=before == "durable") == [True]
    held, late, sync = tier.durable_bytes(A), Event(), Files.sync

    def slow(files: Files, folders: Iterable[str]) -> None:
        late.wait()
        sync(files, folders)

    monkeypatch.setattr(Files, "sync", slow)
    assert tier.put_many(A, [(KEYS[0], value(0))], None, Deadline.after(0.3), durable=True) == [False]
    late.set()
    eventually(lambda: tier.durable_bytes(A) == held and tier.kept(A, KEYS[:1]) == [before == "durable"])
    assert tier.present(A, KEYS[:1], soon()) == [before == "durable"]
    # memory may have relied on the copy that was there
    eventually(lambda: opened.why() == ([] if before == "durable" else ["withdrawn"]))


def empty(place: Path) -> None:
    place.write_bytes(b"")


def shorten(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def halve(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:100])


def extend(place: Path) -> None:
    place.write_bytes(place.read_bytes() + b"x")


def zero(place: Path) -> None:
    place.write_bytes(bytes(place.stat().st_size))


def flip(place: Path) -> None:
    data = bytearray(place.read_bytes())
    data[60] ^= 4
    place.write_bytes(data)


def another(place: Path) -> None:
    place.write_bytes(value(1).tobytes())


def hard_link(place: Path) -> None:
    other = place.parent.parent / KEYS[1][:1].hex() / KEYS[1].hex()
    place.unlink()
    place.hardlink_to(other)


DAMAGE = [empty, shorten, halve, extend, zero, flip, another, hard_link]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_the_block_is_removed_at_the_start(opened: Opened, damage: Callable[[Path], None]) -> None:
    tier = opened()
    put(tier, value(0)), put(tier, value(1))
    opened.close()
    damage(opened.place(KEYS[0]))
    tier = opened()
    assert tier.present(A, KEYS[:2], soon()) == [False, True] and opened.why() == ["corrupt"]
    assert {f.value for f in tier.ledger.figures(A) if f.label("why") == "corrupt"} == {1}
    assert not opened.place(KEYS[0]).exists() and equal(get(tier, KEYS[1]), value(1))
    assert tier.usage().used == opened.room()


def test_no_flipped_bit_of_a_header_and_no_other_length_gets_past_the_start(opened: Opened) -> None:
    tier = opened()
    header = Header.parse(value(0, 800)).size
    lengths = range(0, value(0, 800).nbytes, 7)
    keys = [number.to_bytes(2, "big") * 16 for number in range(header + len(lengths))]
    blocks = {key: sealed_block(A, key, 800) for key in keys}
    assert all(put(tier, *blocks.values()))
    opened.close()
    for number, key in enumerate(keys):
        data = bytearray(blocks[key].tobytes())
        if number < header:
            data[number] ^= 1 << number % 8
        else:
            del data[lengths[number - header] :]
        opened.place(key).write_bytes(data)
    tier = opened()
    assert tier.present(A, keys, soon()) == [False] * len(keys)
    assert set(opened.why()) == {"corrupt"} and tier.usage().used == opened.room() == 0


@pytest.mark.parametrize(("damage", "reason"), [(flip, "header"), (empty, "truncated"), (another, "identity")])
def test_what_was_wrong_at_the_start_is_told(opened: Opened, damage: Callable[[Path], None], reason: str) -> None:
    put(opened(), value(0))
    opened.close()
    damage(opened.place(KEYS[0]))
    opened()
    assert [departure.reason for departure in opened.gone] == [reason]


def of_version(data: bytes, version: int) -> bytes:
    """The same block as another release would have written it."""
    size = int.from_bytes(data[8:12], "little")
    header = data[:4] + version.to_bytes(2, "little") + data[6 : size - 8]
    return header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little") + data[size:]


@pytest.mark.parametrize("planes", [2, 100])
@pytest.mark.parametrize("durable", [False, True])
def test_a_durable_block_of_another_version_stays_and_takes_its_room(
    opened: Opened, durable: bool, planes: int
) -> None:
    block = sealed_block(A, KEYS[0], (1 << 20) - 4096, planes=planes, durable=durable)
    assert put(opened(), block, durable=durable) == [True]
    opened.close()
    opened.place(KEYS[0]).write_bytes(of_version(block.tobytes(), 2))
    tier = opened(1 << 20)
    assert tier.present(A, KEYS[:1], soon()) == [False] and opened.place(KEYS[0]).exists() == durable
    assert tier.usage().used == opened.room() and opened.why() == ([] if durable else ["corrupt"])
    assert put(tier, value(1, 5000)) == [not durable]
    opened.close()
    if durable:
        opened.place(KEYS[0]).write_bytes(block.tobytes())
        assert equal(get(opened(), KEYS[0]), block)


@pytest.mark.parametrize("damage", [empty, shorten, halve, extend])
def test_a_file_of_another_length_is_truncated(opened: Opened, damage: Callable[[Path], None]) -> None:
    tier = opened()
    put(tier, value(0))
    damage(opened.place(KEYS[0]))
    found = get(tier, KEYS[0])
    assert isinstance(found, CorruptBlock) and found.reason == "truncated" and tier.healthy
    assert tier.delete_many(A, KEYS[:1], soon()) == [True] and not opened.place(KEYS[0]).exists()
    assert tier.usage().used == 0


def symlink(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


def directory(place: Path, elsewhere: Path) -> None:
    place.mkdir()
    (place / "inside").touch()


def pipe(place: Path, elsewhere: Path) -> None:
    os.mkfifo(place)


def of_another_user(place: Path, elsewhere: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may give files away")
    place.write_bytes(value(0).tobytes())
    os.chown(place, 65534, 65534)


@pytest.mark.parametrize("put_there", [symlink, directory, pipe, of_another_user])
def test_what_is_no_file_of_ours_is_neither_followed_nor_believed(
    opened: Opened, tmp_path: Path, put_there: Callable[[Path, Path], None]
) -> None:
    tier = opened()
    put(tier, value(0))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(value(0).tobytes())
    place = opened.place(KEYS[0])
    place.unlink()
    put_there(place, elsewhere)
    found = get(tier, KEYS[0])
    assert isinstance(found, CorruptBlock) and found.reason == "foreign" and tier.healthy
    tier = opened()
    # left as it is, and not counted
    assert tier.present(A, KEYS[:1], soon()) == [False] and not opened.gone
    assert os.path.lexists(place) and tier.usage().used == 0
    assert elsewhere.read_bytes() == value(0).tobytes()
    assert put(tier, value(0)) == [put_there is not directory]
    assert elsewhere.read_bytes() == value(0).tobytes()


def test_folders_that_are_links_are_not_entered(opened: Opened, tmp_path: Path) -> None:
    put(opened(), value(0))
    opened.close()
    moved = tmp_path / "moved"
    (opened.folder / A.hex()).rename(moved)
    (opened.folder / A.hex()).symlink_to(moved)
    tier = opened()
    assert tier.present(A, KEYS[:1], soon()) == [False] and tier.usage().used == 0
    assert len([path for path in moved.rglob("*") if path.is_file()]) == 1


def test_other_things_in_the_folder_stay(opened: Opened) -> None:
    opened()
    others = [opened.folder / name for name in ("readme", A.hex(), f"{B.hex()}/x", f"{B.hex()}/ff/readme")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    (opened.folder / ".writing" / "left-behind").write_bytes(b"of a process that died")
    tier = opened()
    assert all(path.read_bytes() == b"mine" for path in others) and tier.usage().used == 0 and not opened.gone
    assert not list((opened.folder / ".writing").iterdir())
    assert put(tier, value(0)) == [False] and put(tier, value(0, namespace=B)) == [True]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_that_is_gone_is_a_miss_and_forgotten(opened: Opened, durable: bool) -> None:
    tier = opened()
    put(tier, sealed_block(A, KEYS[0], durable=durable), durable=durable)
    opened.place(KEYS[0]).unlink()
    assert get(tier, KEYS[0]) is None
    assert [(departure.why, departure.durable) for departure in opened.gone] == [("lost", durable)]
    assert tier.present(A, KEYS[:1], soon()) == [False] and tier.usage().used == 0
    assert put(tier, value(0)) == [True] and equal(get(tier, KEYS[0]), value(0))


def test_a_wiped_folder_is_misses_and_is_filled_again(opened: Opened) -> None:
    tier = opened()
    for number in range(3):
        put(tier, sealed_block(A, KEYS[number], durable=True), durable=True)
    subprocess.run(f"rm -rf {opened.folder}/* {opened.folder}/.writing", shell=True, check=True)
    assert tier.get_many(A, KEYS[:2], soon()) == [None, None] and opened.why() == ["lost", "lost"]
    assert put(tier, sealed_block(A, KEYS[0], seed=1, durable=True), durable=True) == [True]
    assert get(tier, KEYS[0]) is not None and tier.healthy
    assert tier.delete_many(A, KEYS[2:3], soon()) in (None, [True]) and tier.delete_many(A, KEYS[2:3], soon()) == [
        False
    ]
    assert tier.usage().used == opened.room()


def test_a_file_from_the_future_is_like_any_other(opened: Opened) -> None:
    put(opened(), value(0))
    os.utime(opened.place(KEYS[0]), (2**33, 2**33))
    assert equal(get(opened(), KEYS[0]), value(0))


def test_bytes_that_are_not_the_block_named_are_not_kept(opened: Opened) -> None:
    tier = opened()
    for wrong in (value(1), value(0, namespace=B), value(0)[:-1], value(0)[100:], np.zeros(5000, dtype=np.uint8)):
        assert tier.put_many(A, [(KEYS[0], wrong)], None, soon()) == [False]
    assert tier.healthy and tier.usage().used == 0


def test_one_key_many_times_is_one_block(opened: Opened) -> None:
    tier = opened()
    assert put(tier, *[value(0)] * 100) == [True] * 100
    assert all(equal(found, value(0)) for found in tier.get_many(A, KEYS[:1] * 100, soon()))
    assert tier.ledger.content(A) == (1, value(0).nbytes, 0)
    assert tier.delete_many(A, KEYS[:1] * 100, soon()) == [True] * 100
    assert tier.ledger.content(A) == (0, 0, 0) and not opened.gone


def test_memory_of_a_block_is_its_holders_alone(opened: Opened) -> None:
    tier = opened()
    blocks = [value(number, 300_000) for number in range(8)]
    for block in blocks:
        put(tier, block)
    held = {}
    for turn in range(60):
        number = turn % 8
        found = get(tier, KEYS[number])
        assert isinstance(found, np.ndarray)
        # a view keeps the memory, too
        held[number] = found[64:].data if turn % 2 else found[64:]
        del found
        if turn % 3 == 0:
            held.pop((turn * 5) % 8, None)
        for kept, view in held.items():
            assert np.array_equal(np.frombuffer(view, dtype=np.uint8), blocks[kept][64:])


def test_two_stores_never_share_a_folder(opened: Opened) -> None:
    opened()
    with pytest.raises(ConfigError, match=r"tiers\.disk\.path: .* is used by another store; stop that one, or name"):
        Disk(str(opened.folder), 1 << 20).start(Lru()).open(opened.gone.extend)
    program = "import sys; from cachestore.tiers.disk import Disk; from cachestore.eviction.lru import Lru\n"
    program += "Disk(sys.argv[1], 1 << 20).start(Lru()).open(print)"
    other = subprocess.run([sys.executable, "-c", program, opened.folder], capture_output=True, text=True, check=False)
    assert "is used by another store" in other.stderr
    opened.close()
    assert opened().healthy


def test_a_folder_that_cannot_be_used_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for path, why in ((file, "cannot be used"), (file / "below", "cannot be used"), (shared, "other users; run chmod")):
        with pytest.raises(ConfigError, match=rf"tiers\.disk\.path: {path} .*{why}.*name a folder that this user"):
            Disk(str(path), 1 << 20).start(Lru()).open(print)
    if os.geteuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        os.chown(foreign, 65534, 65534)
        with pytest.raises(ConfigError, match="belongs to another user"):
            Disk(str(foreign), 1 << 20).start(Lru()).open(print)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"path": "", "capacity": 1 << 20}, "path"),
        ({"path": "x", "capacity": 4096}, "capacity"),
        ({"path": "x", "capacity": 1 << 20, "ttl": -1.0}, "ttl"),
        ({"path": "x", "capacity": 1 << 20, "timeout": 0.0}, "timeout"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"tiers\.disk\..*{field}"):
        Disk(**settings)  # type: ignore[arg-type]
