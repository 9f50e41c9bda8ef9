"""How much of a prompt the stores have: asked of mirrors of their indexes, so that no request waits for an answer."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Thread

from cachestore.hashing import Chain
from cachestore.service.auth.credentials import Credentials
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from gateway.keys import Asker, acting_for

MOST_MIRRORS = 256
"""Mirrors that are kept: there is one for each store and namespace, and each is a thread and a stream.

The namespaces asked for longest ago make room, each with its mirrors of all stores: of the one that asks none goes, or
with more stores than that every question would end the mirrors of the last.
"""


@dataclass(eq=False)
class Prefixes:
    """Mirrors of the stores, as each namespace sees them; one is begun when a namespace asks for the first time.

    A mirror that knows nothing yet, or nothing any more, says zero: then the load alone decides.
    """

    fingerprint: bytes
    credentials: Credentials = field(default_factory=Credentials.from_environment)
    _mirrors: OrderedDict[str, dict[str, tuple[Mirror, Connection]]] = field(default_factory=OrderedDict)
    """By namespace and store, the namespace asked for last at the end."""

    def stored(self, store: str, asker: Asker, tenant: str, keys: Chain) -> int:
        """How many blocks at the beginning of `keys` the store at this address has; `tenant` is shown to it."""
        namespace, credentials = asker.namespace, acting_for(self.credentials, tenant)
        mirrors = self._mirrors.setdefault(namespace, {})
        self._mirrors.move_to_end(namespace)
        if store not in mirrors:
            self._make_room()
            mirrors[store] = self._begun(store, credentials)
        mirror, connection = mirrors[store]
        # the stream is begun anew from time to time, and a tenant's token ends
        connection.credentials = credentials
        return mirror.lookup(keys).ready if mirror.fresh else 0

    def forget(self, store: str) -> None:
        """Ends what is followed of a store that is gone."""
        for mirrors in self._mirrors.values():
            if store in mirrors:
                _end(mirrors.pop(store)[0])

    def close(self) -> None:
        """Ends them all. Closing twice is allowed."""
        while self._mirrors:
            for mirror, _ in self._mirrors.popitem()[1].values():
                mirror.close()

    def _make_room(self) -> None:
        while len(self._mirrors) > 1 and sum(map(len, self._mirrors.values())) >= MOST_MIRRORS:
            for mirror, _ in self._mirrors.popitem(last=False)[1].values():
                _end(mirror)

    def _begun(self, store: str, credentials: Credentials) -> tuple[Mirror, Connection]:
        connection = Connection(store, credentials)
        mirror = Mirror(connection, self.fingerprint)
        mirror.open()
        return mirror, connection


def _end(mirror: Mirror) -> None:
    # which waits for its thread, and nobody waits for that
    Thread(target=mirror.close, name="cachestore-mirror-end", daemon=True).start()
