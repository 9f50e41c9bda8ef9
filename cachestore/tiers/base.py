"""The contracts of tiers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cachestore.block import Buffer
from cachestore.deadline import Deadline


class Usage(NamedTuple):
    """Bytes in use and the hard cap, both as the tier itself counts them."""

    used: int
    capacity: int


class ColdTier(Protocol):
    """Sealed blocks by (namespace id, key), in batches.

    Nothing here raises for a medium that is broken, slow or full: a block that cannot be read is None, one that cannot
    be written is False, and `healthy` says so. Every call ends by its deadline, or sooner by the tier's own time-out.
    """

    @property
    def name(self) -> str:
        """The tier's name in the configuration, in answers and in figures."""

    @property
    def healthy(self) -> bool:
        """False while the medium is given up; it is tried again by itself."""

    @property
    def durable(self) -> bool:
        """Whether what it acknowledged survives the kill of any one process."""

    def open(self) -> None:
        """Acquires the medium. ConfigError or Unavailable, with the way out, if it cannot be used."""

    def close(self) -> None:
        """Releases what `open` acquired. Closing twice is allowed."""

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        """How many of the first keys are present without a gap. Renews nothing."""

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        """Which of the keys are present. Renews nothing."""

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Buffer | None]:
        """The sealed blocks of these keys, each in memory of the caller's."""

    def put_many(
        self, namespace: bytes, blocks: Sequence[tuple[bytes, Buffer]], ttl: float | None, deadline: Deadline
    ) -> list[bool]:
        """Stores sealed blocks, each atomically, for `ttl` seconds (default: the tier's); which ones are there now."""

    def delete_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool] | None:
        """Removes these blocks; which of them there were. None if some may still be there."""

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        """Removes all blocks of the namespace; the keys of those there were. None if some may still be there."""

    def usage(self) -> Usage:
        """What the medium holds now; zero in use while it is not healthy."""
