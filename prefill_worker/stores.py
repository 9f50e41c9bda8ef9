"""Stores, as whoever a request is for may see them: a worker acts for the tenant whose token the request brought."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock

from cachestore.service.auth.credentials import Credentials, Metadata
from cachestore.service.auth.identity import Identity
from cachestore.service.client import RemoteStore
from cachestore.store.base import Store
from prefill_worker.connecting import Connecting, Direct

MOST_IDLE = 64
"""Connections that are kept although no request uses them, the most recently used ones."""

Place = tuple[str, str, str]
"""A store's address, and the namespace and role of whom it is asked for."""


@dataclass(frozen=True)
class _Shown(Credentials):
    """This worker's credentials, with the tenant's token that `newest` gives at the time of each call."""

    newest: Callable[[], str] = str

    def metadata(self, address: str) -> Metadata:
        return Credentials.metadata(replace(self, tenant=self.newest()), address)


@dataclass(eq=False)
class _Connected:
    """One connection; `users` requests use it now. `caller` showed the token that holds longest."""

    caller: Identity
    users: int = 0
    store: RemoteStore = field(init=False)

    def token(self) -> str:
        return self.caller.tenant


@dataclass(eq=False)
class Stores:
    """Stores by address and by whom they are asked for; `own` is the one at `address`, for callers without a tenant.

    A connection belongs to one tenant: what is mapped, pooled or remembered with it never serves another. Each is made
    by `connecting`.
    """

    own: Store
    address: str
    connecting: Connecting = field(default_factory=Direct)
    _connected: OrderedDict[Place, _Connected] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def of(self, caller: Identity, address: str = "") -> Iterator[Store]:
        """The store at `address`, by default the own, to be asked for `caller` inside the context. ConfigError for
        credentials that cannot be used."""
        address = address or self.address
        if address == self.address and not caller.tenant:
            yield self.own
            return
        place = address, caller.namespace, caller.role.name
        with self._lock:
            connected = self._connected.get(place) or self._connect(place, caller)
            self._connected.move_to_end(place)
            connected.users += 1
            if caller.expires > connected.caller.expires:
                connected.caller = caller
        try:
            yield connected.store
        finally:
            with self._lock:
                connected.users -= 1
                idle = self._too_many()
            for each in idle:
                each.store.close()

    def close(self) -> None:
        """Ends the connections made here. Closing twice is allowed."""
        with self._lock:
            connected, self._connected = list(self._connected.values()), OrderedDict()
        for each in connected:
            each.store.close()

    def _connect(self, place: Place, caller: Identity) -> _Connected:
        connected = _Connected(caller)
        own = Credentials.from_environment()
        shown = _Shown(**vars(own), newest=connected.token) if caller.tenant else own
        connected.store = self.connecting.connect(place[0], shown)
        # one that cannot be opened is not kept
        connected.store.open()
        self._connected[place] = connected
        return connected

    def _too_many(self) -> list[_Connected]:
        """Takes out those that were used longest ago, beyond the bound."""
        idle = [place for place, each in self._connected.items() if not each.users]
        return [self._connected.pop(place) for place in idle[: max(len(idle) - MOST_IDLE, 0)]]
