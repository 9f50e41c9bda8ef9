"""Sealing with AES-256-GCM: the form of a block on media that others can read or write.

A sealed block in memory is guarded by checksums, which anybody can compute. Its encrypted form (`cachestore.seal`) is
not: each plane is encrypted with a tag, and all that the header says is authenticated with it.

    secret            one for each epoch, from the key file
    namespace key     HKDF-SHA256 of the secret; info = domain, namespace id, epoch as u32
    block key         HMAC-SHA256 of the header's digest under the namespace key
    plane             AES-256-GCM under the block key; nonce = the plane's index as u96,
                      associated data = the header's digest, then the index as u32
    header's digest   SHA-256 of the encrypted form's header up to its checksum, stored checksums zeroed

A nonce must never come twice under one key, and 96 random bits are safe for 2^32 messages only. So every block has a
key of its own: two have the same only if their whole headers agree, with the nonce that is drawn for each, writer,
sequence, sizes and raw checksums, and under it the planes are numbered. That leaves no number of blocks after which a
secret must be changed; rotation is for secrets that grew old or were seen. The digest, rather than the header, is what
goes with each plane, since a header grows with its planes and would make the work of a block quadratic.

Plane offsets grow by 64 for every plane before, which is room for the tags and keeps the alignment; so the checksummed
form comes back bit by bit. The header stays readable: who sees the medium learns namespaces, keys and sizes.
"""

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.errors import ConfigError
from cachestore.seal import ALIGN, ENCRYPTED, MAX_PAYLOAD, CorruptBlock, Header, checksums

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DOMAIN = b"cachestore sealed block v1"
SECRET_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 12
MOST_PLANE = (1 << 31) - 1 - TAG_BYTES
"""What the library encrypts in one piece."""

MOST_KEY_FILE = 1 << 20

_EPOCH = re.compile("[0-9]{1,10}")
_SECRET = re.compile("[0-9a-fA-F]{64}")
assert TAG_BYTES <= ALIGN


@dataclass(frozen=True)
class SealingSettings:
    """Blocks leave memory encrypted. `key_file` has a line `<epoch> <64 hexadecimal digits>` for each secret.

    Only its owner may read it. To make one, and to add an epoch later:

        (umask 077; echo "1 $(openssl rand -hex 32)" >> sealing.keys)

    All secrets in it open blocks; that of `epoch` seals them (0: the highest). To rotate, add a line and start again;
    with several nodes give the file to all with `epoch` left at the old one, then raise it: a block of an epoch that a
    node does not know is a miss there. A line may go when what it sealed may be lost.
    """

    key_file: str
    epoch: int = 0

    def start(self) -> "Sealer":
        """Reads the secrets. ConfigError if the file cannot be used, or others may read it."""
        try:
            import cryptography  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                "sealing needs the package 'cryptography'; install it with: pip install 'kv-cachestore[sealing]'"
            ) from error
        secrets = _parsed(_private(Path(self.key_file).expanduser()))
        epoch = self.epoch or max(secrets)
        if epoch not in secrets:
            raise ConfigError(f"sealing.epoch: sealing.key_file has no epoch {epoch}, but {sorted(secrets)}")
        return Sealer(secrets, epoch)


@dataclass(frozen=True, eq=False)
class Sealer:
    """Encrypts blocks with the secret of `epoch`, and opens those of any epoch in `secrets`. For many threads."""

    secrets: Mapping[int, bytes] = field(repr=False)
    epoch: int

    def seal(self, block: Buffer) -> Buffer:
        """The encrypted form of a sealed block.

        CorruptBlock if its checksums do not hold: what is wrong must not be given a tag that says it is right.
        """
        header = Header.parse(block)
        growth = ALIGN * len(header.table)
        encrypted = header.flags & ENCRYPTED or header.key_epoch or any(header.nonce)
        if encrypted or header.payload_bytes + growth > MAX_PAYLOAD:
            raise CorruptBlock("header")
        table = header.table.copy()
        table["offset"] += _shifts(table)
        table["stored_bytes"] += np.uint64(TAG_BYTES)
        sealed = replace(
            header, table=table, flags=header.flags | ENCRYPTED, key_epoch=self.epoch,
            nonce=os.urandom(NONCE_BYTES), payload_bytes=header.payload_bytes + growth,
        )  # fmt: skip
        plain, target, out = _payload(header, block), *_empty(sealed)
        digest = _digest(sealed)
        cipher = _cipher(self.secrets[self.epoch], sealed, digest)
        if _checksums(header, plain) != table["stored_checksum"].tolist():
            raise CorruptBlock("checksum")
        for index, (data, stored) in enumerate(zip(_planes(header, plain), _planes(sealed, target), strict=True)):
            cipher.encrypt_into(_nonce(index), data, _associated(digest, index), stored)
        return _completed(sealed, target, out)

    def open(self, block: Buffer, namespace: bytes, key: bytes) -> Buffer:
        """The checksummed form of an encrypted block, in memory of its own, if it was sealed under just these names.

        CorruptBlock otherwise, beside the header's own reasons: `plain` if it is not encrypted (whoever can write to
        the medium could have put it there; so are blocks of a time before sealing), `epoch` if its secret is not
        known, `identity` if it is another block, `tag` if anything of it was changed.
        """
        from cryptography.exceptions import InvalidTag

        sealed = Header.parse(block)
        if (sealed.namespace, sealed.key) != (namespace, key):
            raise CorruptBlock("identity")
        if not sealed.flags & ENCRYPTED:
            raise CorruptBlock("plain")
        if sealed.key_epoch not in self.secrets:
            raise CorruptBlock("epoch")
        header = _opened(sealed)
        encrypted, plain, out = _payload(sealed, block), *_empty(header)
        digest = _digest(sealed)
        cipher = _cipher(self.secrets[sealed.key_epoch], sealed, digest)
        try:
            for index, (data, stored) in enumerate(
                zip(_planes(header, plain), _planes(sealed, encrypted), strict=True)
            ):
                cipher.decrypt_into(_nonce(index), stored, _associated(digest, index), data)
        except InvalidTag:
            raise CorruptBlock("tag") from None
        return _completed(header, plain, out)


def _opened(sealed: Header) -> Header:
    """The header of the checksummed form, stored checksums still missing; CorruptBlock if there can be none."""
    table = sealed.table.copy()
    shifts, least = _shifts(table), TAG_BYTES + 1
    if (table["offset"] < shifts).any() or (table["stored_bytes"] < least).any():
        raise CorruptBlock("header")
    table["offset"] -= shifts
    table["stored_bytes"] -= np.uint64(TAG_BYTES)
    payload_bytes = sealed.payload_bytes - ALIGN * len(table)
    if int((table["offset"] + table["stored_bytes"]).max()) > payload_bytes:
        raise CorruptBlock("header")
    return replace(
        sealed, table=table, flags=sealed.flags & ~ENCRYPTED, key_epoch=0, nonce=bytes(NONCE_BYTES),
        payload_bytes=payload_bytes,
    )  # fmt: skip


def _shifts(table: NDArray[np.void]) -> NDArray[np.uint64]:
    """How far each plane lies behind its place in the other form; CorruptBlock if planes overlap or are too long."""
    order = np.argsort(table["offset"], kind="stable")
    starts = table["offset"][order]
    overlaps = ((starts + table["stored_bytes"][order])[:-1] > starts[1:]).any()
    if overlaps or table["stored_bytes"].max() > MOST_PLANE:
        raise CorruptBlock("header")
    shifts = np.empty(len(table), dtype=np.uint64)
    shifts[order] = np.arange(len(table), dtype=np.uint64) * np.uint64(ALIGN)
    return shifts


def _payload(header: Header, block: Buffer) -> Buffer:
    payload = block[header.size : header.size + header.payload_bytes]
    if payload.nbytes < header.payload_bytes:
        raise CorruptBlock("truncated")
    return payload


def _ranges(header: Header) -> Iterator[slice]:
    """Where the stored bytes of the planes lie in the payload, in table order."""
    starts, sizes = header.table["offset"].tolist(), header.table["stored_bytes"].tolist()
    return (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _planes(header: Header, payload: Buffer) -> Iterator[memoryview]:
    view = payload.data
    return (view[place] for place in _ranges(header))


def _checksums(header: Header, payload: Buffer) -> list[int]:
    return checksums(payload, _ranges(header))


def _empty(header: Header) -> tuple[Buffer, Buffer]:
    """The payload of a new block, zero between its planes, and the whole of it."""
    out: Buffer = np.empty(header.size + header.payload_bytes, dtype=np.uint8)
    payload = out[header.size :]
    # memory that was somebody's else must not leave in the gaps
    starts = np.sort(header.table["offset"]).tolist()
    ends = np.sort(header.table["offset"] + header.table["stored_bytes"]).tolist()
    for end, start in zip([0, *ends], [*starts, payload.nbytes], strict=True):
        payload[end:start] = 0
    return payload, out


def _completed(header: Header, payload: Buffer, out: Buffer) -> Buffer:
    """The whole block, now that its payload is there."""
    header.table["stored_checksum"] = _checksums(header, payload)
    out[: header.size] = np.frombuffer(header.pack(), dtype=np.uint8)
    return out


def _digest(sealed: Header) -> bytes:
    table = sealed.table.copy()
    table["stored_checksum"] = 0
    return hashlib.sha256(replace(sealed, table=table).pack()[:-8]).digest()


def _cipher(secret: bytes, sealed: Header, digest: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = DOMAIN + sealed.namespace + sealed.key_epoch.to_bytes(4, "little")
    namespace_key = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=info).derive(secret)
    return AESGCM(hmac.digest(namespace_key, digest, "sha256"))


def _nonce(index: int) -> bytes:
    return index.to_bytes(NONCE_BYTES, "little")


def _associated(digest: bytes, index: int) -> bytes:
    return digest + index.to_bytes(4, "little")


def _private(path: Path) -> str:
    """The text of a file that belongs to this user or to root, and that nobody else may read."""
    try:
        # opening a pipe would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_KEY_FILE:
                raise ConfigError(f"sealing.key_file: {path} is no file of lines `<epoch> <64 hexadecimal digits>`")
            if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
                raise ConfigError(
                    f"sealing.key_file: others than this user may read or change {path}; chown it and chmod 600 it"
                )
            return os.read(descriptor, MOST_KEY_FILE).decode("ascii", "replace")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"sealing.key_file: cannot read {path}: {error.strerror}") from error


def _parsed(text: str) -> dict[int, bytes]:
    secrets: dict[int, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _EPOCH.fullmatch(words[0]) or not _SECRET.fullmatch(words[1]):
            # never the line itself: it may be half a secret
            raise ConfigError(f"sealing.key_file: line {number} is not `<epoch> <64 hexadecimal digits>`")
        epoch = int(words[0])
        if not 0 < epoch < 1 << 32 or epoch in secrets:
            raise ConfigError(f"sealing.key_file: line {number}: epochs are 1 .. 4294967295, each there once")
        secrets[epoch] = bytes.fromhex(words[1])
    if not secrets:
        raise ConfigError(
            'sealing.key_file holds no secret; make one with: (umask 077; echo "1 $(openssl rand -hex 32)" >> FILE)'
        )
    return secrets
