"""The one interface of a store, and the values it speaks in.

Everything is batched: a call takes the whole chain of a prompt. Every call has a deadline (`timeout`, in seconds),
ends by it, and raises only from `cachestore.errors`; a miss is a value. An object of this interface belongs to one
namespace.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from cachestore.block import WHOLE, Block, Buffer, Into, Part, PlaneId
from cachestore.codecs.base import Codec, Encoded
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.store.plan import BlockPlan as BlockPlan
from cachestore.store.spread import Spread

TIMEOUT = 10.0
"""Seconds a call may take when its caller does not say."""


class Purpose(StrEnum):
    """What a read is for; reads of a handoff are counted apart from reuse.

    PEER is no caller's to say: what another node reads here is counted there for whom it is.
    """

    REUSE = "reuse"
    HANDOFF = "handoff"
    PEER = "peer"


class Durability(StrEnum):
    """CACHE promises nothing. DURABLE is acknowledged only by a tier that survives a killed process."""

    CACHE = "cache"
    DURABLE = "durable"


class PutStatus(StrEnum):
    """What became of one block of a put."""

    WANTED = "wanted"
    STORED = "stored"
    ALREADY_EXISTS = "already_exists"
    IN_PROGRESS = "in_progress"
    KEPT_FIRST = "kept_first"
    NOT_KEPT = "not_kept"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a reader found of one leased block."""

    USED = "used"
    CORRUPT = "corrupt"
    UNREAD = "unread"


class Run(NamedTuple):
    """Consecutive blocks held by one tier of one node."""

    blocks: int
    tier: str
    node: str


class Lookup(NamedTuple):
    """`ready` leading blocks can be read, from `runs`; `writing` blocks right behind them are being written."""

    ready: int
    runs: tuple[Run, ...]
    writing: int = 0


class Lease(NamedTuple):
    """Protection of a chain's first `blocks` blocks from eviction for `ttl` seconds from when it was given."""

    id: bytes
    blocks: int
    ttl: float
    runs: tuple[Run, ...] = ()


class Pin(NamedTuple):
    """A block that stays in memory for `ttl` more seconds, and the bytes it takes of its namespace's quota."""

    key: bytes
    ttl: float
    nbytes: int


class PutAnswer(NamedTuple):
    """What became of block `block` of a put, and the tier that holds it if one does."""

    block: int
    status: PutStatus
    tier: str = ""


class Loaded(NamedTuple):
    """A verified block in the caller's own memory, and the tier that held it."""

    block: Block
    tier: str


class Provisional(NamedTuple):
    """Plane number `plane` of block number `block` of a chain, from before the block was published.

    `data` is raw bytes whose checksum held, in memory of the reader's own. Unless its block is handed out later, the
    plane is void.
    """

    block: int
    plane: int
    id: PlaneId
    data: Buffer


class Taker(Protocol):
    """Takes blocks a piece at a time, out of little memory: whoever copies them on does so while a cache has them."""

    @property
    def rooms(self) -> Sequence[Buffer]:
        """Where the pieces of a block are laid, its planes one behind the other; each is whole planes.

        They may be the same memory: a piece is taken before the next is laid.
        """

    def take(self, block: int, piece: int) -> None:
        """This piece of block number `block` of the chain is in its room, and its checksums hold.

        It is void unless its block is one of those that came. One that did not come whole may begin anew.
        """


class Reading(Protocol):
    """The blocks of one read, in order, ending at the first that is missing, corrupt or late.

    A block's buffers belong to the caller: they are views of what was given as `into`, or else memory of their own.
    With a part, a block has only the planes asked for. Leaving the context settles every block's outcome.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def __iter__(self) -> Iterator[Loaded]: ...

    @property
    def came(self) -> int:
        """How many blocks `fill` has brought. They hold, also where it raised; there may be more that hold then."""

    def fill(self, taker: Taker | None = None) -> int:
        """Reads the blocks into the buffers given as `into`, or else hands them to `taker`; how many came.

        It takes less time than iterating where blocks are small, and with a taker where they are copied on. A block of
        another size than the taker's rooms is corrupt to this reader. InvalidArgument without either and with both, and
        for a taker of a provisional read.
        """

    def planes(self) -> Iterator[Provisional]:
        """Of a read with `provisional`, the planes of blocks that are being written, as they come; else nothing.

        Those of one put come in the order in which it wrote them, also those that were there before the reader. They
        end when every block of the chain that was being written is published or given up, or the wait or the deadline
        is over. If nothing of the chain is being written, the first block to be is waited for, unless all are there.
        A block that is given up may be written anew; then its planes come again, into the same memory where that is
        given.

        No lease is taken and nothing is counted before the end; iterating the reading first takes what is left here.
        It hands out a block that is whole already without fetching it again, if the checksums it was published with
        are those of the planes that came, and in the very memory these came in: leave that as it is until then.
        """


class Put(Protocol):
    """An open put of many blocks. Nothing is visible before `commit`; leaving the context aborts the rest."""

    @property
    def answers(self) -> Sequence[PutAnswer]:
        """The latest answer for every block, in the order of the plans; WANTED means: write it."""

    def write(self, block: int, plane: int, data: Buffer) -> None:
        """Raw bytes of a wanted block from the start of `plane` on, in any order; they may be reused on return.

        `data` is that plane and as many behind it as it covers exactly, in canonical order: one, a slot's, a whole
        block's. Writing a block that is not wanted is a no-op. InvalidArgument if `data` ends inside a plane or runs
        beyond the last, or one of the planes came before; then none of it is taken.
        """

    def write_whole(self, blocks: Mapping[int, Into] | Spread) -> None:
        """As `write`, of all planes of blocks by number, each in one buffer or in one for each plane.

        A spread has the blocks from the first on. It takes less time where blocks are small. InvalidArgument if one is
        not such; then none of them is taken.
        """

    @property
    def codec(self) -> Codec:
        """What raw planes are coded with."""

    def write_encoded(self, block: int, plane: int, *encoded: Encoded) -> None:
        """As `write`, of planes from `plane` on that their writer has coded, with whichever codec.

        A stored checksum that does not hold fails the block. InvalidArgument if one of these planes came before, or its
        bytes cannot be the code of such a plane: of other raw bytes, none or more than these stored, or an unknown
        codec; then none of it is taken.
        """

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        """Publishes these wanted blocks (default: all) and updates `answers`; incomplete ones FAIL.

        With `lease` above zero, the answer is a lease of that many seconds on the leading blocks of the put that
        are present now, whoever wrote them. InvalidArgument if no lease may last so long; then nothing is published.
        """

    def abort(self) -> None:
        """Gives up every block that is not committed."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


class Store(Protocol):
    """A store as one namespace sees it."""

    def lookup(self, chain: Chain, *, timeout: float = TIMEOUT) -> Lookup:
        """How long the ready prefix of `chain` is, and where. Changes nothing: no lease, no recency."""

    def near(self, *, timeout: float = TIMEOUT) -> bool:
        """Whether its memory is read from here: a block is copied in less time than following it by planes takes."""

    def lease(self, chain: Chain, *, ttl: float | None = None, timeout: float = TIMEOUT) -> Lease:
        """Protects the ready prefix for `ttl` seconds (default: the store's)."""

    def release(self, lease: Lease, verdicts: Sequence[Verdict] = (), *, timeout: float = TIMEOUT) -> None:
        """Ends a lease with a verdict for each of its blocks in order; missing ones are UNREAD.

        LeaseExpired if the lease is unknown or over.
        """

    def read(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        into: Sequence[Into] | None = None,
        lease: Lease | None = None,
        wait: float = 0.0,
        provisional: bool = False,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> Reading:
        """The leading blocks of `chain`; `wait` seconds for blocks that are being written.

        With `provisional`, that wait is in `Reading.planes`, which gives what comes meanwhile, and the rest happens
        when the reading is iterated. InvalidArgument together with a `lease`, which has no block that is not there.

        Under a `lease` given, that lease is used up by the reading; otherwise one is taken.

        With `into`, one flat buffer for each block of the chain, a block's planes are laid one behind the other into
        its buffer, which they must fill exactly. Or it has several for a block, one for each of its planes.
        `tensor.view(torch.uint8).numpy()` is such a buffer, of a contiguous one-dimensional tensor. What lies in the
        buffers of a block that was not handed out is undefined. The owner of a `DecodingBuffer` may decode planes
        itself: then its block lies where the owner has it, and not there.

        InvalidArgument if there are not as many as keys, or one is not flat, contiguous, writeable bytes, or with
        `provisional` if there are several for a block. A block of another size than its buffer is corrupt to this
        reader, and stays for others.
        """

    def put(
        self,
        fingerprint: bytes,
        plans: Sequence[BlockPlan],
        *,
        after: bytes | None = None,
        codec: Codec | None = None,
        durability: Durability = Durability.CACHE,
        ttl: float | None = None,
        groups: range | None = None,
        timeout: float = TIMEOUT,
    ) -> Put:
        """Reserves the blocks of `plans`, in the order of their chain. `timeout` bounds the whole put.

        `after` is the key of the block before the first of them, None if that is the first of its chain or not known:
        a hint for eviction. `codec` encodes the planes of this put in place of the store's own.

        With `groups` this put writes only the planes of these head groups, which `Put.write` numbers among themselves.
        Other puts of the same plans in the same store write the others, as the ranks of a tensor-parallel model do; how
        many puts, and which groups each has, is theirs to choose. A block is published by the commit with which all of
        its groups are there; until then a commit is answered IN_PROGRESS, and so is at once a block of which another
        put has one of the groups, or the whole. If one of the puts gives a block up, or fails, or its time is over, the
        block fails for all; what was committed waits for what is missing until the last of their deadlines.
        InvalidArgument for groups that a block has not, and with DURABLE: put a block durably once it is there.
        """

    def pin(self, chain: Chain, ttl: float, *, timeout: float = TIMEOUT) -> int:
        """Keeps the ready prefix in memory for `ttl` seconds, cold blocks of it brought there first; how many blocks.

        Fewer than are ready where the namespace's quota of pins ends, or memory has no room.
        """

    def unpin(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        """Ends the pins of these blocks; how many there were."""

    def pins(self, *, timeout: float = TIMEOUT) -> list[Pin]:
        """All pins of the namespace, by key."""

    def delete(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        """Removes these blocks from every tier; how many there were.

        One in memory that is leased stays for its readers until they are done; one in a cold tier goes at once, and
        whoever leased it misses it.

        Unavailable if a tier could not be asked and may still have some; then repeat it.
        """

    def clear(self, tier: str = "", *, timeout: float = TIMEOUT) -> int:
        """Removes all blocks of the namespace from one tier, or from all; how many blocks there were.

        Emptying a tier demotes nothing. Unavailable as for `delete`.
        """

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        """Every figure counted in this namespace."""

    def close(self) -> None:
        """Ends the use of the store. Closing twice is allowed."""


def put_blocks(
    store: Store, fingerprint: bytes, blocks: Sequence[Block], *, timeout: float = TIMEOUT
) -> Sequence[PutAnswer]:
    """Puts whole blocks and commits them; what became of each, in order."""
    plans = [BlockPlan(block.key, block.token_count, block.planes, block.short) for block in blocks]
    with store.put(fingerprint, plans, timeout=timeout) as put:
        put.write_whole({number: block.data for number, block in enumerate(blocks)})
        put.commit()
        return put.answers
