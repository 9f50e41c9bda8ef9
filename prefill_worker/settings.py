"""The `[prefill_worker]` section: where it listens, and the bounds it works under."""

from dataclasses import dataclass, replace
from typing import Any

from cachestore.codecs import create
from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings
from cachestore.tiers.gpu_memory import GRANULE
from prefill_worker.connecting import Connecting, Direct, OwnPages

ANYWHERE = ServiceSettings(insecure=True)
"""Under these a worker may listen wherever it likes: whether it may is decided when those of the store are known."""


def service(section: str, store: ServiceSettings, **fields: Any) -> ServiceSettings:
    """These fields, with the store's certificates and identities; ConfigError speaks of `section` where it means it."""
    try:
        return replace(store, **fields)
    except ConfigError as error:
        text = str(error)
        for name in fields:
            text = text.replace(f"service.{name}", f"{section}.{name}")
        raise ConfigError(text) from error


@dataclass(frozen=True)
class PrefillSettings:
    """Where the worker listens, and the bounds it works under; how much it computes at once, `[batch]` says.

    `port = 0` picks a free port. The blocks of a handoff are leased for `lease`: so long may whoever asked for it take
    to read them. To lease and to release take `store_timeout` at most. Planes go to the store in the form of `codec`.
    With `gpu_pages` so many bytes of the device the model is on keep a copy of what is put, for decode workers of this
    node with `gpu_pages`; 0: none.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str = ""
    longest_call: Seconds = 300.0
    lease: Seconds = 30.0
    store_timeout: Seconds = 2.0
    codec: str = "raw"
    gpu_pages: Bytes = 0

    def __post_init__(self) -> None:
        self.service(ANYWHERE)
        create(self.codec, "prefill_worker.codec")
        for name in ("store_timeout", "lease"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"prefill_worker.{name} must be more than 0 seconds, got {getattr(self, name)}")
        if self.gpu_pages and self.gpu_pages < GRANULE:
            raise ConfigError(f"prefill_worker.gpu_pages must be 0, or 2MiB or more, got {self.gpu_pages}")

    def service(self, store: ServiceSettings) -> ServiceSettings:
        """Where it listens; who may call is as in the `[service]` section beside it."""
        return service(
            "prefill_worker", store, host=self.host, port=self.port, unix_socket=self.unix_socket,
            longest_call=self.longest_call,
        )  # fmt: skip

    def connecting(self, device: str) -> Connecting:
        """How it reaches stores."""
        return OwnPages(self.codec, device, self.gpu_pages) if self.gpu_pages else Direct(self.codec)
