"""What Redis keeps for good that this process had acknowledged there: put, taken back, and looked after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.tiers import redis_durable, redis_removal
from cachestore.tiers.base import Departed, Departure
from cachestore.tiers.redis_blocks import cache_name
from cachestore.tiers.redis_durable import Acknowledgement, Outcome
from cachestore.tiers.redis_kept import Kept, Lasting
from cachestore.tiers.redis_removal import Fate
from cachestore.tiers.redis_servers import Servers

LOOK_SECONDS = 60.0
"""How often blocks are looked after that nobody misses: long before the notes on those that were removed are gone."""

TOGETHER = 1000
"""Blocks that are asked about at once."""


@dataclass(eq=False)
class Keeper:
    """The durable blocks on these servers. Those that Redis lost are told to `departed`, no lock held."""

    servers: Servers
    acknowledgement: Acknowledgement
    departed: Departed = lambda departures: None
    kept: Kept = field(default_factory=Kept)
    _doubtful: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Names and stamps of durable blocks whose put failed after their time to live was taken away."""

    def put(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        fitting: Mapping[bytes, Buffer],
        deadline: Deadline,
    ) -> list[bool]:
        """Has blocks kept for good, of which `fitting` are worth writing, by name; which of them are so now."""
        names = list(fitting)
        doubtful: set[tuple[bytes, bytes]] = set()
        rest = fitting, self.acknowledgement, deadline.at, doubtful
        answers = self.servers.each(names, deadline.at, Outcome.NOT, redis_durable.put, *rest)
        # only now: while the put goes on, nobody may take its blocks back
        self._doubtful |= doubtful
        there = dict(zip(names, answers, strict=True))
        outcomes = [there.get(cache_name(namespace, key), Outcome.NOT) for key, _ in blocks]
        came = {key: data for (key, data), outcome in zip(blocks, outcomes, strict=True) if outcome}
        anew = {key for (key, _), outcome in zip(blocks, outcomes, strict=True) if outcome is Outcome.ANEW}
        self.kept.came(namespace, came, anew)
        return [bool(outcome) for outcome in outcomes]

    def withdraw(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool] | None:
        """Removes blocks, durable ones only if this process alone made them so; which there were, None if unknown."""
        until = self.servers.soon(len(keys), deadline)
        names = [cache_name(namespace, key) for key in keys]
        removed = self.servers.each(names, until, None, redis_removal.unlink)
        ours = {key: block for key, block in self.kept.there(namespace, keys).items() if block.stamp}
        stamps = {cache_name(namespace, key): block.stamp for key, block in ours.items()}
        taken = self.servers.each(list(stamps), until, None, redis_durable.take_back, stamps)
        durable = dict(zip(ours, taken, strict=True))
        self.kept.went(namespace, {key: block for key, block in ours.items() if durable[key]})
        if None in removed or None in taken:
            return None
        return [bool(there or durable.get(key)) for key, there in zip(keys, removed, strict=True)]

    def recount(self, namespace: bytes, every: float, deadline: Deadline) -> None:
        """Asks what became of the namespace's blocks, if nobody did so in the last `every` seconds."""
        self._end_doubtful(deadline)
        if self.kept.due(namespace, every):
            self._ask(namespace, self.kept.there(namespace), deadline)

    def look(self, deadline: Deadline) -> None:
        """Asks what became of blocks that were missed, and now and then of all; ends what puts left there."""
        self._end_doubtful(deadline)
        for namespace, keys in self.kept.take_missed().items():
            if self._ask(namespace, self.kept.there(namespace, list(keys)), deadline):
                # where one is lost, others are
                self.recount(namespace, 0.0, deadline)
        for namespace in self.kept.namespaces():
            self.recount(namespace, LOOK_SECONDS, deadline)

    def _ask(self, namespace: bytes, before: Mapping[bytes, Lasting], deadline: Deadline) -> int:
        """Forgets those of these blocks that are gone, and tells of those that are lost; how many these are."""
        lost: list[Departure] = []
        keys = list(before)
        for start in range(0, len(keys), TOGETHER):
            asked = keys[start : start + TOGETHER]
            names = [cache_name(namespace, key) for key in asked]
            until = self.servers.soon(len(names), deadline)
            fates = dict(zip(asked, self.servers.each(names, until, None, redis_removal.fates), strict=True))
            gone = {key: before[key] for key, fate in fates.items() if fate in (Fate.REMOVED, Fate.LOST)}
            # what was put again meanwhile is another block
            gone = self.kept.went(namespace, gone)
            lost += [
                Departure(namespace, key, block.nbytes, "lost", durable=True)
                for key, block in gone.items()
                if fates[key] is Fate.LOST
            ]
        if lost:
            self.departed(lost)
        return len(lost)

    def _end_doubtful(self, deadline: Deadline) -> None:
        """Removes what stays for good though its put did not get to know that."""
        for name, stamp in list(self._doubtful):
            until = self.servers.soon(1, deadline)
            if self.servers.each([name], until, None, redis_durable.take_back, {name: stamp}) != [None]:
                self._doubtful.discard((name, stamp))
