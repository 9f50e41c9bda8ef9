"""The client's side of a read.

What breaks while blocks arrive goes on by another transport, under the same lease; if none is left the read ends
early, as with any other miss. Only what keeps it from starting is raised.
"""

from collections.abc import Iterator, Sequence
from typing import Self

from cachestore.block import Into, Part
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, InvalidArgument, Unavailable
from cachestore.hashing import Chain
from cachestore.seal import CorruptBlock
from cachestore.service import convert
from cachestore.service.transport import Asked, Broken, Followed, Follows, Source, Transport, fills
from cachestore.service.words import PURPOSE, VERDICT
from cachestore.store.apart import apart, into_one
from cachestore.store.base import Lease, Loaded, Provisional, Purpose, Taker, Verdict
from cachestore.store.checks import NOTHING_TO_FILL, TAKEN_LATER, in_one
from cachestore.store.handing import Handed, Handing
from cachestore.wire import store_pb2 as wire

RELEASE_SECONDS = 1.0
"""How long the end of a reading may wait for its Release, if the deadline is that far away."""

GRACE_SECONDS = 0.1
"""What a Release gets when the deadline has passed already."""


class RemoteReading:
    """The verified blocks of one read from a store elsewhere; follows `cachestore.store.base.Reading`."""

    def __init__(
        self,
        transports: Sequence[Transport],
        chain: Chain,
        part: Part,
        into: Sequence[Into] | None,
        deadline: Deadline,
    ) -> None:
        self._transports = list(transports)
        self._chain = chain
        self._part = part
        self._into = into
        self._deadline = deadline
        self._source: Source | None = None
        self._provisional = False
        self._followed: Followed | None = None
        self._planes: Iterator[Provisional] = iter(())
        self._verdicts: list[Verdict] = []
        self._fills = True
        """Whether many blocks come at once: not any more where the first of them did not."""
        self._closed = False
        self.came = 0

    def open(self, lease: Lease | None, wait: float, purpose: Purpose, *, provisional: bool = False) -> None:
        """Asks for the blocks and waits for the lease on them; raises if the store cannot be asked.

        Of a provisional read that is left to `planes`, if there is a transport for it; else it has none.
        """
        request = wire.ReadRequest(
            chain=convert.chain_message(self._chain),
            part=convert.part_message(self._part),
            lease=lease.id if lease else b"",
            wait_ms=convert.milliseconds(wait, "wait"),
            purpose=PURPOSE.number(purpose),
        )
        self._provisional = provisional
        follows = list[int]()
        if provisional:
            follows = [number for number, transport in enumerate(self._transports) if isinstance(transport, Follows)]
        if follows:
            del self._transports[: follows[0]]
            self._follow(request, wait)
        else:
            self._source = self._begin(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def planes(self) -> Iterator[Provisional]:
        """As `cachestore.store.base.Reading`; raises what keeps the read from starting."""
        return self._planes

    def __iter__(self) -> Iterator[Loaded]:
        for _ in self._planes:
            pass
        if self._followed is not None and not self._closed:
            self._source = self._source or self._followed.source
        while (number := len(self._verdicts)) < len(self._chain):
            try:
                loaded = self._load(number)
            except CorruptBlock:
                self._verdicts.append(Verdict.CORRUPT)
                return
            if loaded is None:
                return
            self._verdicts.append(Verdict.USED)
            yield loaded

    def fill(self, taker: Taker | None = None) -> int:
        if taker is not None and self._provisional:
            raise InvalidArgument(TAKEN_LATER)
        handing: Handing | None = None
        if self._into is not None and taker is None:
            targets: Sequence[Into | Handed] = self._into
        elif self._into is None and taker is not None:
            handing = Handing(taker, len(self._chain))
            self._into, targets = handing.into, handing.targets
        else:
            raise InvalidArgument(NOTHING_TO_FILL)
        blocks = iter(self)
        while True:
            self._filled(targets)
            if next(blocks, None) is None:
                return self.came
            if handing is not None:
                handing.hand(len(self._verdicts) - 1)
            self.came += 1

    def close(self) -> None:
        """Ends the read and tells what became of each block. Closing twice is allowed; a lost Release is not told."""
        if self._closed:
            return
        self._closed = True
        lease = b""
        if self._followed is not None:
            self._followed.close()
            # the store may have granted what is given up here
            lease, self._source = self._followed.lease, self._source or self._followed.source
        if self._source is not None:
            lease = self._source.lease
            self._source.close()
        if not lease:
            return
        request = wire.ReleaseRequest(lease=lease, verdicts=VERDICT.numbers(self._verdicts))
        try:
            timeout = max(GRACE_SECONDS, min(RELEASE_SECONDS, self._deadline.remaining()))
            self._transports[0].release(request, timeout)
        except CacheStoreError:
            # without it the lease runs out, and its blocks count as expired
            return

    def _follow(self, request: wire.ReadRequest, wait: float) -> None:
        first = self._transports[0]
        assert isinstance(first, Follows)
        request.provisional = True
        asked = Asked(self._chain, self._part, request)
        self._followed = first.follow(asked, in_one(self._into), wait, self._deadline)
        self._planes = self._followed.planes()

    def _begin(self, request: wire.ReadRequest) -> Source:
        """The first transport that takes it; those before it are not asked again in this read."""
        asked = Asked(self._chain, self._part, request)
        while True:
            source = self._transports[0].read(asked, self._deadline)
            if source is not None:
                return source
            if len(self._transports) == 1:
                raise Unavailable(f"no way to the store is open for this read (tried {self._transports[0].name} last)")
            del self._transports[0]

    def _filled(self, into: Sequence[Into | Handed]) -> None:
        """Takes what comes all at once, up to a block that must be loaded."""
        source = self._source
        if self._closed or not self._fills or not fills(source):
            return
        self._fills = False
        while came := source.fill(number := len(self._verdicts), into[number:]):
            self._verdicts += [Verdict.USED] * came
            self.came += came
            self._fills = True

    def _load(self, number: int) -> Loaded | None:
        while self._source is not None and not self._closed:
            try:
                loaded = self._source.load(number, into_one(self._into, number))
                return None if loaded is None else apart(loaded, self._into, number)
            except Broken:
                if not self._goes_on(number):
                    return None
        return None

    def _goes_on(self, number: int) -> bool:
        """Asks the next transport for the blocks from `number` on; whether there is one that took it."""
        if len(self._transports) == 1 or self._source is None:
            return False
        self._source.close()
        del self._transports[0]
        request = wire.ReadRequest(
            chain=convert.chain_message(self._chain),
            part=convert.part_message(self._part),
            lease=self._source.lease,
            resume=wire.Resume(key=self._chain.keys[number]),
        )
        try:
            self._source = self._begin(request)
        except CacheStoreError:
            return False
        return True
