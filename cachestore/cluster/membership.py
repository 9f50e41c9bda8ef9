"""A node's part in the directory: it joins when it serves, says what it holds, and leaves when it ends."""

import logging
from collections.abc import Callable
from typing import Self

from cachestore.directory.base import Directory
from cachestore.directory.pulse import Pulse
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings
from cachestore.store.settings import StoreSettings
from cachestore.store.tiered import TieredStore

log = logging.getLogger(__name__)

ANYWHERE = ("0.0.0.0", "[::]")


def address_for_others(address: str, settings: ServiceSettings, machine: str = "") -> str:
    """Where other nodes find a store that listens at `address` of a machine; ConfigError if they cannot."""
    host, _, port = address.rpartition(":")
    if settings.unix_socket:
        raise ConfigError(
            "[directory] makes one store of several nodes, which cannot reach service.unix_socket of each other; "
            "listen at service.host and service.port"
        )
    if named := settings.advertise or (machine if host in ANYWHERE else ""):
        host = f"[{named}]" if ":" in named else named
    elif host in ANYWHERE:
        raise ConfigError(
            f"[directory] tells other nodes where this one is, and service.host = {settings.host!r} is no place; "
            "name this node's host or address in service.advertise"
        )
    return f"{host}:{port}"


class Membership:
    """From `open` to `close` the store at `address` is the node `name` in an open `directory`.

    A node that was not given a name of its own is called by its address: two of one name would be one node.
    """

    def __init__(
        self, directory: Directory, store: TieredStore, name: str, address: str, queue: Callable[[], int]
    ) -> None:
        self._directory = directory
        self._store = store
        self._name = address if name == StoreSettings.node else name
        self._address = address
        self._queue = queue
        self._pulse = Pulse(directory)

    def open(self) -> None:
        """Joins, and begins to tell what the store holds, comes to hold, and loses."""
        # one moment for both: what comes later is told, what came before is held
        with self._store.index.changed:
            self._directory.join(self._name, self._address, self._store.present, self._queue)
            self._store.tell(self._directory)
        # so that it is known, and knows the others, before anybody hears that it serves
        self._directory.step()
        self._pulse.open()
        log.info("[directory] joined as %s at %s", self._name, self._address)

    def close(self) -> None:
        """Leaves: from now on nobody expects to find anything here. Closing twice is allowed."""
        if self._directory.life is None:
            return
        self._pulse.close()
        self._store.stop_telling(self._directory)
        self._directory.leave()
        log.info("[directory] %s left", self._name)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
