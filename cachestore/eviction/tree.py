"""Who is whose child: which blocks of an order are leaves."""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class Tree:
    """The prefix tree over the blocks of one order. A parent may come after its children, or never."""

    _parents: dict[Hashable, Hashable | None] = field(default_factory=dict)
    _children: dict[Hashable, int] = field(default_factory=dict)
    """How many blocks in the order name this one their parent, whether it is in the order or not."""

    def add(self, name: Hashable, parent: Hashable | None) -> None:
        """A new block, or one whose parent is learnt only now; a known parent stays."""
        before = self._parents.get(name)
        self._parents[name] = before if before is not None else parent
        if before is None and parent is not None:
            self._children[parent] = self._children.get(parent, 0) + 1

    def remove(self, name: Hashable) -> None:
        """A block that left the order."""
        parent = self._parents.pop(name, None)
        if parent is not None:
            left = self._children[parent] - 1
            if left:
                self._children[parent] = left
            else:
                del self._children[parent]

    def leaf(self, name: Hashable) -> bool:
        """Whether no child of this block is in the order."""
        return name not in self._children

    def __contains__(self, name: Hashable) -> bool:
        return name in self._parents

    def __len__(self) -> int:
        return len(self._parents)
