"""The store that an engine's configuration names."""

import os

from cachestore.errors import ConfigError
from cachestore.service.address import check_address
from cachestore.service.client import RemoteStore

ADDRESS = "CACHESTORE_ADDRESS"
"""The environment variable that names the store where the engine's configuration does not."""


def remote_store(address: str) -> RemoteStore:
    """A client of the store at `address`, or else at that of the environment; not yet open.

    Its credentials are those of the environment, so that none stand in an engine's configuration. ConfigError says
    where what is no address was given.
    """
    where = "address" if address else ADDRESS
    address = address or os.environ.get(ADDRESS, "")
    if not address:
        raise ConfigError(f"address: name the store, as host:port or unix:/path, here or in {ADDRESS}")
    try:
        check_address(address)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return RemoteStore(address)
