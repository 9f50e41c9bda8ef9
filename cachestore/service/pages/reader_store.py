"""A store whose reads take from pages of the node's workers what is in any."""

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.service import convert
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.pages.sessions import LentSessions
from cachestore.service.pages.transport import Pages
from cachestore.store.base import TIMEOUT, Lookup
from cachestore.tiers.gpu_memory import memory_of
from cachestore.wire import store_pb2 as wire


class ReaderStore(RemoteStore):
    """The store at `address`; pages on `device` come first, and what is in none, or is no more, as from the store.

    With `verify` checksums are taken of every copy; into memory of the host they always are.
    """

    def __init__(
        self,
        address: str,
        device: str = "cuda",
        *,
        codec: str = "raw",
        credentials: Credentials | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__(address, codec=codec, credentials=credentials)
        self._device = device
        self._verify = verify
        self._ways = self._transports
        self._pages: Pages | None = None

    def open(self) -> None:
        """Also gets ready to open memory of the device. ConfigError if it is not there."""
        super().open()
        self._pages = Pages(LentSessions(self.connection, memory_of(self._device)), verify=self._verify)
        self._transports = [self._pages, *self._ways]

    def lookup(self, chain: Chain, *, timeout: float = TIMEOUT) -> Lookup:
        deadline = Deadline.after(timeout)
        if self._pages is not None:
            answer = self._pages.lookup(wire.LookupRequest(chain=convert.chain_message(chain)), deadline)
            if answer is not None:
                return convert.lookup(answer)
        return super().lookup(chain, timeout=deadline.remaining())
