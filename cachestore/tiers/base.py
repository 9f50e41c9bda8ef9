"""The contracts of tiers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.seal import CorruptBlock
from cachestore.tiers.ledger import Ledger


class Usage(NamedTuple):
    """Bytes in use and the hard cap, both as the tier itself counts them."""

    used: int
    capacity: int


Found: TypeAlias = Buffer | CorruptBlock | None
"""A sealed block; why what is there cannot be one (to be counted and deleted); or None where nothing is."""


class Departure(NamedTuple):
    """A block that a tier let go by itself. `why` is one word: evicted, demoted, ttl, corrupt, lost, withdrawn.

    `reason` says what was wrong with a corrupt one that no reader found, but the tier itself; and of one that left for
    others what these needed, as the ledger has it.
    """

    namespace: bytes
    key: bytes
    nbytes: int
    why: str
    durable: bool = False
    reason: str = ""


Departed = Callable[[Sequence[Departure]], None]


class ColdTier(Protocol):
    """Sealed blocks by (namespace id, key), in batches.

    Nothing here raises for a medium that is broken, slow or full: a block that cannot be read is None, one that cannot
    be written is False, and `healthy` says so. Every call ends by its deadline, or sooner by the tier's own time-out.
    What the sealed header says of a block's end and durability is true of it in any tier.
    """

    @property
    def name(self) -> str:
        """The tier's name in the configuration, in answers and in figures."""

    @property
    def healthy(self) -> bool:
        """False while the medium is given up; it is tried again by itself."""

    @property
    def durable(self) -> bool:
        """Whether it can keep a block so that it survives the kill of any one process."""

    @property
    def hot(self) -> bool:
        """Whether it stands above memory: it gets copies of what is read often, and nothing is written to it else."""

    @property
    def ledger(self) -> Ledger | None:
        """What it holds and let go, by namespace; None for one whose medium evicts unseen."""

    def open(self, departed: Departed) -> None:
        """Acquires the medium. ConfigError or Unavailable, with the way out, if it cannot be used.

        Blocks that it lets go by itself from then on are told to `departed`, from any thread, no lock held.
        """

    def close(self) -> None:
        """Releases what `open` acquired. Closing twice is allowed."""

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        """How many of the first keys are present without a gap. Renews nothing."""

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        """Which of the keys are present. Renews nothing."""

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        """The sealed blocks of these keys, each in memory of the caller's."""

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        """Stores sealed blocks, each atomically, for `ttl` seconds (default: the tier's); which ones are there now.

        With `durable`, True means that the block survives as `durable` says, and that it leaves by its time to live,
        by `delete_many` or by `clear` only. Without, a block that is there as a durable one stays one.
        """

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        """Removes these blocks; which of them there were. None if some may still be there.

        `why` is what the ledger says. With "corrupt", durable blocks stay: another copy may be made of a good one
        first. With "withdrawn", only those go that this process put there: not what another one had acknowledged
        meanwhile.
        """

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        """Removes all blocks of the namespace; the keys of those there were. None if some may still be there."""

    def usage(self, deadline: Deadline | None = None) -> Usage:
        """What the medium holds now; zero in use while it is not healthy, or does not say by the deadline."""


@runtime_checkable
class Listing(Protocol):
    """A tier that can say what it has."""

    def keys(self, namespace: bytes) -> Sequence[bytes]:
        """The keys of the blocks of the namespace that are there now, in any order."""


@runtime_checkable
class Keeping(Protocol):
    """A tier that knows without asking its medium what it keeps for good, as far as this process had it kept there."""

    def kept(self, namespace: bytes, keys: Sequence[bytes], ends: float = 0.0) -> list[bool]:
        """Which of these blocks are there as durable ones, until `ends`, in seconds since 1970, at least."""

    def durable_bytes(self, namespace: bytes) -> int:
        """Bytes of the durable blocks of a namespace."""

    def recount(self, namespace: bytes, deadline: Deadline) -> None:
        """Asks a medium that others write to, too: forgets what is gone from it, and ends what was left there by puts.

        Others may do nothing.
        """

    def look(self, deadline: Deadline) -> None:
        """Looks after what is kept in such a medium, as far as that is due; called often, in the background.

        What the medium lost is a departure: what somebody removed there, or what is over, is not.
        """


@runtime_checkable
class Renewing(Protocol):
    """A tier whose blocks end by a time to live of its own."""

    @property
    def name(self) -> str:
        """As in `ColdTier`."""

    @property
    def renewed_within(self) -> float:
        """Seconds after which blocks that are to stay have to be renewed again."""

    def renew(self, namespace: bytes, blocks: Sequence[tuple[bytes, float]], deadline: Deadline) -> None:
        """Lets copies that are there live for the tier's time to live from now on, and no shorter than before.

        With each key come the seconds that are left of its block: its copy is not to outlive that.
        """


@runtime_checkable
class Protecting(Protocol):
    """A tier that decides itself what leaves it, so that a lease can hold there, too. It asks no medium for that."""

    def protect(self, namespace: bytes, keys: Sequence[bytes]) -> list[bool]:
        """Which of these blocks it protects now; what is not there, or is not its to protect, it does not.

        Until `unprotect`, they neither leave for others nor end by their time to live: who asks for their bytes
        gets them, though from that time on they count as missing. Delete and Clear remove them all the same.
        """

    def unprotect(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """Ends the protection of blocks that were protected, once for each time."""


@runtime_checkable
class Demoting(Protocol):
    """A tier that evicts by itself and offers what must leave to the tier `below` it, if there is one."""

    below: ColdTier | None


@runtime_checkable
class Checkable(Protocol):
    """Settings of a tier that name something of this machine."""

    def check(self) -> None:
        """ConfigError for what would keep the tier from opening here. Nothing is made, changed or locked."""
