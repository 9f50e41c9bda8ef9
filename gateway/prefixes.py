"""How much of a prompt the stores have: asked of mirrors of their indexes, so that no request waits for an answer."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Thread

from cachestore.hashing import Chain
from cachestore.service.auth.credentials import Credentials
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from gateway.keys import Asker, acting_for

MOST_MIRRORS = 64
"""Mirrors that are kept, the most recently asked ones: there is one for each store and namespace."""


@dataclass(eq=False)
class Prefixes:
    """Mirrors of the stores, as each namespace sees them; one is begun when a namespace asks for the first time.

    A mirror that knows nothing yet, or nothing any more, says zero: then the load alone decides.
    """

    fingerprint: bytes
    credentials: Credentials = field(default_factory=Credentials.from_environment)
    _mirrors: OrderedDict[tuple[str, str], tuple[Mirror, Connection]] = field(default_factory=OrderedDict)

    def stored(self, store: str, asker: Asker, tenant: str, keys: Chain) -> int:
        """How many blocks at the beginning of `keys` the store at this address has; `tenant` is shown to it."""
        at = store, asker.namespace
        credentials = acting_for(self.credentials, tenant)
        if at not in self._mirrors:
            self._begin(at, credentials)
        self._mirrors.move_to_end(at)
        mirror, connection = self._mirrors[at]
        # the stream is begun anew from time to time, and a tenant's token ends
        connection.credentials = credentials
        return mirror.lookup(keys).ready if mirror.fresh else 0

    def close(self) -> None:
        """Ends them all. Closing twice is allowed."""
        while self._mirrors:
            self._mirrors.popitem()[1][0].close()

    def _begin(self, at: tuple[str, str], credentials: Credentials) -> None:
        while len(self._mirrors) >= MOST_MIRRORS:
            mirror, _ = self._mirrors.popitem(last=False)[1]
            # which waits for its thread, and nobody waits for that
            Thread(target=mirror.close, name="cachestore-mirror-end", daemon=True).start()
        connection = Connection(at[0], credentials)
        mirror = Mirror(connection, self.fingerprint)
        mirror.open()
        self._mirrors[at] = mirror, connection
