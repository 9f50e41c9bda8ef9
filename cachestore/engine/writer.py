"""Puts a sequence's blocks into a store while they are computed. Failures never reach the computation."""

from dataclasses import dataclass, field
from typing import Self

from cachestore.engine.sequence import Sequence
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain, fingerprint
from cachestore.store.base import TIMEOUT, BlockPlan, Lease, Put, PutAnswer, PutStatus, Store

PUT_TIMEOUT = 120.0
"""Seconds a put may stay open when its caller does not say: it follows the computation of a whole prompt."""


@dataclass
class BlockWriter:
    """One open put of a chain's full blocks that follows a prefill; `on_blocks` fits `Sequence.prefill`.

    The blocks before `first` are left out: they were loaded from the store, and nobody asks for a lease on them.
    Use it as a context: leaving gives up what `finish` did not publish. After an error of the store it does nothing.
    """

    sequence: Sequence
    store: Store
    chain: Chain
    first: int = 0
    timeout: float = PUT_TIMEOUT
    error: CacheStoreError | None = None
    _put: Put | None = field(default=None, init=False)
    _written: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        spec = self.sequence.spec
        planes = spec.planes()
        plans = [BlockPlan(key, spec.block_tokens, planes) for key in self.chain.keys[self.first :]]
        after = self.chain.keys[self.first - 1] if self.first else None
        if plans:
            try:
                self._put = self.store.put(self.chain.fingerprint, plans, after=after, timeout=self.timeout)
            except CacheStoreError as error:
                self.error = error
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def _give_up(self) -> None:
        put, self._put = self._put, None
        if put is not None:
            try:
                put.abort()
            except CacheStoreError as error:
                self.error = self.error or error

    def on_blocks(self, _: int, end: int) -> None:
        """Writes the blocks up to `end` that the store wants, slot by slot across blocks."""
        if self._put is None:
            return
        try:
            answers = self._put.answers
            # numbers of the put count from `first`
            ready = range(self._written, min(end - self.first, len(answers)))
            wanted = [number for number in ready if answers[number].status is PutStatus.WANTED]
            for index, plane in enumerate(self.sequence.spec.planes()):
                for number in wanted:
                    data = self.sequence.plane(self.first + number, plane.slot, plane.half, plane.group)
                    self._put.write(number, index, data)
            self._written = max(self._written, ready.stop)
        except CacheStoreError as error:
            self.error = error
            self._give_up()

    def finish(self, *, lease: float = 0.0) -> tuple[list[PutAnswer], Lease | None]:
        """Writes what the sequence holds and no `on_blocks` told, then publishes all.

        The answer for every block from `first`, none after an error; with `lease` seconds above zero a lease on them.
        """
        self.on_blocks(0, self.sequence.position // self.sequence.spec.block_tokens)
        if self._put is None:
            return [], None
        try:
            given = self._put.commit(lease=lease)
            answers = list(self._put.answers)
        except CacheStoreError as error:
            self.error = error
            self._give_up()
            return [], None
        # a committed put is still open until it is left
        self._give_up()
        return answers, given


def store_tail(
    sequence: Sequence, store: Store, key: bytes, *, ttl: float, after: bytes | None = None, timeout: float = TIMEOUT
) -> bool:
    """Stores the tokens behind the last full block, whose key is `after`, for `ttl` seconds; whether it worked."""
    tail = sequence.tail(key)
    plan = BlockPlan(key, tail.token_count, tail.planes, short=True)
    try:
        with store.put(fingerprint(sequence.spec), [plan], after=after, ttl=ttl, timeout=timeout) as put:
            if put.answers[0].status is PutStatus.WANTED:
                for number, data in enumerate(tail.data):
                    put.write(0, number, data)
            put.commit()
            return put.answers[0].status in (PutStatus.STORED, PutStatus.ALREADY_EXISTS, PutStatus.KEPT_FIRST)
    except CacheStoreError:
        return False
