"""The prefix tree over the blocks of one order, kept as runs: a chain costs little more than its first block."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, Self, TypeVar


class Run:
    """Consecutive blocks of one chain that came together and were used together since. Only the last can be a leaf."""

    __slots__ = ("blocks", "fresh", "parent")

    def __init__(self) -> None:
        self.blocks: list[Hashable] = []
        self.parent: Hashable | None = None
        """The block before the first one, in the order or not; None if unknown."""
        self.fresh = True
        """Whether it was never read since it came: a new block behind it came with it."""

    def front(self) -> Self:
        """A run without blocks that has the past of this one; a run that remembers more of its past adds that here."""
        front = type(self)()
        front.fresh = self.fresh
        return front


AnyRun = TypeVar("AnyRun", bound=Run)


class Runs(Generic[AnyRun]):
    """Which block is in which run, and which runs hang below which block: what every order is made of.

    A parent may come after its children, or never. Parents are what the writer of a block says they are: one that
    would close a circle is taken for unknown, as blocks in a circle would never be leaves.
    """

    def __init__(self, start: Callable[[], AnyRun]) -> None:
        self._start = start
        self._of: dict[Hashable, AnyRun] = {}
        self._inner: dict[Hashable, int] = {}
        """How many runs hang below this block, which may be in the order or not."""

    def __len__(self) -> int:
        return len(self._of)

    def _add(self, name: Hashable, parent: Hashable | None) -> AnyRun:
        """The run of a new block: the fresh one that it continues, or one of its own."""
        of, inner = self._of, self._inner
        run = of.get(parent) if parent is not None else None
        if run is None or not run.fresh or run.blocks[-1] != parent or parent in inner or name in inner:
            run = self._start()
            run.blocks.append(name)
            of[name] = run
            self._hang(run, parent)
        else:
            run.blocks.append(name)
            of[name] = run
        return run

    def _hang(self, run: AnyRun, parent: Hashable | None) -> None:
        """Learns the parent of a run that had none."""
        if parent is None or run.parent is not None:
            return
        above = self._of.get(parent)
        # nothing hangs below a run whose last block is no parent
        if above is run or (run.blocks[-1] in self._inner and any(up is run for up in self._path(above))):
            return
        if above is not None and above.blocks[-1] != parent:
            self._split(above, above.blocks.index(parent) + 1)
        run.parent = parent
        self._inner[parent] = self._inner.get(parent, 0) + 1

    def _unhang(self, run: AnyRun) -> Hashable | None:
        parent, run.parent = run.parent, None
        if parent is not None:
            left = self._inner[parent] - 1
            if left:
                self._inner[parent] = left
            else:
                del self._inner[parent]
        return parent

    def _path(self, run: AnyRun | None) -> Iterator[AnyRun]:
        """A run and those above it, upwards."""
        while run is not None:
            yield run
            run = self._of.get(run.parent)

    def _split(self, run: AnyRun, at: int) -> AnyRun:
        """Makes the first `at` blocks a run of their own, which the rest hangs below."""
        front = run.front()
        front.blocks, run.blocks = run.blocks[:at], run.blocks[at:]
        self._of.update(dict.fromkeys(front.blocks, front))
        front.parent, run.parent = run.parent, front.blocks[-1]
        self._inner[run.parent] = 1
        return front

    def _read(self, names: Sequence[Hashable]) -> list[AnyRun]:
        """The runs that the leading blocks of one chain are, in its order, cut where the chain leaves them."""
        of, found, at, count = self._of, [], 0, len(names)
        while at < count:
            run = of.get(names[at])
            if run is None:
                at += 1
                continue
            if run.blocks[0] != names[at]:
                self._split(run, run.blocks.index(names[at]))
            blocks = run.blocks
            size = len(blocks)
            if at + size > count or blocks[-1] != names[at + size - 1]:
                size = next((i for i, (a, b) in enumerate(zip(blocks, names[at:], strict=False)) if a != b), count - at)
                run = self._split(run, size)
            if at and run.parent is None:
                self._hang(run, names[at - 1])
            run.fresh = False
            found.append(run)
            at += size
        return found

    def _pop(self, run: AnyRun) -> Hashable:
        """Takes out a run's last block, a leaf. A run left empty hangs nowhere any more."""
        name = run.blocks.pop()
        del self._of[name]
        return name

    def _cut(self, name: Hashable) -> AnyRun | None:
        """Takes out any block; gives the run that has become empty by it, if one has."""
        run = self._of.get(name)
        if run is None:
            return None
        if run.blocks[0] != name:
            self._split(run, run.blocks.index(name))
        del run.blocks[0], self._of[name]
        self._unhang(run)
        if not run.blocks:
            return run
        self._hang(run, name)
        return None
