"""Whether this node reaches the others, with what it shows them, and whether they are who the directory says."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from cachestore.cluster.peers import TOGETHER, Peers
from cachestore.deadline import Deadline
from cachestore.directory.base import Life
from cachestore.errors import CacheStoreError, ConfigError, Mismatch, Unavailable, Untrusted
from cachestore.hashing import Chain, namespace_id
from cachestore.service import convert
from cachestore.service.auth.credentials import stays_here
from cachestore.service.connection import Connection
from cachestore.service.health.canary import NAMESPACE
from cachestore.service.operation import Unmet
from cachestore.wire import store_pb2 as wire

ON_LOOPBACK = (
    "that address is reached on its own machine alone: on several machines set service.host, or service.advertise, on "
    "each to where the others find it"
)

NOBODYS = Chain(bytes(32), (bytes(32),))
"""What is asked for: no block is called that."""


def two_of(node: str, addresses: Collection[str]) -> str:
    """What is said of two nodes of one name, where they are."""
    return (
        f"two nodes are called {node} (at {' and '.join(sorted(addresses))}): others find only what the one has that "
        "joined later; give each a name of its own in store.node"
    )


@dataclass(eq=False)
class Meeting:
    """Asks the other nodes of `peers` for a block that nobody has, as it would be asked for one that is read."""

    peers: Peers
    _met: frozenset[bytes] = field(default=frozenset())
    """The lives that were reached once: what becomes of them is seen when they are read from."""

    def look(self, deadline: Deadline) -> bool:
        """For health: True once each was reached that is alive; Unavailable that names the others, or another node that
        is called as this one."""
        own = self.peers.directory.life
        if own is not None and own.node in {twin.node for twin in self.peers.twins()}:
            addresses = {member.address for member in self.peers.members() if member.name == own.node}
            raise Unavailable(two_of(own.node, addresses))
        lives = self.peers.others()
        self._met &= {life.incarnation for life in lives}
        strangers = [life for life in lives if life.incarnation not in self._met]
        unmet = self._ask(strangers, deadline)
        missing = {each.address for each in unmet}
        self._met |= {life.incarnation for life in strangers if life.address not in missing}
        if unmet:
            raise Unavailable("; ".join(f"{each.node} at {each.address}: {each.why}" for each in unmet))
        return True

    def meet(self, deadline: Deadline) -> list[Unmet]:
        """Asks each that is alive; those that were not reached, or that refused, and why."""
        return self._ask(self.peers.others(), deadline)

    def _ask(self, lives: Collection[Life], deadline: Deadline) -> list[Unmet]:
        if not lives:
            return []
        with ThreadPoolExecutor(min(TOGETHER, len(lives)), "cachestore-meeting") as pool:
            found: Sequence[Unmet | None] = list(pool.map(partial(self._met_by, deadline=deadline), lives))
        return [each for each in found if each is not None]

    def _met_by(self, life: Life, deadline: Deadline) -> Unmet | None:
        shown = self.peers.settings.credentials.credentials()
        seconds = max(min(deadline.remaining(), self.peers.settings.timeout), 1e-3)
        try:
            if life.address.startswith("unix:"):
                raise ConfigError("a node of the directory is reached by host and port")
            connection = Connection(life.address, shown.for_namespace(namespace_id(NAMESPACE), life.incarnation))
            with closing(connection):
                connection.open()
                connection.call("Lookup", wire.LookupRequest(chain=convert.chain_message(NOBODYS)), seconds)
        except CacheStoreError as error:
            # one that does not trust this node was reached
            missed = isinstance(error, Mismatch | Unavailable) and not isinstance(error, Untrusted)
            hint = f" ({ON_LOOPBACK})" if missed and stays_here(life.address) else ""
            return Unmet(life.node, life.address, f"{error}{hint}")
        return None
