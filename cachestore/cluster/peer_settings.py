"""The `[peers]` section: how a node reads what other nodes of the directory hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError
from cachestore.service.auth.credentials import Credentials

OTHERS = "*"
"""In a table of namespaces: all that are not named."""

MOST_REPLICAS = 16
"""Nodes that may be asked to have the same block: more would be a copy of everything everywhere."""


@dataclass(frozen=True)
class PeerCredentials:
    """What this node shows to others: files, as in `CACHESTORE_CA` and the like, which hold where nothing is set."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    token_file: str = ""
    server_name: str = ""

    def credentials(self) -> Credentials:
        """In the form that clients take."""
        if not any((self.ca, self.cert, self.key, self.token_file, self.server_name)):
            return Credentials.from_environment()
        return Credentials(
            ca=self.ca, cert=self.cert, key=self.key, token_file=self.token_file, server_name=self.server_name
        )


@dataclass(frozen=True)
class PeerSettings:
    """Another node has `timeout` to begin a read, and then for each block: else it is left alone for a while.

    A block gets a copy in this node's memory with its `copy_after`th read from another's. Blocks of more than `largest`
    bytes are not read from there.

    New blocks of a namespace are copied until as many nodes have them as `replicas` says for its name, or for "*",
    which is every other namespace. In the same way `durable` says how many nodes, this one included, must keep durable
    blocks of a namespace in memory: then neither disk nor Redis is asked for them.
    """

    timeout: Seconds = 2.0
    copy_after: int = 1
    largest: Bytes = 256 << 20
    replicas: Mapping[str, int] = field(default_factory=dict)
    durable: Mapping[str, int] = field(default_factory=dict)
    credentials: PeerCredentials = field(default_factory=PeerCredentials)

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 60:
            raise ConfigError(f"peers.timeout must be more than 0 seconds and at most a minute, got {self.timeout:g}")
        if self.copy_after < 1:
            raise ConfigError(f"peers.copy_after must be at least 1, got {self.copy_after}")
        if self.largest < 4096:
            raise ConfigError(f"peers.largest must be at least 4KiB, got {self.largest}")
        for namespace, nodes in self.replicas.items():
            if not namespace or not 1 <= nodes <= MOST_REPLICAS:
                raise ConfigError(
                    f"peers.replicas.{namespace} must name a namespace, or * for all others, and 1 to {MOST_REPLICAS} "
                    f"nodes, got {nodes}"
                )
        for namespace, nodes in self.durable.items():
            if not namespace or not 2 <= nodes <= MOST_REPLICAS:
                raise ConfigError(
                    f"peers.durable.{namespace} must name a namespace, or * for all others, and 2 to {MOST_REPLICAS} "
                    f"nodes, since one alone survives nothing, got {nodes}; left out, disk or Redis acknowledges"
                )
        # what does not fit together is said at the start
        self.credentials.credentials()
