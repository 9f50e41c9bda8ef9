"""The `[kv_events]` section: what is stored and removed, told in the format of vLLM's KV events.

Routers that follow the engines' events follow the store's tiers by them as well.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachestore.errors import ConfigError

if TYPE_CHECKING:
    from cachestore.service.events.publisher import Publisher
    from cachestore.store.tiered import TieredStore


@dataclass(frozen=True)
class KvEvents:
    """Where the blocks of one `namespace` are told, under `topic`: at `endpoint`, a ZeroMQ address to subscribe to.

    Empty, nothing is told; port 0 is any free one. The last `buffer` messages can be asked for again at `replay`,
    another address, if that is not empty. A subscriber that has `backlog` messages waiting misses the next. ZeroMQ
    knows no identities here: whoever reaches the port hears everything, so off loopback it must be `insecure`.
    """

    endpoint: str = ""
    replay: str = ""
    namespace: str = "default"
    topic: str = ""
    buffer: int = 10_000
    backlog: int = 100_000
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.replay and not self.endpoint:
            raise ConfigError("kv_events.replay needs kv_events.endpoint, which says where the messages go first")
        for field in ("endpoint", "replay"):
            self._check_address(field, getattr(self, field))
        if self.replay and _place(self.replay) == _place(self.endpoint) and urlsplit(self.replay).port:
            raise ConfigError(
                f"kv_events.replay and kv_events.endpoint are both {self.replay}, and only one can listen there; "
                "choose another port, 0 for a free one, or leave replay out"
            )
        if not self.namespace:
            raise ConfigError("kv_events.namespace must name the namespace whose blocks are told")
        for field in ("buffer", "backlog"):
            if getattr(self, field) < 1:
                raise ConfigError(f"kv_events.{field} must be at least 1, got {getattr(self, field)}")

    def start(self, store: "TieredStore") -> "Publisher | None":
        """What tells the events of `store`, not yet open; None if nothing is to be told. ConfigError without ZeroMQ."""
        if not self.endpoint:
            return None
        try:
            from cachestore.service.events.publisher import Publisher
        except ImportError as error:
            raise ConfigError(
                f"kv_events.endpoint needs {error.name}: pip install 'kv-cachestore[events]', or leave it empty"
            ) from error
        return Publisher(store.namespace(self.namespace), self)

    def _check_address(self, field: str, address: str) -> None:
        if not address:
            return
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", None
        if not address.startswith("tcp://") or not host or port is None:
            raise ConfigError(f"kv_events.{field} must be tcp://HOST:PORT, got {address!r}")
        if not self.insecure and not _is_loopback(host):
            raise ConfigError(
                f"kv_events.{field} = {address!r} is not loopback: whoever reaches the port could follow what is "
                "cached; use tcp://127.0.0.1:PORT, or allow it with kv_events.insecure = true"
            )


def _place(address: str) -> tuple[str | None, int | None]:
    parts = urlsplit(address)
    return parts.hostname, parts.port


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
