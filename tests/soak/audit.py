"""Reads what was acknowledged as durable: whatever was killed since, it is there."""

import random
import time
from dataclasses import dataclass, field

from cachestore.errors import CacheStoreError
from tests.faults.values import right
from tests.soak.notes import Note, notes
from tests.soak.plan import BLOCKS, NAMESPACES, durable, keys_of
from tests.soak.system import System

KEPT = {"stored", "already_exists"}
PATIENCE = 10.0
SOME = 20


@dataclass
class Audit:
    """What was found so far."""

    system: System
    seed: int
    read: int = 0
    wrong: int = 0
    lost: list[tuple[str, int]] = field(default_factory=list)

    def some(self) -> None:
        """Looks at a few."""
        kept = self._kept()
        self._look(random.Random(self.seed + self.read).sample(kept, min(SOME, len(kept))))

    def all(self) -> None:
        """Looks at everything."""
        self._look(self._kept())

    def _kept(self) -> list[tuple[str, int]]:
        """Prompts whose last put was acknowledged for every block, and that nobody meant to delete since."""
        last: dict[tuple[str, int], Note] = {}
        for note in notes(self.system.notes):
            if durable(note.prompt) and note.op in ("put", "undo", "delete"):
                acknowledged = note.op == "put" and len(note.statuses) == BLOCKS and set(note.statuses) <= KEPT
                if acknowledged or note.op != "put":
                    last[note.namespace, note.prompt] = note
        return sorted(name for name, note in last.items() if note.op == "put")

    def _look(self, names: list[tuple[str, int]]) -> None:
        # one patience for all: what takes long at once is not there
        until = time.monotonic() + PATIENCE
        for name in names:
            while (found := self._found(*name)) < BLOCKS and time.monotonic() < until:
                if name not in self._kept():
                    break
                time.sleep(0.1)
            else:
                self.read += found
                if found < BLOCKS and name in self._kept():
                    self.lost.append(name)

    def _found(self, namespace: str, number: int) -> int:
        try:
            home = self.system.nodes[self.system.plan.home(number)]
            with home.tenants[namespace].read(keys_of(number), timeout=2.0) as reading:
                blocks = [block for block, _ in reading]
        except CacheStoreError:
            return 0
        self.wrong += sum(not right(block, NAMESPACES.index(namespace)) for block in blocks)
        return len(blocks)
