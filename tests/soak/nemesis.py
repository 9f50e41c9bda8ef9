"""Breaks things by a seed: a fault, sometimes two or three at once, a while of peace, now and then wrong copies."""

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from cachestore.errors import CacheStoreError
from cachestore.metrics import total
from tests.soak.audit import Audit
from tests.soak.corruption import Accounts, episode
from tests.soak.faults import FAULTS, OF_NODES, Effect, Fault
from tests.soak.node import Node
from tests.soak.plan import HEAL_REDIS_SECONDS, HEAL_SECONDS, Plan, keys_of
from tests.soak.system import System


@dataclass
class Window:
    """One time of faults. `healed` is how long it took behind its end until calls went well; None if they did not."""

    names: tuple[str, ...]
    damages: bool
    begun: float
    ended: float = 0.0
    over: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The nodes that a fault was done to."""
    healed: float | None = None


@dataclass
class Nemesis:
    """Runs until the plan's time is over."""

    system: System
    plan: Plan
    audit: Audit
    windows: list[Window] = field(default_factory=list)
    accounts: Accounts = field(default_factory=Accounts)
    episodes: int = 0

    def run(self) -> None:
        """The whole schedule. Every class of fault comes once before any comes twice."""
        chance = random.Random(self.plan.seed)
        until = time.monotonic() + self.plan.minutes * 60
        faults = FAULTS + OF_NODES if self.plan.nodes > 1 else FAULTS
        first = list(faults)
        chance.shuffle(first)
        while time.monotonic() < until:
            chosen = [first.pop() if first else chance.choice(faults)]
            more = chance.choices((0, 1, 2), (70, 25, 5))[0]
            for fault in chance.sample(faults, len(faults)):
                if len(chosen) <= more and fault.part not in {one.part for one in chosen}:
                    chosen.append(fault)
            self._window(chosen, chance)
            time.sleep(chance.uniform(1.0, 2.0))
            if chance.random() < 0.4:
                self.episodes += 1
                episode(self.system, self.episodes, chance, self.accounts)
            if any(fault.name.startswith(("store killed", "store ended")) for fault in chosen):
                self.audit.some()

    def _window(self, faults: list[Fault], chance: random.Random) -> None:
        names = tuple(fault.name for fault in faults)
        window = Window(names, any(fault.damages for fault in faults), time.monotonic())
        effects = {fault.name: Effect() for fault in faults}
        with ExitStack() as stack:
            # a store that is started again finds Redis as it was
            for fault in sorted(faults, key=lambda fault: fault.part != "store"):
                stack.enter_context(fault.begin(self.system, chance, effects[fault.name]))
            time.sleep(chance.uniform(0.5, 2.0))
        window.ended = time.monotonic()
        window.seen = {name: effect.seen for name, effect in effects.items()}
        window.where = {name: tuple(effect.where) for name, effect in effects.items()}
        redis = any(fault.part in ("redis", "node") for fault in faults)
        window.healed = self._heals(HEAL_REDIS_SECONDS if redis else HEAL_SECONDS, redis, chance)
        window.over = time.monotonic()
        self.windows.append(window)

    def _heals(self, within: float, redis: bool, chance: random.Random) -> float | None:
        begun = time.monotonic()
        while time.monotonic() < begun + within:
            try:
                if all(self._well(node, redis, chance) for node in self.system.nodes):
                    return time.monotonic() - begun
            except CacheStoreError:
                pass
            time.sleep(0.02)
        return None

    def _well(self, node: Node, redis: bool, chance: random.Random) -> bool:
        node.probe.lookup(keys_of(0), timeout=0.5)
        # what only Redis has is what makes the store try it again
        node.probe.lookup(keys_of(chance.randrange(1 << 20, 1 << 21)), timeout=0.5)
        figures = node.probe.stats(timeout=0.5)
        known = len(self.system.nodes) == 1 or total(figures, "directory_lives") == len(self.system.nodes)
        return known and (not redis or total(figures, "tier_healthy", tier="redis") == 1)
