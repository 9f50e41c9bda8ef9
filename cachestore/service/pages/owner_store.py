"""A store beside which a worker owns pages: what is put there is in these as well, for other workers of the node."""

from cachestore.deadline import Deadline
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.pages.publishing import Publishing
from cachestore.store.base import TIMEOUT
from cachestore.tiers.gpu_tier import GpuTier


class OwnerStore(RemoteStore):
    """The store at `address`; blocks that are put fill pages of `tier`, an open one on `device`, as they are written.

    A page is registered when its block is published, if the store is on this node. Reads are the store's own. Call
    `sync_pages` every few minutes; with `close` the tier lets go of this namespace.
    """

    def __init__(
        self,
        address: str,
        tier: GpuTier,
        device: str = "cuda",
        *,
        codec: str = "raw",
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__(address, codec=codec, credentials=credentials)
        self._pages = NodePages(self, device, tier)
        self._publishing = Publishing(self._pages, tier, self._transports)
        self._transports = [self._publishing, *self._transports]

    def open(self) -> None:
        """Also gets ready to share memory of the device. ConfigError if it is not there."""
        super().open()
        self._pages.open()

    def sync_pages(self, *, timeout: float = TIMEOUT) -> None:
        """Tells the store of pages that came or went. Never raises for what the store does not do."""
        self._publishing.register(Deadline.after(timeout))
