"""The contract of a codec."""

from typing import NamedTuple, Protocol, runtime_checkable

from cachestore.block import Buffer, PlaneId
from cachestore.errors import ConfigError

RAW = 0
"""The id of the identity, which every reader knows."""


class Codec(Protocol):
    """Turns the raw bytes of one plane into stored bytes and back. Pure, and safe on hostile input."""

    @property
    def id(self) -> int:
        """What the plane table calls it."""

    @property
    def lossy(self) -> bool:
        """Whether what comes back may differ from what went in. Such a codec is chosen by a spec's recipe only."""

    def encode(self, raw: Buffer, plane: PlaneId) -> Buffer | None:
        """The stored bytes, or None where coding does not pay and the plane is stored raw."""

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        """Fills all of `out`. CorruptBlock if `stored` is not the code of exactly that many bytes."""


class Parted(NamedTuple):
    """The elements of two bytes of a plane, taken apart as `cachestore_kernels.shuffle.Split` says."""

    tops: Buffer
    """The exponents."""
    rest: Buffer


@runtime_checkable
class PartedCodec(Codec, Protocol):
    """A codec that can begin and end with planes whose elements a device took apart; the stored bytes are the same."""

    def encode_parted(self, parted: Parted) -> Buffer | None:
        """As `encode`."""

    def decode_parted(self, stored: Buffer, count: int) -> Parted:
        """As `decode`, for `count` elements."""


class Encoded(NamedTuple):
    """A plane in its stored form, with what the plane table says of it."""

    codec: int
    stored: Buffer
    raw_bytes: int
    stored_checksum: int
    raw_checksum: int


def check_pays(pays: float) -> None:
    """ConfigError unless a plane that pays is no longer than before: room for its stored form was reserved for that."""
    if not 0 < pays <= 1:
        raise ConfigError(f"codecs.pays must lie between 0 and 1, got {pays}")
