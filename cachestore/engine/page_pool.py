"""Who holds which page of the engine's memory: references, the prefix index, and what leaves first.

A page holds one block. It is in one of three states: **referenced** by one sequence or several, **cached** (nobody's,
but named by a key, so that the next prompt with that prefix finds it), or **free**. A page that many hold is copied
before one of them writes it. Keys belong to a namespace, and so do the pages they name.

Not safe for use by several threads at once: it belongs to the thread that runs the model.
"""

from collections import OrderedDict
from collections.abc import Sequence

from cachestore.errors import Overloaded
from cachestore.metrics import Counters

Name = tuple[bytes, bytes]
"""Namespace and key of a block."""


class PagePool:
    """`pages` pages by number. Always free + cached + referenced = pages.

    `counters`: pages_evicted are cached pages that gave way, and kept_first the blocks that were computed although
    another page had them already.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.counters = Counters()
        # the page freed last is the one that caches of the processor still hold
        self._free = list(range(pages - 1, -1, -1))
        self._held: dict[int, int] = {}
        self._named: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Pages that nobody references and a key names."""
        return len(self._cached)

    @property
    def referenced(self) -> int:
        """Pages that sequences hold."""
        return len(self._held)

    @property
    def available(self) -> int:
        """How many pages `take` can give."""
        return len(self._free) + len(self._cached)

    def references(self, page: int) -> int:
        """How many hold the page."""
        return self._held.get(page, 0)

    def match(self, namespace: bytes, keys: Sequence[bytes]) -> int:
        """How many leading blocks of a chain have pages. Changes nothing."""
        count = 0
        while count < len(keys) and (namespace, keys[count]) in self._named:
            count += 1
        return count

    def lookup(self, namespace: bytes, keys: Sequence[bytes]) -> list[int]:
        """References to the pages of the leading blocks that `match` counts."""
        pages = [self._named[namespace, key] for key in keys[: self.match(namespace, keys)]]
        self.share(pages)
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more reference to each of these pages, which are referenced or cached."""
        for page in pages:
            self._cached.pop(page, None)
            self._held[page] = self._held.get(page, 0) + 1

    def take(self, count: int) -> list[int]:
        """References to `count` pages with nothing in them, cached ones evicted for it; all or none.

        Overloaded if so many are not to be had. What lies in such a page is what its last holder left.
        """
        if count > self.available:
            raise Overloaded(f"{count} pages are wanted, {self.available} of {self.pages} are free or only cached")
        while len(self._free) < count:
            self._evict()
        pages = [self._free.pop() for _ in range(count)]
        self._held.update(dict.fromkeys(pages, 1))
        return pages

    def _evict(self) -> None:
        page, _ = self._cached.popitem(last=False)
        del self._named[self._names.pop(page)]
        self._free.append(page)
        self.counters.add("pages_evicted")

    def name(self, page: int, namespace: bytes, key: bytes) -> int:
        """Enters a referenced page, now full, under its key; the page to go on with.

        That is another one if the block has a page already: the first stays, and the reference moves over to it.
        """
        name = (namespace, key)
        first = self._named.setdefault(name, page)
        if first != page:
            self.share([first])
            self.release([page])
            self.counters.add("kept_first")
        else:
            self._names[page] = name
        return first

    def shared(self, page: int) -> bool:
        """Whether others may read the referenced `page`, so that it must be copied before a write."""
        return self._held[page] > 1 or page in self._names

    def release(self, pages: Sequence[int]) -> None:
        """Gives one reference to each of these pages back, those of a sequence in its order.

        Later blocks leave before the ones they build on.
        """
        for page in reversed(pages):
            self._held[page] -= 1
            if self._held[page]:
                continue
            del self._held[page]
            if page in self._names:
                self._cached[page] = None
            else:
                self._free.append(page)

    def unname(self, pages: Sequence[int]) -> None:
        """Drops the names of these referenced pages: nobody finds them any more, and they are free once released."""
        for page in pages:
            name = self._names.pop(page, None)
            if name is not None:
                del self._named[name]

    def forget(self, namespace: bytes | None = None) -> int:
        """Drops the names of one namespace, or of all; how many. Referenced pages go when they are released."""
        gone = [name for name in self._named if namespace in (None, name[0])]
        for name in gone:
            page = self._named.pop(name)
            del self._names[page]
            if page in self._cached:
                del self._cached[page]
                self._free.append(page)
        return len(gone)
