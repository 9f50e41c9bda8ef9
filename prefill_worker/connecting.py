"""How a worker reaches stores, and what it shares with other workers of its node: what one of these plugs in.

Direct       stores alone
OwnPages     what is put lies in pages of this worker's device, too, which others may read
TheirPages   what lies in pages of others is read from there
"""

from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Protocol
from weakref import WeakSet

from cachestore.eviction.lru import Lru
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.service.pages.reader_store import ReaderStore
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_tier import GpuTier

SLABS = 16
"""Into how many pieces the pages are taken from the device. A store shares few hundred of all workers together; each is
one namespace's for as long as this worker serves it, so so many namespaces have pages."""

SYNC_SECONDS = 60.0
"""Between two times at which the store hears what became of pages although nothing was put."""


class Connecting(Protocol):
    """Makes clients of stores between `open` and `close`."""

    def connect(self, address: str, credentials: Credentials | None = None) -> RemoteStore:
        """A client of the store at `address`, not open yet; by default with the credentials of the environment."""

    def open(self) -> None:
        """ConfigError for a device that is not there."""

    def close(self) -> None:
        """Gives up what its clients share; they are closed before. Closing twice is allowed."""


@dataclass(frozen=True)
class Direct:
    """Planes go to stores in the form of `codec`."""

    codec: str = "raw"

    def connect(self, address: str, credentials: Credentials | None = None) -> RemoteStore:
        return RemoteStore(address, codec=self.codec, credentials=credentials)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class TheirPages:
    """Reads come from pages on `device` first."""

    codec: str
    device: str

    def connect(self, address: str, credentials: Credentials | None = None) -> RemoteStore:
        return ReaderStore(address, self.device, codec=self.codec, credentials=credentials)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(eq=False)
class OwnPages:
    """`capacity` bytes of `device` at most are pages, of all namespaces together."""

    codec: str
    device: str
    capacity: int
    _tier: GpuTier = field(init=False)
    _stores: WeakSet[OwnerStore] = field(default_factory=WeakSet)
    _lock: Lock = field(default_factory=Lock)
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __post_init__(self) -> None:
        self._tier = Gpu(capacity=self.capacity, device=self.device, slab=self.capacity // SLABS).start(Lru())

    def connect(self, address: str, credentials: Credentials | None = None) -> RemoteStore:
        store = OwnerStore(address, self._tier, self.device, codec=self.codec, credentials=credentials)
        with self._lock:
            self._stores.add(store)
        return store

    def open(self) -> None:
        self._tier.open(lambda departures: None)
        self._over.clear()
        self._thread = Thread(target=self._sync, name="pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            thread.join()
        self._tier.close()

    def _sync(self) -> None:
        while not self._over.wait(SYNC_SECONDS):
            with self._lock:
                stores = list(self._stores)
            for store in stores:
                store.sync_pages()
