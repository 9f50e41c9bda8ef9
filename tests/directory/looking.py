"""What a directory says to somebody who asks it now."""

from cachestore.directory.base import Directory
from cachestore.testing.directories import holders
from cachestore.testing.tiers import A, soon


def found(directory: Directory, *keys: bytes) -> list[set[str]]:
    """Who holds these blocks, for somebody who has just looked who lives."""
    directory.step()
    return holders(directory.lookup(A, keys, soon()))
