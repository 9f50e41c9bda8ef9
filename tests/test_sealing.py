"""Sealing: the format, that nothing but what was sealed opens, and where the secrets come from."""

import hashlib
import hmac
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import Buffer, Half, PlaneId
from cachestore.config import build
from cachestore.errors import ConfigError
from cachestore.plane_table import Stored, table_of
from cachestore.seal import DURABLE, ENCRYPTED, SHORT, CorruptBlock, Header, aligned, checksum
from cachestore.sealing import Sealer, SealingSettings
from cachestore.testing import sealed_block

A, B, KEY, OTHER = b"a" * 32, b"b" * 32, b"k" * 32, b"o" * 32
SECRETS = {1: bytes(range(32)), 7: bytes(range(32, 64))}


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(SECRETS, 7)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(CorruptBlock) as caught:
        call()
    return caught.value.reason


def resealed(block: Buffer) -> Buffer:
    """The same block under a header checksum that holds: what somebody who knows the format can write."""
    size = min(struct.unpack_from("<I", block, 8)[0], block.nbytes)
    changed = block.copy()
    changed[size - 8 : size] = np.frombuffer(
        xxhash.xxh3_64_intdigest(changed[: size - 8].tobytes()).to_bytes(8, "little"), dtype=np.uint8
    )
    return changed


def rewritten(block: Buffer, **changes: object) -> Buffer:
    """The same payload under a header in which something else stands."""
    header = Header.parse(block)
    packed = np.frombuffer(replace(header, **changes).pack(), dtype=np.uint8)  # type: ignore[arg-type]
    return np.concatenate([packed, block[header.size :]])


def laid_out(sizes: list[int], order: list[int], gaps: list[int], fill: int = 0) -> Buffer:
    """A sealed block whose planes of these sizes lie in this order, gaps of so many times 64 bytes before them."""
    random = np.random.default_rng(len(sizes))
    payload = np.full(sum(map(aligned, sizes)) + 64 * sum(gaps), fill, dtype=np.uint8)
    rows, at = {}, 0
    for index in order:
        at += 64 * gaps[index]
        data = random.integers(0, 256, sizes[index], dtype=np.uint8)
        payload[at : at + sizes[index]] = data
        rows[index] = Stored(0, at, sizes[index], checksum(data), checksum(data))
        at = aligned(at + sizes[index])
    planes = [PlaneId(index, Half.V, 3, 2, size) for index, size in enumerate(sizes)]
    table = table_of(planes, [rows[index] for index in range(len(sizes))])
    header = Header(A, KEY, OTHER, 64, table, b"w" * 16, 5, SHORT | DURABLE, len(payload), expires=9, parent=b"p" * 16)
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), payload])


layouts = st.lists(st.integers(1, 300), min_size=1, max_size=9).flatmap(
    lambda sizes: st.tuples(
        st.just(sizes),
        st.permutations(range(len(sizes))),
        st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes)),
    )
)


@given(layouts)
def test_what_is_sealed_comes_back_bit_by_bit(layout: tuple[list[int], list[int], list[int]]) -> None:
    sealer = Sealer(SECRETS, 7)
    block = laid_out(*layout)
    encrypted = sealer.seal(block)
    header, inner = Header.parse(encrypted), Header.parse(block)
    assert (header.flags, header.key_epoch) == (inner.flags | ENCRYPTED, 7) and header.nonce != bytes(12)
    assert encrypted.nbytes == header.size + header.payload_bytes == block.nbytes + 64 * len(inner.table)
    assert (header.table["stored_bytes"] == inner.table["stored_bytes"] + 16).all()
    assert not (header.table["offset"] % 64).any()
    payload = encrypted[header.size :]
    for row in header.stored(range(len(header.table))):
        assert checksum(payload[row.offset : row.offset + row.stored_bytes]) == row.stored_checksum
    assert np.array_equal(sealer.open(encrypted, A, KEY), block)


def test_the_format_is_the_one_written_down(sealer: Sealer) -> None:
    block = laid_out([100, 64, 7], [2, 0, 1], [0, 0, 0])
    encrypted = sealer.seal(block)
    header = Header.parse(encrypted)
    packed = bytearray(encrypted[: header.size].tobytes())
    for row in range(3):
        packed[192 + 48 * row + 32 : 192 + 48 * row + 40] = bytes(8)
    digest = hashlib.sha256(packed[:-8]).digest()
    info = b"cachestore sealed block v1" + A + struct.pack("<I", 7)
    namespace_key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(SECRETS[7])
    cipher = AESGCM(hmac.digest(namespace_key, digest, "sha256"))
    inner = Header.parse(block)
    for index, (row, plain) in enumerate(zip(header.stored(range(3)), inner.stored(range(3)), strict=True)):
        start = header.size + row.offset
        data = cipher.decrypt(
            struct.pack("<QI", index, 0),
            encrypted[start : start + row.stored_bytes].tobytes(),
            digest + struct.pack("<I", index),
        )
        start = inner.size + plain.offset
        assert data == block[start : start + plain.stored_bytes].tobytes()


def test_a_block_of_the_first_release_opens(sealer: Sealer) -> None:
    block = np.frombuffer(bytes.fromhex(FIRST), dtype=np.uint8)
    assert hashlib.sha256(sealer.open(block, A, KEY).tobytes()).hexdigest() == OPENED


FIRST = (
    "4b56434201000d0000010000010000006161616161616161616161616161616161616161616161616161616161616161"
    "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f"
    "6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f4000000007000000b8fc1b2a7a9ca9b9ad75fffd000000008000000000000000"
    "777777777777777777777777777777770500000000000000090000000000000070707070707070707070707070707070"
    "00000300010002000000000000000000310000000000000021000000000000000788c7b646fba7928519a1143511b268"
    "000000000000000046615bcc6700fc8b003146ce99e42ddfcb95c9b168af717ae1d652376d547c8f3787ef2dd89d183f"
    "18aad98d8703c43eac426c56cd8a7ae64100000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
)
OPENED = "ce6a73e8f0bc06bd2e7142fed61df73e7f58da53256c861653592e6008cf0a68"


def test_any_flipped_bit_is_refused_or_changes_nothing(sealer: Sealer) -> None:
    block = laid_out([70, 64], [1, 0], [0, 0])
    encrypted = sealer.seal(block)
    header = Header.parse(encrypted)
    reasons = set()
    for bit in range(8 * encrypted.nbytes):
        flipped = encrypted.copy()
        flipped[bit // 8] ^= np.uint8(1 << bit % 8)
        for hostile in (flipped, resealed(flipped)) if bit < 8 * 12 or 8 * 16 <= bit < 8 * header.size else (flipped,):
            try:
                opened = sealer.open(hostile, A, KEY)
            except CorruptBlock as corrupt:
                reasons.add(corrupt.reason)
            else:
                # gaps, and checksums of stored bytes under a header checksum that was made to fit
                assert np.array_equal(opened, block)
    assert reasons == {"foreign", "version", "header", "identity", "plain", "epoch", "tag", "truncated"}


def test_every_byte_of_every_plane_and_tag_counts(sealer: Sealer) -> None:
    encrypted = sealer.seal(laid_out([70, 64], [1, 0], [0, 0]))
    header = Header.parse(encrypted)
    for row in header.stored(range(2)):
        for at in range(header.size + row.offset, header.size + row.offset + row.stored_bytes):
            changed = encrypted.copy()
            changed[at] ^= 1
            assert reason(lambda changed=changed: sealer.open(changed, A, KEY)) == "tag"


def test_no_truncation_opens(sealer: Sealer) -> None:
    encrypted = sealer.seal(sealed_block(A, KEY))
    for length in range(encrypted.nbytes):
        assert reason(lambda length=length: sealer.open(encrypted[:length], A, KEY)) == "truncated"


def test_a_valid_block_opens_under_its_own_names_only(sealer: Sealer) -> None:
    encrypted = sealer.seal(sealed_block(A, KEY))
    for namespace, key in ((A, OTHER), (B, KEY), (KEY, A)):
        assert reason(lambda n=namespace, k=key: sealer.open(encrypted, n, k)) == "identity"


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"key": OTHER}, (A, OTHER)),
        ({"namespace": B}, (B, KEY)),
        ({"fingerprint": B}, (A, KEY)),
        ({"token_count": 63}, (A, KEY)),
        ({"expires": 0}, (A, KEY)),
        ({"flags": ENCRYPTED}, (A, KEY)),
        ({"writer": bytes(16)}, (A, KEY)),
        ({"sequence": 6}, (A, KEY)),
        ({"nonce": bytes(12)}, (A, KEY)),
        ({"key_epoch": 1}, (A, KEY)),
        ({"parent": bytes(16)}, (A, KEY)),
    ],
)
def test_a_header_that_was_rewritten_has_no_tag(
    sealer: Sealer, change: dict[str, object], asked: tuple[bytes, bytes]
) -> None:
    encrypted = sealer.seal(laid_out([100, 64], [0, 1], [0, 0]))
    assert reason(lambda: sealer.open(rewritten(encrypted, **change), *asked)) == "tag"


def test_planes_cannot_change_places(sealer: Sealer) -> None:
    encrypted = sealer.seal(laid_out([64, 64], [0, 1], [0, 0]))
    header = Header.parse(encrypted)
    swapped = encrypted.copy()
    first, second = (slice(header.size + row.offset, header.size + row.offset + 80) for row in header.stored([0, 1]))
    swapped[first], swapped[second] = encrypted[second], encrypted[first]
    assert reason(lambda: sealer.open(swapped, A, KEY)) == "tag"
    assert reason(lambda: sealer.open(rewritten(encrypted, table=header.table[::-1].copy()), A, KEY)) == "tag"


def test_planes_of_two_copies_cannot_be_mixed(sealer: Sealer) -> None:
    block = laid_out([64, 64], [0, 1], [0, 0])
    one, other = sealer.seal(block), sealer.seal(block)
    row = Header.parse(one).stored([1, 1])[1]
    start = Header.parse(one).size + row.offset
    one[start : start + 80] = other[start : start + 80]
    assert reason(lambda: sealer.open(one, A, KEY)) == "tag"


def test_a_plain_block_is_refused(sealer: Sealer) -> None:
    block = sealed_block(A, KEY)
    assert reason(lambda: sealer.open(block, A, KEY)) == "plain"
    encrypted = sealer.seal(block)
    assert reason(lambda: sealer.open(rewritten(encrypted, flags=0), A, KEY)) == "plain"


def test_a_block_of_a_secret_that_is_gone_is_refused() -> None:
    block = sealed_block(A, KEY)
    old, new = Sealer({1: SECRETS[1]}, 1), Sealer({7: SECRETS[7]}, 7)
    assert reason(lambda: new.open(old.seal(block), A, KEY)) == "epoch"
    rotated = Sealer(SECRETS, 7)
    assert np.array_equal(rotated.open(old.seal(block), A, KEY), block)
    assert np.array_equal(new.open(rotated.seal(block), A, KEY), block)
    # another secret under the same epoch
    assert reason(lambda: Sealer({1: SECRETS[7]}, 1).open(old.seal(block), A, KEY)) == "tag"


def test_no_nonce_comes_twice_and_equal_blocks_look_different(sealer: Sealer) -> None:
    block = sealed_block(A, KEY, 600, planes=1)
    sealed = [sealer.seal(block) for _ in range(2000)]
    assert len({Header.parse(data).nonce for data in sealed}) == 2000
    assert len({data[Header.parse(data).size :].tobytes() for data in sealed}) == 2000


def test_what_would_lie_is_not_sealed(sealer: Sealer) -> None:
    block = sealed_block(A, KEY)
    flipped = block.copy()
    flipped[-100] ^= 1
    assert reason(lambda: sealer.seal(flipped)) == "checksum"
    assert reason(lambda: sealer.seal(sealer.seal(block))) == "header"
    assert reason(lambda: sealer.seal(block[:-64])) == "truncated"
    header = Header.parse(block)
    table = header.table.copy()
    table["offset"][1] = table["offset"][0]
    assert reason(lambda: sealer.seal(rewritten(block, table=table))) == "header"


@pytest.mark.parametrize(
    ("field", "row", "value"),
    [("stored_bytes", 0, 16), ("offset", 1, 0), ("offset", 0, 64), ("payload_bytes", 0, 64)],
)
def test_tables_that_no_sealer_writes_are_refused(sealer: Sealer, field: str, row: int, value: int) -> None:
    encrypted = sealer.seal(laid_out([64, 64], [0, 1], [0, 0]))
    header = Header.parse(encrypted)
    table = header.table.copy()
    if field == "payload_bytes":
        table["offset"], table["stored_bytes"] = 0, 17
        hostile = rewritten(encrypted, table=table, payload_bytes=value)
    else:
        table[field][row] = value
        hostile = rewritten(encrypted, table=table)
    assert reason(lambda: sealer.open(hostile, A, KEY)) == "header"


def test_planes_that_lie_too_close_are_refused(sealer: Sealer) -> None:
    encrypted = sealer.seal(laid_out([100, 100], [0, 1], [0, 1]))
    table = Header.parse(encrypted).table.copy()
    table["offset"], table["stored_bytes"] = [0, 20], [17, 100]
    assert reason(lambda: sealer.open(rewritten(encrypted, table=table), A, KEY)) == "header"


def test_nothing_of_the_memory_around_a_block_leaves_with_it(sealer: Sealer) -> None:
    block = laid_out([10, 10, 10], [2, 0, 1], [1, 0, 2], fill=0xAB)
    for made in (sealer.seal(block), sealer.open(sealer.seal(block), A, KEY)):
        header = Header.parse(made)
        payload = made[header.size :].copy()
        for row in header.stored(range(3)):
            payload[row.offset : row.offset + row.stored_bytes] = 0
        assert not payload.any()


def test_many_threads_share_a_sealer(sealer: Sealer) -> None:
    def work(number: int) -> bool:
        blocks = [sealed_block(A, KEY, 100_000, number * 100 + turn, planes=7) for turn in range(10)]
        return all(np.array_equal(sealer.open(sealer.seal(block), A, KEY), block) for block in blocks)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))


ONE, TWO = "1 " + "0f" * 32, "2 " + "A0" * 32


def settings(path: Path, text: str, mode: int = 0o600) -> SealingSettings:
    path.write_text(text)
    path.chmod(mode)
    return build(SealingSettings, {"key_file": str(path)}, "sealing")


def test_the_highest_epoch_seals_and_all_open(tmp_path: Path) -> None:
    block = sealed_block(A, KEY)
    file = tmp_path / "sealing.keys"
    old = settings(file, f"# made today\n\n{ONE}\n").start()
    new = settings(file, f"{TWO}\n{ONE}\n").start()
    assert (old.epoch, new.epoch) == (1, 2)
    assert np.array_equal(new.open(old.seal(block), A, KEY), block)
    assert Header.parse(new.seal(block)).key_epoch == 2
    pinned = replace(settings(file, f"{ONE}\n{TWO}\n"), epoch=1).start()
    assert Header.parse(pinned.seal(block)).key_epoch == 1
    assert np.array_equal(pinned.open(new.seal(block), A, KEY), block)


def test_a_key_file_may_be_a_link_and_read_only(tmp_path: Path) -> None:
    settings(tmp_path / "data", ONE, 0o400)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert SealingSettings(str(tmp_path / "link")).start().epoch == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=r"sealing\.key_file.*chmod 600"):
        settings(tmp_path / "keys", ONE, mode).start()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "1\n",
        "0 " + "0f" * 32,
        "-1 " + "0f" * 32,
        "4294967296 " + "0f" * 32,
        "one " + "0f" * 32,
        "1 " + "0f" * 31,
        "1 " + "0f" * 33,
        "1 " + "0g" * 32,
        f"{ONE} more",
        f"{ONE}\n{ONE}",
        f"{ONE}\n01 {'ee' * 32}",
        "1\x00 " + "0f" * 32,
        "² " + "0f" * 32,
    ],
)
def test_wrong_lines_are_named_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"sealing\.key_file") as caught:
        settings(tmp_path / "keys", text).start()
    assert "0f0f" not in str(caught.value) and "eeee" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("missing", "pipe", "."):
        with pytest.raises(ConfigError, match=r"sealing\.key_file"):
            SealingSettings(str(tmp_path / name)).start()
    with pytest.raises(ConfigError, match=r"sealing\.epoch.*\[1\]"):
        replace(settings(tmp_path / "keys", ONE), epoch=3).start()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    assert "0f" not in repr(settings(tmp_path / "keys", ONE).start())


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    settings(tmp_path / "keys", ONE)
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from cachestore.errors import ConfigError; from cachestore.sealing import SealingSettings\n"
        f"try: SealingSettings({str(tmp_path / 'keys')!r}).start()\n"
        "except ConfigError as error: sys.exit('kv-cachestore[sealing]' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
