"""This node as its operator sees it: what it is, how it leaves, and what it takes over from others."""

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from threading import Event, Lock, Thread
from typing import Any

from cachestore.cluster.handing_over import HandingOver
from cachestore.cluster.meeting import Meeting
from cachestore.cluster.peers import Peers
from cachestore.cluster.taking import give_up, take
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, Unavailable
from cachestore.hashing import Chain
from cachestore.service.operation import CONTRACT, Moved, NodeFacts, State, TierFacts, Unmet
from cachestore.store.tiered import TieredStore

LINGER_SECONDS = 5.0
"""How long a node that has left waits for somebody who asks how that went."""

log = logging.getLogger(__name__)


def nothing() -> None:
    """What a node does that is to stay when it has left the others."""


def alike(tables: Mapping[str, Any]) -> dict[str, bytes]:
    """A digest of each thing that must be the same on all nodes. No secret goes in that could be guessed from it."""
    service, store = tables.get("service", {}), tables.get("store", {})
    redis: Mapping[str, Any] = next((tier for tier in tables.get("tiers", ()) if tier.get("name") == "redis"), {})
    directory = tables.get("directory", {})
    server = directory.get("server", redis) if directory.get("name") == "redis" else {}
    parts = {
        # tokens stand there as digests of what is drawn at random
        "identities": [service.get("identities", ()), service.get("audience", "")],
        "redis": _without_secrets(redis.get("url", "")),
        "directory": [directory.get("name", ""), _without_secrets(server.get("url", ""))],
        "sealing": sorted(tables["sealing"]) if "sealing" in tables else None,
        "quotas": [store.get("quota"), store.get("quotas")],
        "durable": tables.get("peers", {}).get("durable"),
    }
    texts = {name: json.dumps(part, sort_keys=True, default=str) for name, part in parts.items()}
    return {name: sha256(text.encode()).digest() for name, text in texts.items()}


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


@dataclass(eq=False)
class NodeOperator:
    """Follows `service.operation.Operator`. `leave` takes the node out of the directory; `ended` ends its process.

    `peers` is None on a node that is alone; `outage` is for its facts.
    """

    tiered: TieredStore
    tables: Mapping[str, Any]
    name: str
    peers: Peers | None = None
    address: str = ""
    outage: float = 0.0
    leave: Callable[[], None] = nothing
    ended: Callable[[], None] = nothing
    _began: float = field(default_factory=time.monotonic)
    _state: State = State.SERVING
    _told: Moved = field(default_factory=Moved)
    _leaving: HandingOver | None = None
    _force: bool = False
    _unheard: int = 0
    """How many asked for a drain that have not heard how it went."""
    _heard: Event = field(default_factory=Event)
    _thread: Thread | None = None
    _lock: Lock = field(default_factory=Lock)

    def facts(self, samples: int, deadline: Deadline) -> NodeFacts:
        life = self.peers.directory.life if self.peers is not None else None
        sampled, announced = self._sampled(samples, deadline)
        return NodeFacts(
            life.node if life is not None else self.name,
            self.address,
            life.incarnation if life is not None else b"",
            self._state,
            time.monotonic() - self._began,
            self._tiers(deadline),
            version("kv-cachestore"),
            CONTRACT,
            time.time(),
            alike(self.tables),
            self.peers.members() if self.peers is not None else [],
            self.peers is not None and self.peers.directory.healthy,
            sampled,
            announced,
            self.outage,
        )

    def meet(self, deadline: Deadline) -> Sequence[Unmet]:
        return Meeting(self.peers).meet(deadline) if self.peers is not None else ()

    def drain(self, seconds: float, *, force: bool) -> Moved:
        with self._lock:
            # whatever it is handing over for balance meanwhile: a node that leaves does not wait for that
            if seconds and self._state is State.SERVING:
                self._state = State.DRAINING
                # from here on, so that nothing is put behind the look at what there is
                self.tiered.refuses = f"{self.name} is draining and takes no puts; call another node"
                told = Moved(state=self._state)
                self._leaving = (
                    HandingOver(self.tiered, self.peers, told, Deadline.after(seconds))
                    if self.peers is not None
                    else None
                )
                self._force, self._unheard = force, 1
                self._begin(told, partial(self._drain, told))
            elif seconds and self._state is State.DRAINING:
                self._force |= force
                self._unheard += 1
                if self._leaving is not None:
                    self._leaving.hurry(Deadline.after(seconds))
            return self._tell()

    def rebalance(self, seconds: float, nbytes: int) -> Moved:
        with self._lock:
            if seconds and self._state is not State.SERVING:
                raise Unavailable(f"{self.name} is {self._state}: there is nothing to spread any more")
            if seconds and not self._busy:
                told = Moved(state=self._state)
                self._begin(told, partial(self._spread, told, Deadline.after(seconds), nbytes))
            return self._tell()

    def forget(self, node: str, deadline: Deadline) -> None:
        if self.peers is None:
            raise InvalidArgument(f"{self.name} is alone and knows of no {node!r}: it has no [directory]")
        directory = self.peers.directory
        names = [life.node for life in directory.lives()]
        if node not in names:
            if not directory.healthy:
                raise Unavailable(f"the directory cannot be reached, so it cannot be told to forget {node}")
            raise InvalidArgument(f"node: the directory knows of no {node!r}; there are {', '.join(names)}")
        directory.drop(node, deadline)

    def take(
        self, namespace: bytes, incarnation: bytes, chain: Chain, deadline: Deadline, *, durable: bool
    ) -> list[bool]:
        if self.peers is None or self._state is not State.SERVING:
            raise Unavailable(f"{self.name} takes no blocks: it is {'alone' if self.peers is None else self._state}")
        there = take(self.tiered, self.peers, namespace, incarnation, chain, deadline, durable=durable)
        if self._state is not State.SERVING:
            # it may have been looked already for what this node has to hand over
            raise Unavailable(f"{self.name} takes no blocks: it is {self._state}")
        return there

    def give_up(self, namespace: bytes, incarnation: bytes, chain: Chain) -> None:
        give_up(self.tiered, namespace, incarnation, chain)

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, told: Moved, what: Callable[[], None]) -> None:
        """Does `what`, of which `told` tells, on a thread of its own. Under the lock."""
        self._told = told
        self._heard.clear()
        self._thread = Thread(target=what, name="cachestore-operator", daemon=True)
        self._thread.start()

    def _tell(self) -> Moved:
        """How far it is. Under the lock."""
        told = replace(self._told, state=self._state)
        if told.done:
            self._unheard -= 1
            if self._unheard <= 0:
                self._heard.set()
        return told

    def _spread(self, told: Moved, until: Deadline, nbytes: int) -> None:
        try:
            if self.peers is not None:
                HandingOver(self.tiered, self.peers, told, until).some(nbytes)
        except Exception:
            log.exception("[peers] nothing more is handed over")
            told.why = "handing over failed; the log of the node says why"
        finally:
            told.done = True

    def _drain(self, told: Moved) -> None:
        try:
            if self._leaving is not None:
                self._leaving.all()
        except Exception:
            log.exception("[peers] what is left is not handed over")
            told.why = "handing over failed; the log of the node says why"
        if told.durable_left and not told.why:
            told.why = self._why_left(told.durable_left)
        with self._lock:
            stays = bool(told.why) and not self._force
            if stays:
                # it is better to stay than to take along what somebody was promised
                self.tiered.refuses, self._state, told.done = "", State.SERVING, True
        if stays:
            log.warning("[peers] %s stays: %s", self.name, told.why)
            return
        # also of a node that is alone, or could hand over nothing: what it says from here on is kept by nobody
        self.tiered.end_puts(self.tiered.refuses)
        self.leave()
        with self._lock:
            self._state, told.done = State.DRAINED, True
        log.info("[peers] %s has left: %s", self.name, told)
        self._heard.wait(LINGER_SECONDS)
        self.ended()

    def _why_left(self, blocks: int) -> str:
        """Why so many durable blocks are left, and what would let them find another place."""
        left = f"{blocks} durable block{'' if blocks == 1 else 's'} found no other place"
        if self.peers is None or self._leaving is None:
            return left
        others, needed = len(self.peers.others()), self._leaving.needed
        if others < needed:
            setting = f"[peers.durable] asks for {needed} other nodes" if needed > 1 else "that takes another node"
            return f"{left}: {setting}, and {others or 'none'} {'is' if others < 2 else 'are'} alive; start more"
        out = "give other nodes room on a disk" if needed == 1 else "give other nodes more memory"
        return f"{left}; {out}{'' if self._leaving.deadline.remaining() else ', or this one a longer --deadline'}"

    def _tiers(self, deadline: Deadline) -> list[TierFacts]:
        memory = self.tiered.memory
        blocks = sum(content.blocks for content in self.tiered.ledger.contents().values())
        found = [TierFacts(memory.name, *memory.usage(), blocks, True)]
        for tier in self.tiered.lower:
            held = tier.ledger.contents().values() if tier.ledger is not None else ()
            blocks = sum(content.blocks for content in held)
            found.append(TierFacts(tier.name, *tier.usage(deadline), blocks, tier.healthy))
        return found

    def _sampled(self, samples: int, deadline: Deadline) -> tuple[int, int]:
        """How many blocks in memory were drawn by lot, and of how many of them the directory knows."""
        life = self.peers.directory.life if self.peers is not None and samples else None
        if self.peers is None or life is None:
            return 0, 0
        held = list(self.tiered.present)
        drawn: dict[bytes, list[bytes]] = {}
        for namespace, key in random.sample(held, min(samples, len(held))):
            drawn.setdefault(namespace, []).append(key)
        announced = 0
        for namespace, keys in drawn.items():
            found = self.peers.directory.lookup(namespace, keys, deadline)
            announced += sum(any(each.incarnation == life.incarnation for each in where.holders) for where in found)
        return sum(map(len, drawn.values())), announced
