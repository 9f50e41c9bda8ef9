"""All that a store promises."""

from cachestore.testing.filling import FillTests
from cachestore.testing.pins import PinTests
from cachestore.testing.provisional import ProvisionalTests
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests


class StoreTests(ReadTests, FillTests, ProvisionalTests, PutTests, PinTests):
    """All that `cachestore.store.base.Store` promises. Subclasses give the fixture `store`."""
