"""The client's side of a put: what is checked here and remembered, whichever way the planes travel."""

from collections.abc import Mapping, Sequence
from typing import Self

from cachestore.block import Buffer, Into, PlaneId, pieces
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.errors import Aborted, InvalidArgument
from cachestore.service import convert, convert_put
from cachestore.service.transport import Sink, lays
from cachestore.store.base import Durability, Lease, PutAnswer, PutStatus
from cachestore.store.checks import check_blocks, check_encoded, check_kept, check_whole, check_write, is_flat, unmet
from cachestore.store.spread import Spread


class RemotePut:
    """An open put in a store elsewhere; follows `cachestore.store.base.Put`. The `sink` codes with `codec`."""

    def __init__(self, sink: Sink, reservation: convert_put.Reservation, codec: Codec) -> None:
        self._sink: Sink | None = sink
        self._codec = codec
        self._plans = reservation.own_plans()
        self._durable = reservation.durability is Durability.DURABLE
        self._answers = list(sink.answers)
        self._written: dict[int, set[int] | frozenset[int]] = {}
        self._runs: dict[tuple[int, int, int], range] = {}

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return tuple(self._answers)

    @property
    def codec(self) -> Codec:
        return self._codec

    def write(self, block: int, plane: int, data: Buffer) -> None:
        planes, sink = self._planes(block, plane), self._open()
        if self._answers[block].status is not PutStatus.WANTED:
            return
        # by identity: the blocks of a put share their planes, and to look at each of them takes longer than the rest
        run = (id(planes), plane, data.nbytes)
        chosen = self._runs.get(run) if is_flat(data) else None
        if chosen is None:
            chosen = self._runs[run] = check_write(planes, block, plane, data)
        self._once(block, chosen)
        sink.write(block, chosen, data)

    def write_whole(self, blocks: Mapping[int, Into] | Spread) -> None:
        sink = self._open()
        if isinstance(blocks, Spread):
            blocks.check_planned(self._plans)
        else:
            check_whole(self._plans, blocks)
        numbers = range(len(blocks)) if isinstance(blocks, Spread) else blocks
        wanted = [block for block in numbers if self._answers[block].status is PutStatus.WANTED]
        before = next((block for block in wanted if self._written.get(block)), None) if self._written else None
        if before is not None:
            raise InvalidArgument(f"one of the planes of block {before} was written before")
        if self._codec.id == RAW and lays(sink):
            # by identity: the blocks of a put share their planes
            kinds = {id(plan.planes): plan.planes for plan in self._plans}
            whole = {same: frozenset(range(len(planes))) for same, planes in kinds.items()}
            self._written |= {block: whole[id(self._plans[block].planes)] for block in wanted}
            sink.lay(blocks, wanted)
            return
        for block in wanted:
            for plane, piece in enumerate(pieces(blocks[block])):
                self.write(block, plane, piece)

    def write_encoded(self, block: int, plane: int, *encoded: Encoded) -> None:
        planes, sink = self._planes(block, plane), self._open()
        if self._answers[block].status is not PutStatus.WANTED:
            return
        self._once(block, check_encoded(planes, block, plane, encoded))
        sink.write_encoded(block, plane, encoded)

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        sink = self._open()
        wanted = [answer.block for answer in self._answers if answer.status is PutStatus.WANTED]
        asked = range(len(self._answers)) if blocks is None else blocks
        check_blocks(asked, len(self._answers))
        chosen = sorted(set(asked) & set(wanted))
        # the store hears of what it can publish only, so it would grant the lease of a put that fails for the rest
        ttl = 0.0 if self._durable and unmet(self._answers, asked) else lease
        response = sink.commit(chosen, convert.milliseconds(ttl, "lease"))
        for answer in convert_put.answers(response.answers):
            self._answers[answer.block] = answer
        if self._durable:
            check_kept(self._answers, asked)
        return convert.lease(response.lease) if response.HasField("lease") else None

    def abort(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        sink.abort()
        self._answers = [
            PutAnswer(answer.block, PutStatus.FAILED) if answer.status is PutStatus.WANTED else answer
            for answer in self._answers
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    def _planes(self, block: int, plane: int) -> Sequence[PlaneId]:
        plans = self._plans
        if not 0 <= block < len(plans):
            raise InvalidArgument(f"block {block} is not one of the {len(plans)} reserved")
        planes = plans[block].planes
        if not 0 <= plane < len(planes):
            raise InvalidArgument(f"plane {plane} is not one of the {len(planes)} of block {block}")
        return planes

    def _once(self, block: int, chosen: range) -> None:
        written = self._written.setdefault(block, set())
        if not written.isdisjoint(chosen):
            raise InvalidArgument(
                f"one of the planes {chosen.start} to {chosen[-1]} of block {block} was written before"
            )
        self._written[block] |= set(chosen)

    def _open(self) -> Sink:
        if self._sink is None:
            raise Aborted("the put is over")
        return self._sink
